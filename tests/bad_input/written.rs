//! What a user writes: the configuration, the records, the command line.

use super::*;
use serde_json::{Value, json};

#[test]
fn a_configuration_error_names_the_line_and_the_key() {
    let dir = scratch("config");
    tiny::data(&dir);
    let good = tiny::yaml(&dir);
    let file = dir.join("recipe.yaml");
    let shown = file.display();
    let line = |text: &str, what: &str| 1 + text.lines().position(|l| l.contains(what)).unwrap();
    let cases = [
        (
            "hidden_size: 32",
            "hiden_size: 32",
            "model.hiden_size: unknown key; did you mean model.hidden_size?",
        ),
        ("hidden_size: 32", "colour: red", "model.colour: unknown key"),
        (
            "num_attention_heads: 4",
            "num_attention_heads: 5",
            "model.num_attention_heads: 5 does not divide model.hidden_size 32",
        ),
        (
            "num_query_groups: 2",
            "num_query_groups: 3",
            "model.num_query_groups: 3 does not divide model.num_attention_heads 4",
        ),
        (
            "hidden_dropout: 0.1",
            "hidden_dropout: much",
            "model.hidden_dropout: expected a finite number, got \"much\"",
        ),
        (
            "hidden_dropout: 0.1",
            "attention_dropout: 0.1",
            "model.attention_dropout: 0.1 is not supported: attention has no dropout in this version",
        ),
    ];
    for (old, new, message) in cases {
        let text = good.replacen(old, new, 1);
        fs::write(&file, &text).unwrap();
        let error = format!("{shown}:{}: {message}", line(&text, new));
        refused(&train(&dir, "run", &[]), &error);
    }
    fs::write(&file, &good).unwrap();
    refused(
        &train(&dir, "run", &["model.optim.lrs=1"]),
        "command line: model.optim.lrs: unknown key; did you mean model.optim.lr?",
    );
    fs::remove_file(&file).unwrap();
    refused(&train(&dir, "run", &[]), &format!("{shown}: no such file or directory"));
    assert!(!dir.join("run").exists(), "a refused configuration makes no run directory");
}

#[test]
fn a_record_that_makes_no_sense_is_refused_by_name() {
    let dir = scratch("records");
    recipe(&dir);
    let path = dir.join("captions.json");
    let human = |text: &str| json!({"from": "human", "value": text});
    let gpt = |text: &str| json!({"from": "gpt", "value": text});
    let good = json!({"id": "a", "image": "0.png", "conversations": [human("<image>\nWhat?"), gpt("red")]});
    let with = |conversations: Value| {
        let mut record = good.clone();
        record["id"] = json!("b");
        record["conversations"] = conversations;
        json!([good, record]).to_string()
    };
    let whole = json!([good, good]).to_string();
    let cases = [
        (
            with(json!([human("<image>"), human("What?"), gpt("red")])),
            "record 1 (\"b\"): turn 1: two human turns in a row, expected gpt",
        ),
        (
            with(json!([human("<image><image>"), gpt("red")])),
            "record 1 (\"b\"): the turns hold 2 <image>s, but the record has 1 image",
        ),
        (
            with(json!([human("What?"), gpt("red")])),
            "record 1 (\"b\"): the turns hold no <image>, but the record has 1 image",
        ),
        (with(json!([human("<image>")])), "record 1 (\"b\"): the last human turn has no answer"),
        (
            with(json!([{"from": "robot", "value": ""}])),
            "record 1 (\"b\"): turn 0: \"from\": expected human or gpt, found \"robot\"",
        ),
        ("[]".into(), "the list of records is empty"),
        (
            whole[..whole.len() - 9].into(),
            "not JSON, or cut off, after 1 record: EOF while parsing a value at line 1 column 224",
        ),
    ];
    for (text, message) in cases {
        fs::write(&path, text).unwrap();
        refused(&train(&dir, "run", &[]), &format!("{}: {message}", path.display()));
    }
    tiny::data(&dir);
    refused(
        &train(&dir, "run", &["model.encoder_seq_length=4"]),
        &format!(
            "{}: record 0 (\"0\"): is 8 rows long: the cut at 4 leaves no token to predict",
            path.display()
        ),
    );
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let dir = scratch("unwritable");
    recipe(&dir);
    fs::write(dir.join("file"), "").unwrap();
    let error = format!(
        "{}: a part of this path is a file, expected a directory",
        dir.join("file/checkpoints").display()
    );
    refused(&train(&dir, "file", &[]), &error);
    let out = dir.join("file/answers.jsonl");
    let mut words = words!["eval", "--model", model().display(), "--out", out.display()];
    words.extend(words!["--data", dir.join("questions.json").display(), "--image-folder", dir.display()]);
    refused(&words, &format!("{}: a part of this path is a file, expected a directory", out.display()));
    *words.iter_mut().find(|w| w.ends_with("answers.jsonl")).unwrap() = "/dev/full".into();
    refused(&words, "/dev/full: No space left on device (os error 28)");
}
