//! Other data sets as LLaVA JSON.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::write::{Conversation, write, write_texts};
use crate::{Error, Result};

/// What was imported of one part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Images.
    pub images: usize,
    /// Questions with their answers.
    pub questions: usize,
    /// Images whose questions tell shape and colour.
    pub captions: usize,
}

/// What [`easy_vqa`] imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EasyVqa {
    /// Of `train.json`.
    pub train: Imported,
    /// Of `test.json`.
    pub test: Imported,
}

/// Imports easy-vqa (the Python package of that name, version 1.0): questions about pictures of one coloured shape.
///
/// `dir` is where the package is installed or unpacked; it holds `easy_vqa/data/{train,test}/` with `images/N.png` and
/// `questions.json`, a list of `[question, answer, N]`. Made in `out`:
/// - `train.json` and `test.json`, a record for each question: in one conversation about a picture, the answers so far give
///   away those to come, and a model learns to read them instead of the picture;
/// - `train_captions.json` and `test_captions.json`, a caption for each image whose questions and answers tell its shape
///   and colour: `a teal circle`;
/// - `images/{train,test}/N.png`, the image folder being `images`, as hard links where the file system can, else copies;
/// - `texts.txt`, the training captions, questions and answers, one a line.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read or written, [`Error::DataFile`] when `questions.json` is not as above,
/// [`Error::Data`] when the image of a question is missing.
pub fn easy_vqa(dir: &Path, out: &Path) -> Result<EasyVqa> {
    let data = dir.join("easy_vqa/data");
    let (train, texts) = easy_vqa_part(&data, "train", out)?;
    write_texts(&out.join("texts.txt"), &texts)?;
    let (test, _) = easy_vqa_part(&data, "test", out)?;
    Ok(EasyVqa { train, test })
}

/// Imports one part; gives its captions and its records.
fn easy_vqa_part(data: &Path, part: &str, out: &Path) -> Result<(Imported, Vec<Conversation>)> {
    let path = data.join(part).join("questions.json");
    let file = fs::read(&path).map_err(Error::io(&path))?;
    let list: Vec<(String, String, u64)> =
        serde_json::from_slice(&file).map_err(|error| Error::DataFile {
            path: path.clone(),
            message: format!("expected a list of [question, answer, image number]: {error}"),
        })?;
    let questions = list.len();
    let mut by_image: BTreeMap<u64, Vec<(String, String)>> = BTreeMap::new();
    for (question, answer, image) in list {
        by_image.entry(image).or_default().push((question, answer));
    }
    let folder = out.join("images").join(part);
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let images = by_image.len();
    let mut records = Vec::new();
    let mut captions = Vec::new();
    for (image, turns) in by_image {
        let name = format!("{image}.png");
        let from = data.join(part).join("images").join(&name);
        if !from.is_file() {
            let message = format!("no such image file: {}", from.display());
            return Err(Error::Data { path, record: format!("of image {image}"), message });
        }
        place(&from, &folder.join(&name))?;
        let (id, file) = (format!("{part}-{image}"), format!("{part}/{name}"));
        captions.extend(easy_vqa_caption(&turns).map(|caption| Conversation::caption(&id, &file, caption)));
        records.extend(turns.into_iter().map(|turn| Conversation::new(&id, &file, [turn])));
    }
    write(&out.join(format!("{part}.json")), &records)?;
    write(&out.join(format!("{part}_captions.json")), &captions)?;
    let imported = Imported { images, questions, captions: captions.len() };
    captions.extend(records);
    Ok((imported, captions))
}

const EASY_VQA_SHAPES: [&str; 3] = ["circle", "rectangle", "triangle"];
const EASY_VQA_COLOURS: [&str; 8] = ["black", "blue", "brown", "gray", "green", "red", "teal", "yellow"];

/// The caption that follows from what is asked and answered about an image, if both shape and colour do.
///
/// An answer other than yes or no names what is there, and so does its question. A question answered by yes names what
/// is there unless it says no or not; one answered by no, if it does.
fn easy_vqa_caption(turns: &[(String, String)]) -> Option<String> {
    let there = turns.iter().flat_map(|(question, answer)| {
        let words = |text: &'_ str| -> Vec<String> {
            text.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase).collect()
        };
        let (mut asked, answer) = (words(question), words(answer));
        let denies = asked.iter().any(|word| word == "no" || word == "not");
        let holds = match answer.first().map(String::as_str) {
            Some("yes") => !denies,
            Some("no") => denies,
            _ => true,
        };
        asked.retain(|_| holds);
        asked.into_iter().chain(answer)
    });
    let there: Vec<String> = there.collect();
    let name = |of: &[&'static str]| of.iter().copied().find(|name| there.iter().any(|word| word == name));
    Some(format!("a {} {}", name(&EASY_VQA_COLOURS)?, name(&EASY_VQA_SHAPES)?))
}

/// Makes `to` the file `from`: a link to it, or a copy.
fn place(from: &Path, to: &Path) -> Result<()> {
    match fs::remove_file(to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(to)(error)),
        _ => {}
    }
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).map_err(Error::io(to))?;
    }
    Ok(())
}
