//! Every file that is read, damaged in every way: missing, empty, a directory, cut, of another encoding, nested without
//! end, with a key twice.

use super::table::{Table, answer, anywhere, bounded, without_numbers};
use super::*;

/// What a file holds, for the damage that its syntax allows.
#[derive(Clone, Copy, PartialEq)]
enum Syntax {
    Json,
    Yaml,
    Text,
    Binary,
}

/// A file and a command that reads it.
struct Subject {
    name: &'static str,
    syntax: Syntax,
    /// From the folder of the test.
    path: &'static str,
    command: Vec<String>,
    /// Whether the command may go on without it, or with whatever it holds.
    optional: bool,
}

/// Everything that is read, whole, in `dir`.
fn prepare(dir: &Path) {
    recipe(dir);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    fs::copy(corpus.join("image/jpeg-420_progressive"), dir.join("0.jpg")).unwrap();
    fs::create_dir(dir.join("hf")).unwrap();
    fs::copy(corpus.join("tokenizer_json/spaced"), dir.join("hf/tokenizer.json")).unwrap();
    copy_of_model(dir);
    for part in ["train", "test"] {
        let part = dir.join("vqa/easy_vqa/data").join(part);
        fs::create_dir_all(part.join("images")).unwrap();
        fs::copy(dir.join("0.png"), part.join("images/0.png")).unwrap();
        fs::write(part.join("questions.json"), r#"[["what shape is in the image?", "circle", 0]]"#).unwrap();
    }
    accepted(&train(dir, "whole", &["trainer.max_steps=2"]));
}

fn subjects(dir: &Path) -> Vec<Subject> {
    let at = |name: &str| dir.join(name).display().to_string();
    let model = dir.join("model");
    let asked = |image: &str| generate(&model, &["--threads", "1", "--prompt", "red", "--image", &at(image)]);
    let resumed = || train(dir, "run", &["trainer.max_steps=3"]);
    let eval = words![
        "eval",
        "--threads=1",
        "--max-new-tokens=1",
        "--limit=1",
        "--model",
        model.display(),
        "--data",
        at("questions.json"),
        "--image-folder",
        dir.display()
    ];
    let subject = |name, syntax, path, command| Subject { name, syntax, path, command, optional: false };
    let optional = |name, syntax, path, command| Subject { name, syntax, path, command, optional: true };
    use Syntax::*;
    vec![
        subject("configuration", Yaml, "recipe.yaml", words!["config", at("recipe.yaml")]),
        subject("picture to answer about (PNG)", Binary, "0.png", asked("0.png")),
        subject("picture to answer about (JPEG)", Binary, "0.jpg", asked("0.jpg")),
        subject(
            "picture to train on",
            Binary,
            "0.png",
            train(dir, "run", &["model.micro_batch_size=10", "model.global_batch_size=10"]),
        ),
        subject("records to train on", Json, "captions.json", train(dir, "run", &[])),
        subject("records to ask", Json, "questions.json", eval),
        subject("config.json", Json, "model/config.json", asked("0.png")),
        subject("weights", Binary, "model/model-frozen.safetensors", asked("0.png")),
        // Without an index the directory has to hold one file of weights.
        subject("index of the weights", Json, "model/model.safetensors.index.json", asked("0.png")),
        subject("tokenizer.model", Binary, "model/tokenizer.model", asked("0.png")),
        optional("tokenizer_config.json", Json, "model/tokenizer_config.json", asked("0.png")),
        optional("preprocessor_config.json", Json, "model/preprocessor_config.json", asked("0.png")),
        subject(
            "tokenizer.json",
            Json,
            "hf/tokenizer.json",
            words!["tokenize", "--model", at("hf/tokenizer.json"), "a"],
        ),
        subject("trainer state", Json, "run/checkpoints/step-00000002/trainer/state.json", resumed()),
        subject(
            "optimiser state",
            Binary,
            "run/checkpoints/step-00000002/trainer/optimizer.safetensors",
            resumed(),
        ),
        optional("metrics of a run", Text, "run/metrics.jsonl", resumed()),
        optional("configuration that a run wrote", Text, "run/config.yaml", resumed()),
        optional("lock of a run", Text, "run/run.lock", resumed()),
        optional(
            "text for a tokenizer",
            Text,
            "questions.json",
            words![
                "tokenizer",
                "train",
                "--input",
                at("questions.json"),
                "--vocab-size",
                340,
                "--out",
                at("t")
            ],
        ),
        subject(
            "easy-vqa",
            Json,
            "vqa/easy_vqa/data/train/questions.json",
            words!["data", "import", "easy-vqa", at("vqa"), "--out", at("imported")],
        ),
    ]
}

/// The bytes that stand in place of a whole file, by what was done to it.
fn damages(whole: &[u8], syntax: Syntax) -> Vec<(&'static str, Vec<u8>)> {
    let mut middle = whole.to_vec();
    middle.insert(whole.len() / 2, 0xe9);
    let mut all = vec![
        ("empty", vec![]),
        ("zeros", vec![0; whole.len()]),
        ("UTF-8 with a mark", [b"\xef\xbb\xbf", whole].concat()),
        ("UTF-16", [0xff, 0xfe].into_iter().chain(whole.iter().flat_map(|b| [*b, 0])).collect()),
        ("Latin-1", middle),
    ];
    let text = String::from_utf8_lossy(whole);
    match syntax {
        Syntax::Json => {
            all.push(("10000 lists", b"[".repeat(10_000)));
            all.push(("10000 objects", b"{\"a\":".repeat(10_000)));
            all.push(("another value", b"7".to_vec()));
            // The first key of the first object, once more in front.
            if let Some((before, after)) = text.split_once('{') {
                let key = after.split('"').nth(1).unwrap();
                all.push(("a key twice", format!("{before}{{\"{key}\": 0, {after}").into_bytes()));
            }
        }
        Syntax::Yaml => {
            all.push(("10000 lists", b"[".repeat(10_000)));
            all.push(("10000 mappings", b"{a: ".repeat(10_000)));
            all.push(("10000 dashes", b"- ".repeat(10_000)));
            let stairs: String = (0..1000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
            all.push(("1000 steps", stairs.into_bytes()));
            all.push(("another value", b"7".to_vec()));
            all.push(("a key twice", format!("{text}\ntrainer: {{}}\n").into_bytes()));
            let list =
                |anchor: &str| format!("a: &a [{}]\nb: [{}]\n", "0,".repeat(20_000), anchor.repeat(20_000));
            all.push(("aliases", list("*a,").into_bytes()));
        }
        Syntax::Text | Syntax::Binary => {}
    }
    all
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).map(|_| ()).unwrap()
        }
    }
}

#[test]
fn every_file_is_read_or_refused_however_it_is_damaged() {
    let dir = scratch("files");
    prepare(&dir);
    let mut table =
        Table::new("files.txt", "Each file that is read, damaged in every way; N stands for a number.");
    for subject in subjects(&dir) {
        table.section(subject.name);
        let path = dir.join(subject.path);
        let name = path.file_name().unwrap().to_str().unwrap();
        // A run that trains anew or goes on, each time from the same.
        let fresh = || {
            let _ = fs::remove_dir_all(dir.join("run"));
            if subject.path.starts_with("run/") {
                copy_tree(&dir.join("whole"), &dir.join("run"));
            }
        };
        fresh();
        let whole = fs::read(&path).unwrap();
        let ask = |what: &str| {
            let said = answer(&format!("{}: {what}", subject.name), bounded(&subject.command));
            if said == "accepted" {
                assert!(
                    subject.optional || what == "whole" || !what.starts_with("cut"),
                    "{}: {what}",
                    subject.name
                );
            } else {
                assert!(
                    said.contains(name) || said.contains("model.safetensors"),
                    "{}: {what}: {said}",
                    subject.name
                );
            }
            anywhere(&said, &dir)
        };
        assert_eq!(ask("whole"), "accepted", "{}", subject.name);
        for (what, bytes) in damages(&whole, subject.syntax) {
            fresh();
            fs::write(&path, bytes).unwrap();
            table.line(what, &ask(what));
        }
        let mut cuts: Vec<String> = vec![];
        for eighths in 1..8 {
            fresh();
            fs::write(&path, cut(&whole, eighths)).unwrap();
            let said = without_numbers(&ask(&format!("cut at {eighths}/8")));
            if !cuts.contains(&said) {
                cuts.push(said);
            }
        }
        for said in cuts {
            table.line("cut at an eighth", &said);
        }
        fresh();
        fs::remove_file(&path).unwrap();
        table.line("missing", &ask("missing"));
        fresh();
        let _ = fs::remove_file(&path);
        fs::create_dir(&path).unwrap();
        table.line("a directory", &ask("a directory"));
        fs::remove_dir(&path).unwrap();
        fs::write(&path, &whole).unwrap();
    }
    table.finish();
}

/// So many eighths of a file. Where the tests run has no part in where that is: a text is cut as if the name of that
/// directory had three letters.
fn cut(whole: &[u8], eighths: usize) -> Vec<u8> {
    let here = env!("CARGO_TARGET_TMPDIR");
    match str::from_utf8(whole) {
        Ok(text) if text.contains(here) => {
            let text = text.replace(here, "TMP");
            text[..text.len() * eighths / 8].replace("TMP", here).into_bytes()
        }
        _ => whole[..whole.len() * eighths / 8].to_vec(),
    }
}

/// What fits no table: data and pictures at their smallest, a model of another kind.
#[test]
fn the_smallest_data_train_and_another_kind_of_model_is_named() {
    let dir = scratch("smallest");
    recipe(&dir);
    let data = dir.join("captions.json");
    let shown = data.display();
    let record = |answer: &str| {
        format!(
            r#"[{{"image": "one.png", "conversations": [{{"from": "human", "value": "<image>"}}, {{"from": "gpt", "value": "{answer}"}}]}}]"#
        )
    };
    neva::image::Image::filled(1, 1, [9, 9, 9]).save_png(&dir.join("one.png")).unwrap();
    let one = ["model.micro_batch_size=1", "model.global_batch_size=1"];
    fs::write(&data, record("a")).unwrap();
    accepted(&train(&dir, "a", &one));
    fs::write(&data, record("")).unwrap();
    let (code, _, stderr) = run(&train(&dir, "empty", &one));
    assert!(code == Some(0) || stderr.contains(&format!("{shown}: record 0")), "{stderr}");
    fs::write(&data, record("a")).unwrap();
    refused(
        &train(&dir, "batch", &[]),
        "the data has 1 samples, fewer than the global batch of 6 (model.global_batch_size)",
    );
    fs::write(dir.join("one.png"), "").unwrap();
    refused(
        &train(&dir, "damaged", &one),
        &format!(
            "{shown}: record 0: {}: the file is empty (0 bytes), expected a PNG or JPEG image",
            dir.join("one.png").display()
        ),
    );

    let copy = copy_of_model(&dir);
    let config = copy.join("config.json");
    fs::write(&config, r#"{"model_type": "bert", "hidden_size": 768}"#).unwrap();
    let kind = "model_type: \"bert\" is not a model of this kind, expected \"llava\" or \"neva\"";
    refused(&generate(&copy, &["--prompt", "What?"]), &format!("{}: {kind}", config.display()));
}
