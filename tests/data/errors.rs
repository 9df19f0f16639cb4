//! What is wrong with a file, a record or an image is said by name.

use std::path::Path;

use neva::config::schema::Template;
use neva::data::{Dataset, read};
use neva::tokenizer::Tokenizer;

use super::{Folder, characters, labels, spelled};

/// The error of reading a file with this content, without the file's name.
fn refused(folder: &Folder, content: &str) -> String {
    let path = folder.write("bad.json", content);
    let error = read(&path).unwrap_err().to_string();
    error.strip_prefix(&format!("{}: ", path.display())).unwrap().to_string()
}

#[test]
fn a_file_that_is_no_list_of_records() {
    let folder = Folder::new("files");
    let message = |content: &str| refused(&folder, content);
    assert_eq!(message("[]"), "the list of records is empty");
    assert_eq!(
        message("{}"),
        "expected a list of records: invalid type: map, expected a list at line 1 column 0"
    );
    assert_eq!(message(""), "is empty; expected JSON");
    assert_eq!(
        message("["),
        "not JSON, or cut off, after no record: EOF while parsing a list at line 1 column 1"
    );
    let whole = "[\n{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}, {\"from\": \"gpt\", \"value\": \"a\"}]},\n{\"id\": 1}]";
    assert_eq!(
        message(&whole[..whole.len() - 4]),
        "not JSON, or cut off, after 1 record: EOF while parsing a value at line 3 column 6"
    );
    assert_eq!(message("[{\"id\": 1}, x]"), "record 0 (1): \"conversations\" is missing",);
    let first = whole.rsplit_once(",\n").unwrap().0;
    assert_eq!(
        message(&format!("{first}] []")),
        "not JSON, or cut off, after 1 record: trailing characters at line 2 column 86"
    );
    let missing = folder.0.join("missing.json");
    assert!(read(&missing).unwrap_err().to_string().starts_with(&format!("{}: ", missing.display())));
}

#[test]
fn a_cut_at_any_byte_is_an_error() {
    let folder = Folder::new("cuts");
    let whole = r#"[{"id": "é\n", "image": ["a"], "conversations": [{"from": "human", "value": "<image>"},
        {"from": "gpt", "value": "1"}]}]"#;
    let path = folder.write("cut.json", whole);
    assert_eq!(read(&path).unwrap().len(), 1);
    for length in 0..whole.len() {
        std::fs::write(&path, &whole.as_bytes()[..length]).unwrap();
        assert!(read(&path).is_err(), "cut at {length}");
    }
}

#[test]
fn a_record_that_does_not_fit() {
    let folder = Folder::new("records");
    let human = r#"{"from": "human", "value": "q"}"#;
    let gpt = r#"{"from": "gpt", "value": "a"}"#;
    let shown = r#"{"from": "human", "value": "<image>"}"#;
    let with = |keys: &str, turns: &[&str]| format!("{{{keys}\"conversations\": [{}]}}", turns.join(", "));
    for (record, message) in [
        ("7".to_string(), "0: expected an object, found a number"),
        (r#"{"id": []}"#.into(), "0: \"id\": expected text or a number, found a list"),
        (r#"{"id": "a\"b"}"#.into(), "0 (\"a\\\"b\"): \"conversations\" is missing"),
        (r#"{"conversations": "x"}"#.into(), "0: \"conversations\": expected a list, found text"),
        (with("", &[]), "0: \"conversations\" holds no human turn with an answer"),
        (with("", &[gpt]), "0: \"conversations\" holds no human turn with an answer"),
        (with("", &[human]), "0: the last human turn has no answer"),
        (with("", &[human, gpt, human]), "0: the last human turn has no answer"),
        (with("", &[human, human, gpt]), "0: turn 1: two human turns in a row, expected gpt"),
        (with("", &[human, gpt, gpt]), "0: turn 2: two gpt turns in a row, expected human"),
        (with("", &[gpt, gpt, human, gpt]), "0: turn 1: two gpt turns in a row, expected human"),
        (with("", &["null"]), "0: turn 0: expected an object, found null"),
        (with("", &[r#"{"value": "q"}"#]), "0: turn 0: \"from\" is missing"),
        (
            with("", &[r#"{"from": "user", "value": "q"}"#]),
            "0: turn 0: \"from\": expected human or gpt, found \"user\"",
        ),
        (with("", &[r#"{"from": "human"}"#]), "0: turn 0: \"value\" is missing"),
        (
            with("", &[r#"{"from": "human", "value": 3}"#]),
            "0: turn 0: \"value\": expected text, found a number",
        ),
        (
            with("", &[human, r#"{"from": "gpt", "value": "a", "label": true}"#]),
            "0: turn 1: \"label\": expected text, found true or false",
        ),
        (
            with("", &[r#"{"from": "human", "value": "a", "label": "x"}"#]),
            "0: turn 0: \"label\" belongs to gpt turns, this one is human",
        ),
        (
            with("", &[human, r#"{"from": "gpt", "value": "<image>"}"#]),
            "0: turn 1: <image> in an answer; images stand in human turns",
        ),
        (with("\"system\": 1, ", &[human, gpt]), "0: \"system\": expected text, found a number"),
        (with("\"video\": \"v\", ", &[human, gpt]), "0: \"video\" is not supported in this version"),
        (
            with("\"image\": {}, ", &[human, gpt]),
            "0: \"image\": expected a path or a list of paths, found an object",
        ),
        (
            with("\"image\": [\"a\", null], ", &[human, gpt]),
            "0: \"image\": expected a path or a list of paths, found null",
        ),
        (
            with("\"image\": \"\", ", &[human, gpt]),
            "0: \"image\": expected a path or a list of paths, found empty text",
        ),
        (
            with("\"id\": 5, \"image\": \"a\", ", &[human, gpt]),
            "0 (5): the turns hold no <image>, but the record has 1 image",
        ),
        (with("", &[shown, gpt]), "0: the turns hold 1 <image>, but the record has no image"),
        (
            with("\"image\": [\"a\", \"b\", \"c\"], ", &[shown, gpt, shown, gpt]),
            "0: the turns hold 2 <image>s, but the record has 3 images",
        ),
        // The image stood in the turn that is left out.
        (
            with("\"image\": \"a\", ", &[r#"{"from": "gpt", "value": "<image>"}"#, human, gpt]),
            "0: the turns hold no <image>, but the record has 1 image",
        ),
    ] {
        assert_eq!(refused(&folder, &format!("[{record}]")), format!("record {message}"), "{record}");
    }
    let fine = with("", &[human, gpt]);
    assert_eq!(
        refused(&folder, &format!("[{fine}, {fine}, {{\"id\": \"x\"}}, {fine}]")),
        "record 2 (\"x\"): \"conversations\" is missing"
    );
}

#[test]
fn what_llava_reads_is_read() {
    let folder = Folder::new("lenient");
    let path = folder.write(
        "a.json",
        r#"[{"id": 3, "model": "x", "image": null, "system": null, "conversations": [
            {"from": "gpt", "value": "left out"}, {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a", "label": null}]}]"#,
    );
    let [record] = &read(&path).unwrap()[..] else { panic!("one record") };
    assert_eq!((record.name.as_str(), record.images.len(), &record.system), ("0 (3)", 0, &None));
    let [turn] = &record.turns[..] else { panic!("one turn") };
    assert_eq!((turn.question.as_str(), turn.answer.as_str(), &turn.label), ("q", "a", &None));
}

/// The error of a set of one record, without the file's name.
fn no_sample(folder: &Folder, tokenizer: &Tokenizer, record: &str, max_len: usize) -> String {
    let path = folder.write("one.json", &format!("[{record}]"));
    let mut options = folder.options(Template::V1, tokenizer, &path);
    options.max_len = max_len;
    let error = Dataset::open(options, tokenizer).err().expect("an error").to_string();
    error.strip_prefix(&format!("{}: ", path.display())).unwrap().to_string()
}

const SHOWN: &str = r#"{"id": "i", "image": "a.png", "system": "", "conversations": [
    {"from": "human", "value": "<image>"}, {"from": "gpt", "value": "abc"},
    {"from": "human", "value": "q"}, {"from": "gpt", "value": "d"}]}"#;

#[test]
fn what_is_too_long_is_cut_at_the_end_and_counted() {
    let (folder, tokenizer) = (Folder::new("long"), characters());
    folder.image("a.png", 0);
    let path = folder.write("one.json", &format!("[{SHOWN}]"));
    let open = |max_len| {
        let mut options = folder.options(Template::V1, &tokenizer, &path);
        options.max_len = max_len;
        Dataset::open(options, &tokenizer).unwrap()
    };
    let rows = "<s>▁USER:▁<image><image><image>▁▁ASSISTANT:▁abc</s>USER:▁q▁ASSISTANT:▁d";
    for (max_len, truncated, predicted, kept) in [
        (100, 0, "(22)▁abc</s>(18)▁d</s>", 48),
        (48, 0, "(22)▁abc</s>(18)▁d</s>", 48),
        (47, 1, "(22)▁abc</s>(18)▁d", 47),
        // What follows the last id that is predicted is no row either.
        (44, 1, "(22)▁abc</s>", 27),
        (30, 1, "(22)▁abc</s>", 27),
        (25, 1, "(22)▁ab", 25),
        (23, 1, "(22)▁", 23),
    ] {
        let data = open(max_len);
        let batch = data.in_order(0, 1).unwrap();
        assert_eq!(data.truncated(), truncated, "at {max_len}");
        assert_eq!(labels(&tokenizer, &batch.labels), predicted, "at {max_len}");
        assert_eq!(batch.ids.len(), kept, "at {max_len}");
        assert!(rows.starts_with(&spelled(&tokenizer, &batch.ids)), "at {max_len}");
        assert_eq!(batch.supervised(), data.batch(0, 0).unwrap().supervised());
    }
    let error = |max_len| no_sample(&folder, &tokenizer, SHOWN, max_len);
    let long = "record 0 (\"i\"): is 48 rows long";
    assert_eq!(error(22), format!("{long}: the cut at 22 leaves no token to predict"));
    assert_eq!(error(10), format!("{long}: the cut at 10 leaves no token to predict"));
    assert_eq!(error(9), format!("{long}, and the cut at 9 goes through an image"));
    assert_eq!(error(8), format!("{long}, and the cut at 8 goes through an image"));
    assert_eq!(error(7), format!("{long}: the cut at 7 leaves no token to predict"));
}

#[test]
fn images_behind_the_cut_are_not_loaded() {
    let (folder, tokenizer) = (Folder::new("behind"), characters());
    folder.image("a.png", 0);
    folder.write("b.png", "never decoded");
    let record = SHOWN.replace("\"a.png\"", "[\"a.png\", \"b.png\"]").replace("\"q\"", "\"<image>\"");
    let path = folder.write("one.json", &format!("[{record}]"));
    let mut options = folder.options(Template::V1, &tokenizer, &path);
    options.max_len = 30;
    let data = Dataset::open(options.clone(), &tokenizer).unwrap();
    assert_eq!(data.in_order(0, 1).unwrap().images, 1);
    options.max_len = 100;
    let data = Dataset::open(options, &tokenizer).unwrap();
    assert_eq!(
        data.in_order(0, 1).unwrap_err().to_string(),
        format!(
            "{}: record 0 (\"i\"): {}: the content is not an image that we know, expected PNG or JPEG",
            path.display(),
            folder.0.join("b.png").display()
        )
    );
}

#[test]
fn a_missing_image_names_its_record() {
    let (folder, tokenizer) = (Folder::new("missing"), characters());
    let missing = folder.0.join("a.png");
    assert_eq!(
        no_sample(&folder, &tokenizer, SHOWN, 100),
        format!("record 0 (\"i\"): no such image file: {}", missing.display())
    );
}

#[test]
fn an_answer_that_the_tokenizer_loses_is_refused() {
    let folder = Folder::new("lossy");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizer/unknown.tokenizer.json");
    folder.write("tokenizer_config.json", r#"{"bos_token": "<s>", "eos_token": "</s>"}"#);
    let path = folder.write("tokenizer.json", &std::fs::read_to_string(file).unwrap());
    let tokenizer = Tokenizer::load_file(&path).unwrap();
    let record = r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a 🦀"}]}"#;
    assert_eq!(
        no_sample(&folder, &tokenizer, record, 10_000),
        "record 0: the tokenizer does not give the answer back: after 2 characters \"🦀</s>\" became \"<unk></s>\""
    );
}

#[test]
fn sizes_that_do_not_fit_each_other() {
    let (folder, tokenizer) = (Folder::new("sizes"), characters());
    folder.image("a.png", 0);
    let path = folder.write("two.json", &format!("[{SHOWN}, {SHOWN}]"));
    let options = folder.options(Template::V1, &tokenizer, &path);
    let error = |change: &dyn Fn(&mut neva::data::DataOptions)| {
        let mut options = options.clone();
        change(&mut options);
        Dataset::open(options, &tokenizer).err().expect("an error").to_string()
    };
    assert_eq!(
        error(&|o| o.global_batch = 3),
        "the data has 2 samples, fewer than the global batch of 3 (model.global_batch_size)"
    );
    assert_eq!(
        error(&|o| (o.global_batch, o.micro_batch) = (3, 2)),
        "the global batch of 3 samples is no multiple of the micro-batch of 2"
    );
    assert_eq!(
        error(&|o| o.micro_batch = 0),
        "the global batch of 1 samples is no multiple of the micro-batch of 0"
    );
    assert_eq!(
        error(&|o| o.image_rows = 0),
        "samples of at most 10000 rows, 0 of them for an image: expected at least 1"
    );
    let data = Dataset::open(options.clone(), &tokenizer).unwrap();
    assert_eq!(data.batch(0, 1).unwrap_err().to_string(), "there is no micro-batch 1 of a step's 1");
    assert_eq!(data.in_order(1, 2).unwrap_err().to_string(), "2 samples from 1 are more than the data's 2");
}
