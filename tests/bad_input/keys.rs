//! Every key of the configuration, and every number of a model's config.json, with values that make no sense. The keys
//! are taken from what the program writes, so that a new one cannot be forgotten.

use super::table::{Table, answer, anywhere, bounded};
use super::*;
use neva::checkpoint::arch;
use neva::config::Config;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::panic::catch_unwind;

/// What is given to every key, as a word of the command line.
const WORDS: [&str; 16] = [
    "",
    "null",
    "true",
    "word",
    "[1, 2]",
    "{a: 1}",
    "[",
    "-1",
    "0",
    "1",
    "1.5",
    ".nan",
    "-.inf",
    "1e300",
    "18446744073709551615",
    "18446744073709551616",
];

/// The dotted keys of a configuration as it is written.
fn keys(yaml: &str) -> Vec<String> {
    let (mut path, mut all): (Vec<(usize, &str)>, _) = (vec![], vec![]);
    for line in yaml.lines() {
        let text = line.trim_start();
        let Some((key, value)) = text.split_once(':').filter(|_| !text.starts_with('-')) else { continue };
        let depth = line.len() - text.len();
        path.retain(|(d, _)| *d < depth);
        path.push((depth, key));
        let dotted: Vec<&str> = path.iter().map(|(_, key)| *key).collect();
        all.push((dotted.join("."), value.is_empty()));
    }
    // A key that another one continues is a section.
    let sections: Vec<String> = all.iter().map(|(key, _)| format!("{key}.")).collect();
    let leaf = |key: &&(String, bool)| {
        let begin = format!("{}.", key.0);
        !all.iter().any(|(other, _)| other.starts_with(&begin))
    };
    assert_eq!(sections.len(), all.len());
    all.iter().filter(leaf).map(|(key, _)| key.clone()).collect()
}

#[test]
fn every_key_of_the_configuration_takes_or_refuses_every_kind_of_value() {
    let dir = Path::new("/data");
    let yaml = tiny::yaml(dir);
    let parse = |words: &[String]| Config::parse("a.yaml", &yaml, words);
    let keys = keys(&parse(&[]).unwrap().resolved_yaml());
    assert!(keys.len() > 75, "{keys:?}");
    let mut table = Table::new("keys.txt", "Each key of the configuration with each kind of value.");
    for key in &keys {
        table.section(key);
        let mut taken = vec![];
        for word in WORDS {
            let text = format!("{key}={word}");
            let parsed = catch_unwind(|| parse(std::slice::from_ref(&text)))
                .unwrap_or_else(|_| panic!("{text}: a panic"));
            match parsed {
                Ok(_) => taken.push(if word.is_empty() { "(empty)" } else { word }),
                Err(error) => {
                    let error = error.to_string();
                    let (place, message) = error.split_once(": ").unwrap();
                    assert!(place == "command line" || place.starts_with("a.yaml"), "{text}: {error}");
                    assert!(message.starts_with("model") || message.starts_with(key), "{text}: {error}");
                    assert!(!error.contains('\n'), "{text}: {error}");
                    // Its own key stands above.
                    let own = format!("{key}: ");
                    table.line(word, message.strip_prefix(own.as_str()).unwrap_or(message));
                }
            }
        }
        table.line("taken:", &taken.join("  "));
    }
    table.finish();
}

/// Values at the ends of what keys take. Of each key the least and the greatest that it takes are tried in a run.
const ENDS: [&str; 14] = [
    "1e300",
    "18446744073709551615",
    "16777216",
    "1048576",
    "65536",
    "4096",
    "1024",
    "256",
    "16",
    "1",
    "0.999999",
    "1e-300",
    "0",
    "-1",
];

/// Keys whose greatest value is a run without an end, asks for what another machine may have, or takes long: of these only 1
/// is tried.
const ONLY_ONE: [&str; 6] = [
    "trainer.max_steps",
    "trainer.threads",
    "model.num_layers",
    "model.ffn_hidden_size",
    "model.mm_cfg.vision_encoder.num_layers",
    "model.mm_cfg.vision_encoder.ffn_hidden_size",
];

/// A short run: what is to be seen shows in two steps.
const SHORT: [&str; 3] = ["trainer.max_steps=2", "trainer.limit_val_batches=1", "trainer.threads=1"];

#[test]
fn what_a_key_takes_at_its_ends_trains_or_is_refused() {
    let dir = scratch("ends");
    recipe(&dir);
    let yaml = fs::read_to_string(dir.join("recipe.yaml")).unwrap();
    let parse = |word: String| Config::parse("a.yaml", &yaml, &[word]);
    let resolved = parse("model.seed=1".to_string()).unwrap().resolved_yaml();
    let mut table = Table::new(
        "ends.txt",
        "A run with the least and the greatest value that each key of a number takes.",
    );
    for key in keys(&resolved) {
        let taken: Vec<&str> = ENDS.into_iter().filter(|end| parse(format!("{key}={end}")).is_ok()).collect();
        let ends: BTreeSet<&str> = taken.first().into_iter().chain(taken.last()).copied().collect();
        // What takes a word as well is no number.
        if ends.is_empty() || parse(format!("{key}=word")).is_ok() {
            continue;
        }
        table.section(&key);
        for end in ends.into_iter().filter(|end| !ONLY_ONE.contains(&key.as_str()) || *end == "1") {
            let _ = fs::remove_dir_all(dir.join("run"));
            let word = format!("{key}={end}");
            let outcome = bounded(&train(&dir, "run", &[SHORT.as_slice(), &[&word]].concat()));
            table.line(end, &anywhere(&answer(&word, outcome), &dir));
        }
    }
    table.finish();
}

/// What is given to every value of a config.json.
fn nonsense() -> Vec<Value> {
    vec![
        json!(null),
        json!("word"),
        json!([1]),
        json!({}),
        json!(true),
        json!(-1),
        json!(0),
        json!(0.5),
        json!(1e300),
        json!(4294967296u64),
        json!(u64::MAX),
    ]
}

/// The paths to the leaves of a value.
fn leaves(value: &Value, path: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                path.push(key.clone());
                leaves(value, path, out);
                path.pop();
            }
        }
        _ => out.push(path.clone()),
    }
}

fn with(json: &Value, path: &[String], value: Value) -> Value {
    let mut json = json.clone();
    let mut at = &mut json;
    for key in path {
        at = &mut at[key.as_str()];
    }
    *at = value;
    json
}

#[test]
fn every_key_of_a_models_files_takes_or_refuses_every_kind_of_value() {
    let dir = scratch("model-keys");
    let copy = copy_of_model(&dir);
    let mut table = Table::new(
        "model_keys.txt",
        "Each key of a model's config.json and preprocessor_config.json with each kind of value.",
    );
    for file in ["config.json", "preprocessor_config.json"] {
        let path = copy.join(file);
        let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        // What answers change with.
        let config = || arch::read(&copy.join("config.json")).ok();
        let unchanged = config();
        let mut all = vec![];
        leaves(&good, &mut vec![], &mut all);
        for key in all {
            let mut taken = vec![];
            let mut refusals = vec![];
            for value in nonsense() {
                fs::write(&path, with(&good, &key, value.clone()).to_string()).unwrap();
                let what = format!("{file}: {}: {value}", key.join("."));
                // What the reader refuses needs no process.
                let read = if file == "config.json" {
                    catch_unwind(|| arch::read(&path).map(|_| ())).unwrap_or_else(|_| panic!("{what}"))
                } else {
                    Ok(())
                };
                let said = match read {
                    Err(error) => error.to_string(),
                    Ok(()) if file == "config.json" && config() == unchanged => "accepted".into(),
                    Ok(()) => answer(
                        &what,
                        bounded(&generate(
                            &copy,
                            &[
                                "--threads",
                                "1",
                                "--prompt",
                                "red",
                                "--image",
                                SHARED.join("0.png").to_str().unwrap(),
                            ],
                        )),
                    ),
                };
                if said == "accepted" {
                    taken.push(value.to_string());
                } else {
                    assert!(said.starts_with(copy.to_str().unwrap()), "{what}: {said}");
                    let said = said.replace(&format!("{}: ", path.display()), "");
                    refusals.push((value.to_string(), anywhere(&said, &copy)));
                }
            }
            // A key that takes everything is not read.
            if refusals.is_empty() {
                continue;
            }
            table.section(&format!("{file}: {}", key.join(".")));
            for (value, said) in refusals {
                table.line(&value, &said);
            }
            table.line("taken:", &taken.join("  "));
        }
        fs::write(&path, good.to_string()).unwrap();
    }
    table.finish();
}
