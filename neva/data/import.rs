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
    /// Images, which are records.
    pub images: usize,
    /// Questions with their answers.
    pub questions: usize,
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
/// `questions.json`, a list of `[question, answer, N]`. Made in `out`: `train.json` and `test.json`, a record for each
/// image with its questions as turns in their order; `images/{train,test}/N.png`, the image folder being `images`, as
/// hard links where the file system can, else copies; and `texts.txt`, the training questions and answers, one a line.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read or written, [`Error::DataFile`] when `questions.json` is not as above,
/// [`Error::Data`] when the image of a question is missing.
pub fn easy_vqa(dir: &Path, out: &Path) -> Result<EasyVqa> {
    let data = dir.join("easy_vqa/data");
    let (train, records) = easy_vqa_part(&data, "train", out)?;
    write_texts(&out.join("texts.txt"), &records)?;
    let (test, _) = easy_vqa_part(&data, "test", out)?;
    Ok(EasyVqa { train, test })
}

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
    let mut records = Vec::with_capacity(by_image.len());
    for (image, turns) in by_image {
        let name = format!("{image}.png");
        let from = data.join(part).join("images").join(&name);
        if !from.is_file() {
            let message = format!("no such image file: {}", from.display());
            return Err(Error::Data { path, record: format!("of image {image}"), message });
        }
        place(&from, &folder.join(&name))?;
        records.push(Conversation::new(format!("{part}-{image}"), format!("{part}/{name}"), turns));
    }
    write(&out.join(format!("{part}.json")), &records)?;
    Ok((Imported { images: records.len(), questions }, records))
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
