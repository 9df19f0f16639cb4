//! LLaVA JSON to batches and prompts: exact texts, ids and labels; every error; order, weights and pixels.
#![allow(clippy::unwrap_used)]

mod errors;
mod import;
mod order;
mod templates;

use std::path::{Path, PathBuf};

use neva::config::schema::{LossReduction, Template};
use neva::data::{DataOptions, Dataset, ImageTokens};
use neva::image::{Augment, Image, Mode, Preprocess};
use neva::model::{Batch, IGNORE};
use neva::tokenizer::{Tokenizer, train};

const TEMPLATES: [Template; 4] = [Template::Plain, Template::V1, Template::Llama2, Template::Nvgpt];

/// A folder of one test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("neva-data-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A picture of one grey.
    fn image(&self, name: &str, grey: u8) {
        Image::filled(4, 4, [grey; 3]).save_png(&self.0.join(name)).unwrap();
    }

    /// Three rows per image, 10,000 rows per sample, the files' order, batches of one.
    fn options(&self, template: Template, tokenizer: &Tokenizer, path: &Path) -> DataOptions {
        DataOptions {
            paths: vec![path.into()],
            image_folder: self.0.clone(),
            template,
            max_len: 10_000,
            image_rows: 3,
            image_token: tokenizer.id("<image>").unwrap(),
            image_marks: None,
            preprocess: Preprocess::clip(4, Mode::Square),
            augment: Augment::default(),
            global_batch: 1,
            micro_batch: 1,
            shuffle: false,
            seed: 7,
            reduction: LossReduction::Token,
        }
    }

    /// The only sample of a file that holds this record.
    fn sample(&self, template: Template, tokenizer: &Tokenizer, record: &str) -> Batch {
        let path = self.write("one.json", &format!("[{record}]"));
        Dataset::open(self.options(template, tokenizer, &path), tokenizer).unwrap().in_order(0, 1).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A tokenizer that merges nothing: one id per character, so that expected ids can be written out as text.
fn characters() -> Tokenizer {
    // Every printable character once: no pair occurs twice.
    let mut text: String = ('!'..='~').collect();
    text.push('\n');
    train([text.as_str()], 1000, &["<image>", "<im_start>", "<im_end>"]).unwrap()
}

fn image_tokens(tokenizer: &Tokenizer) -> ImageTokens {
    ImageTokens { token: tokenizer.id("<image>").unwrap(), rows: 3, marks: None }
}

/// The spelled ids of the rows, one after the other; line ends as ⏎.
fn spelled(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    ids.iter().map(|&id| tokenizer.piece(id).unwrap().replace('\n', "⏎")).collect()
}

/// What the rows are to predict, spelled; runs of rows that predict nothing as their number in brackets.
fn labels(tokenizer: &Tokenizer, labels: &[u32]) -> String {
    let mut text = String::new();
    for run in labels.chunk_by(|a, b| (*a == IGNORE) == (*b == IGNORE)) {
        match run[0] {
            IGNORE => text += &format!("({})", run.len()),
            _ => text += &spelled(tokenizer, run),
        }
    }
    text
}
