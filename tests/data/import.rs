//! Other data sets become LLaVA JSON.

use std::process::Command;

use neva::data::import::{Imported, easy_vqa};
use neva::data::read;
use neva::image::Image;

use super::Folder;

/// A package of two training pictures and one of test.
fn package(name: &str) -> Folder {
    let folder = Folder::new(name);
    for (part, images, questions) in [
        (
            "train",
            2,
            r#"[["is it red?", "no", 1], ["what is it?", "circle", 0], ["is it blue?", "yes", 1],
                ["is no teal shape there?", "no", 0], ["is there not a blue shape?", "yes", 0]]"#,
        ),
        ("test", 1, r#"[["what is it?", "triangle", 0], ["is it red?", "no", 0]]"#),
    ] {
        let data = folder.0.join("in/easy_vqa/data").join(part);
        std::fs::create_dir_all(data.join("images")).unwrap();
        std::fs::write(data.join("questions.json"), questions).unwrap();
        for image in 0..images {
            Image::filled(2, 2, [image; 3]).save_png(&data.join(format!("images/{image}.png"))).unwrap();
        }
    }
    folder
}

#[test]
fn questions_become_records_and_what_they_tell_captions() {
    let folder = package("easy-vqa");
    let (dir, out) = (folder.0.join("in"), folder.0.join("out"));
    let imported = easy_vqa(&dir, &out).unwrap();
    assert_eq!(imported.train, Imported { images: 2, questions: 5, captions: 1 });
    assert_eq!(imported.test, Imported { images: 1, questions: 2, captions: 0 });
    let records = read(&out.join("train.json")).unwrap();
    let all = records.iter().map(|r| {
        let turns: Vec<_> = r.turns.iter().map(|t| (t.question.as_str(), t.answer.as_str())).collect();
        (r.images[0].as_str(), turns)
    });
    let all: Vec<_> = all.collect();
    assert_eq!(
        all,
        [
            ("train/0.png", vec![("<image>\nwhat is it?", "circle")]),
            ("train/0.png", vec![("<image>\nis no teal shape there?", "no")]),
            ("train/0.png", vec![("<image>\nis there not a blue shape?", "yes")]),
            ("train/1.png", vec![("<image>\nis it red?", "no")]),
            ("train/1.png", vec![("<image>\nis it blue?", "yes")]),
        ]
    );
    let test = read(&out.join("test.json")).unwrap();
    assert_eq!((test.len(), test[0].name.as_str()), (2, "0 (\"test-0\")"));
    assert_eq!(
        (test[1].turns[0].question.as_str(), test[1].turns[0].answer.as_str()),
        ("<image>\nis it red?", "no")
    );
    // Shape and colour follow for the first only: it is not blue, and nothing says what shape the second has.
    let captions = read(&out.join("train_captions.json")).unwrap();
    assert_eq!(captions.len(), 1);
    assert_eq!(
        (captions[0].name.as_str(), captions[0].images[0].as_str()),
        ("0 (\"train-0\")", "train/0.png")
    );
    let turns: Vec<_> = captions[0].turns.iter().map(|t| (t.question.as_str(), t.answer.as_str())).collect();
    assert_eq!(turns, [("<image>", "a teal circle")]);
    assert_eq!(std::fs::read_to_string(out.join("test_captions.json")).unwrap(), "[]");
    assert_eq!(Image::open(&out.join("images/train/1.png")).unwrap(), Image::filled(2, 2, [1; 3]));
    assert_eq!(Image::open(&out.join("images/test/0.png")).unwrap(), Image::filled(2, 2, [0; 3]));
    let texts = std::fs::read_to_string(out.join("texts.txt")).unwrap();
    assert!(
        texts.starts_with("a teal circle\nwhat is it?\ncircle\n")
            && texts.contains("\nis it red?\nno\nis it blue?\nyes\nA chat between"),
        "{texts}"
    );
    // Once more over what is there: the same files.
    let before = std::fs::read(out.join("train.json")).unwrap();
    assert_eq!(easy_vqa(&dir, &out).unwrap(), imported);
    assert_eq!(std::fs::read(out.join("train.json")).unwrap(), before);
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let folder = package("easy-vqa-errors");
    let (dir, out) = (folder.0.join("in"), folder.0.join("out"));
    let data = dir.join("easy_vqa/data/train");
    let questions = data.join("questions.json");
    std::fs::remove_file(data.join("images/1.png")).unwrap();
    assert_eq!(
        easy_vqa(&dir, &out).unwrap_err().to_string(),
        format!(
            "{}: record of image 1: no such image file: {}",
            questions.display(),
            data.join("images/1.png").display()
        )
    );
    std::fs::write(&questions, "[[\"q\", 1, 0]]").unwrap();
    assert_eq!(
        easy_vqa(&dir, &out).unwrap_err().to_string(),
        format!(
            "{}: expected a list of [question, answer, image number]: invalid type: integer `1`, expected a string \
             at line 1 column 8",
            questions.display()
        )
    );
    std::fs::remove_file(&questions).unwrap();
    assert!(easy_vqa(&dir, &out).unwrap_err().to_string().starts_with(&format!("{}: ", questions.display())));
}

#[test]
fn the_command_prints_one_line_of_json() {
    let folder = package("easy-vqa-command");
    let output = Command::new(env!("CARGO_BIN_EXE_neva"))
        .args(["data", "import", "easy-vqa"])
        .arg(folder.0.join("in"))
        .arg("--out")
        .arg(folder.0.join("out"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "{\"test\":{\"captions\":0,\"images\":1,\"questions\":2},\
         \"train\":{\"captions\":1,\"images\":2,\"questions\":5}}\n"
    );
}
