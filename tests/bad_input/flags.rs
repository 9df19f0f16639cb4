//! Every flag of every command with values that make no sense. The flags are taken from `--help`, so that a new one
//! cannot be forgotten.

use super::table::{Table, answer, anywhere, bounded};
use super::*;

/// Flags that name what is read.
const INPUTS: [&str; 4] = ["--model", "--data", "--image", "--input"];

/// Flags that name what is written, or a folder that need not be there.
const OUTPUTS: [&str; 6] = ["--out", "--json", "--html", "--budgets", "--prebuilt", "--image-folder"];

/// Flags that take any text.
const TEXTS: [&str; 5] = ["--prompt", "--stop", "--case", "--special", "--arch"];

/// The commands, each with arguments under which it works, or would.
fn commands(dir: &Path) -> Vec<(&'static str, Vec<String>)> {
    let at = |name: &str| dir.join(name).display().to_string();
    let (model, image) = (model().display().to_string(), at("0.png"));
    let sizes = "--threads=1 --batch=1 --text=4 --steps=1 --image=8 --patch=8 --vision=8,1,1,8 --llm=8,1,1,8 --vocab=8";
    let words = |text: &str| -> Vec<String> { text.split(' ').map(String::from).collect() };
    vec![
        ("config", vec![at("recipe.yaml")]),
        ("data import easy-vqa", vec![at("none"), format!("--out={}", at("imported"))]),
        ("tokenize", vec![format!("--model={model}"), "red".into()]),
        (
            "tokenizer train",
            vec![
                format!("--input={}", at("captions.json")),
                "--vocab-size=340".into(),
                format!("--out={}", at("t")),
            ],
        ),
        ("train", vec![at("recipe.yaml"), format!("exp_manager.explicit_log_dir={}", at("run"))]),
        (
            "generate",
            words(&format!("--threads=1 --max-new-tokens=1 --model={model} --prompt=red --image={image}")),
        ),
        (
            "eval",
            words(&format!(
                "--threads=1 --max-new-tokens=1 --limit=1 --model={model} --data={} --image-folder={}",
                at("questions.json"),
                dir.display()
            )),
        ),
        ("quickstart", vec!["--out=/dev/null/x".into()]),
        ("bench step", words(sizes)),
        ("bench decode", words("--threads=1 --prompt=1 --tokens=1 --llm=8,1,1,8 --vocab=8")),
        ("kernels list", words("rms_norm")),
        ("kernels check", words("rms_norm --device=cpu --case=none")),
        ("kernels bench", words("rms_norm --device=cpu --smoke --case=none")),
        ("kernels profile", words("rms_norm --device=cpu --case=none")),
        ("kernels inspect", words("none")),
        ("kernels compile", words("none")),
    ]
}

/// The flags of a command that take a value.
fn flags(command: &str) -> Vec<String> {
    let words: Vec<String> = command.split(' ').map(String::from).chain(["--help".into()]).collect();
    let help = accepted(&words);
    let rows = help.lines().map(str::trim_start).filter(|l| l.starts_with('-'));
    rows.filter_map(|row| {
        let flag = row.split([' ', ',']).find(|w| w.starts_with("--"))?;
        row.contains('<').then(|| flag.to_string())
    })
    .collect()
}

#[test]
fn every_flag_takes_or_refuses_every_kind_of_value() {
    let dir = scratch("flags");
    recipe(&dir);
    let mut table = Table::new("flags.txt", "Each flag of each command with each kind of value.");
    let folder = dir.display().to_string();
    for (command, base) in commands(&dir) {
        let known = flags(command);
        for flag in &known {
            table.section(&format!("{command} {flag}"));
            let values: &[&str] = match flag.as_str() {
                f if INPUTS.contains(&f) && !command.starts_with("bench") => {
                    &["", "/none", "/dev/null", &folder]
                }
                f if OUTPUTS.contains(&f) => &["", "/dev/null/x"],
                f if TEXTS.contains(&f) => &[""],
                _ => &[
                    "",
                    "word",
                    "-1",
                    "0",
                    "1.5",
                    "nan",
                    "inf",
                    "99999999999999999999",
                    "18446744073709551615",
                ],
            };
            for value in values {
                let mut words: Vec<String> = command.split(' ').map(String::from).collect();
                let own = format!("{flag}=");
                words.extend(base.iter().filter(|w| !w.starts_with(&own)).cloned());
                words.push(format!("{own}{value}"));
                let _ = fs::remove_dir_all(dir.join("run"));
                let outcome = bounded(&words);
                let said = answer(&words.join(" "), outcome).replace(model().to_str().unwrap(), "MODEL");
                table.line(&anywhere(value, &dir), &anywhere(&without_list(&said), &dir));
            }
        }
    }
    table.finish();
}

/// The answer without the names of ops or cases, which are many and change.
fn without_list(said: &str) -> String {
    match said.split_once("; there are ") {
        Some((before, _)) => format!("{before}; there are …"),
        None => said.into(),
    }
}

#[test]
fn every_command_is_in_the_table() {
    let dir = Path::new("/");
    let mut open: Vec<String> = vec![String::new()];
    let mut leaves = vec![];
    while let Some(command) = open.pop() {
        let words: Vec<String> =
            command.split_whitespace().map(String::from).chain(["--help".into()]).collect();
        let help = accepted(&words);
        let rows = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
        let names: Vec<&str> =
            rows.filter_map(|l| l.split_whitespace().next()).filter(|n| *n != "help").collect();
        if names.is_empty() {
            leaves.push(command.trim().to_string());
        }
        open.extend(names.iter().map(|name| format!("{command} {name}")));
    }
    let mut listed: Vec<String> = commands(dir).into_iter().map(|(command, _)| command.to_string()).collect();
    leaves.sort();
    listed.sort();
    assert_eq!(listed, leaves);
}
