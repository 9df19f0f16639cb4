//! `neva generate` and `neva eval`: what goes where, and what they refuse.

use super::*;
use serde_json::{Value, json};

#[test]
fn generate_streams_only_the_answer_and_checks_its_images() {
    let image = SHARED.join("0.png");
    let image = image.to_str().unwrap();
    let model = model();
    let (code, answer, stderr) = run(&generate(&model, &["--image", image, "--prompt", "What?"]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(answer.ends_with('\n') && !answer.contains("What?"), "{answer:?}");
    // Images without a place in the prompt go in front, one a line.
    let spelled = accepted(&generate(&model, &["--image", image, "--prompt", "<image>\nWhat?"]));
    assert_eq!(answer, spelled);

    refused(
        &generate(&model, &["--prompt", "<image>\n<image>\nWhat?", "--image", image]),
        "the prompt has 2 <image>, but 1 image is given",
    );
    for (prompt, images, error) in [
        ("What?", 1, "the prompt has 0 <image>, but 1 image is given"),
        ("<image>What?", 0, "the prompt has 1 <image>, but 0 images are given"),
        ("<image>What?", 2, "the prompt has 1 <image>, but 2 images are given"),
    ] {
        let mut words = generate(&model, &["--raw", "--prompt", prompt]);
        words.extend(["--image", image].repeat(images).iter().map(|w| w.to_string()));
        refused(&words, error);
    }
    refused(&generate(&model, &["--raw", "--prompt", ""]), "the prompt is empty");
    let long = "red ".repeat(600);
    let (code, stdout, stderr) = run(&generate(&model, &["--prompt", &long]));
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.ends_with(" rows, the model only 512 positions\n"), "{stderr}");
    // Files come first: before the model, and before what is wrong with the prompt.
    let missing = SHARED.join("none.png");
    let none = SHARED.join("no-model");
    for model in [&model, &none] {
        let words = generate(model, &["--raw", "--prompt", "What?", "--image", missing.to_str().unwrap()]);
        refused(&words, &format!("{}: no such image file", missing.display()));
    }
    refused(
        &generate(&none, &["--prompt", "What?"]),
        &format!("{}: is no directory, expected that of a model", none.display()),
    );
    // The longest answer that can be asked for ends where the model does.
    let mut words = generate(&model, &["--image", image, "--prompt", "What?"]);
    words[2] = usize::MAX.to_string();
    accepted(&words);
}

#[test]
fn eval_ends_with_a_line_of_json() {
    let data = SHARED.join("questions.json");
    let words = |data: &Path| -> Vec<String> {
        let (model, folder) = (model(), &*SHARED);
        words![
            "eval",
            "--model",
            model.display(),
            "--data",
            data.display(),
            "--image-folder",
            folder.display()
        ]
    };
    let stdout = accepted(&words(&data));
    let line: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(line["questions"], json!(21));
    assert!(line["correct"].is_u64() && line["accuracy"].is_number(), "{line}");

    let dir = scratch("eval");
    let cut = dir.join("cut.json");
    let text = fs::read_to_string(&data).unwrap();
    fs::write(&cut, &text[..text.len() / 2]).unwrap();
    let (code, stdout, stderr) = run(&words(&cut));
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    let start = format!("error: {}: not JSON, or cut off, after ", cut.display());
    assert!(stderr.starts_with(&start), "{stderr}");

    let record = |image: &str, question: &str| {
        let turns = json!([{"from": "human", "value": question}, {"from": "gpt", "value": "red"}]);
        json!([{"id": "x", "image": image, "conversations": turns}]).to_string()
    };
    let bad = dir.join("bad.json");
    fs::write(&bad, record("none.png", "<image>\nWhat?")).unwrap();
    let missing = SHARED.join("none.png");
    refused(
        &words(&bad),
        &format!("{}: record 0 (\"x\"): {}: no such image file", bad.display(), missing.display()),
    );
    fs::write(&bad, record("0.png", &format!("<image>\n{}", "red ".repeat(600)))).unwrap();
    let (code, _, stderr) = run(&words(&bad));
    let start = format!("error: {}: record 0 (\"x\"): the prompt has ", bad.display());
    assert!(
        stderr.starts_with(&start) && stderr.ends_with(" rows, the model only 512 positions\n"),
        "{stderr}"
    );
    assert_eq!(code, Some(1));
}
