//! How many questions a model answers right: greedy, in batches, by exact match.
//!
//! Each gpt turn of a record is one question, asked alone with the record's images in front, whatever turns came
//! before it. An answer is right if it equals the record's after trimming, lower case, and dropping a final full
//! stop.

use crate::data::{self, IMAGE, Record};
use crate::generate::Answerer;
use crate::sampling::Sampling;
use crate::{Error, Result};
use kernels::random::{Random, derive};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What to ask.
#[derive(Debug, Clone)]
pub struct Options {
    /// LLaVA JSON.
    pub data: PathBuf,
    /// The directory that the records' image names start from.
    pub image_folder: PathBuf,
    /// Ask only the first so many questions.
    pub limit: Option<usize>,
    /// Give each record the image of another: what is still right was guessed without looking.
    pub blind: bool,
    /// The longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Questions answered together.
    pub batch: usize,
}

/// As many questions are answered together unless one asks for another number.
pub const BATCH: usize = 128;

/// One question with the model's answer.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The record's index and id.
    pub record: String,
    /// Its images.
    pub images: Vec<String>,
    /// The question.
    pub question: String,
    /// The record's answer.
    pub expected: String,
    /// The model's.
    pub answer: String,
}

impl Answered {
    /// Whether the model is right.
    pub fn correct(&self) -> bool {
        normal(&self.answer) == normal(&self.expected)
    }

    /// One line of answers.jsonl.
    pub fn to_json(&self) -> Value {
        json!({
            "record": self.record, "image": self.images, "question": self.question, "expected": self.expected,
            "answer": self.answer, "correct": self.correct(),
        })
    }
}

fn normal(text: &str) -> String {
    let text = text.trim().to_lowercase();
    text.strip_suffix('.').unwrap_or(&text).trim().to_string()
}

/// Asks every question and hands each answer to `on_answer`, in order.
///
/// Errors: the data cannot be read or has no question; a record whose image cannot be read, or whose question is longer
/// than the model's positions.
pub fn run(
    answerer: &Answerer,
    options: &Options,
    on_answer: &mut dyn FnMut(Answered) -> Result<()>,
) -> Result<()> {
    let records = data::read(&options.data)?;
    let pictures = if options.blind { exchanged(&records) } else { (0..records.len()).collect() };
    let mut questions = vec![];
    for (record, picture) in records.iter().zip(pictures) {
        for turn in &record.turns {
            questions.push(Answered {
                record: record.name.clone(),
                images: records[picture].images.clone(),
                question: turn.question.replace(IMAGE, "").trim().to_string(),
                expected: turn.answer.clone(),
                answer: String::new(),
            });
        }
    }
    questions.truncate(options.limit.unwrap_or(usize::MAX));
    if questions.is_empty() {
        return Err(Error::Usage(format!("{}: there is no question to ask", options.data.display())));
    }
    let sampling = Sampling { max_new_tokens: options.max_new_tokens, ..answerer.greedy() };
    for batch in questions.chunks(options.batch) {
        let prompts = batch
            .par_iter()
            .map(|q| {
                let paths: Vec<PathBuf> = q.images.iter().map(|i| options.image_folder.join(i)).collect();
                answerer.prompt(&q.question, &paths).map_err(|error| Error::Data {
                    path: options.data.clone(),
                    record: q.record.clone(),
                    message: error.to_string(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let answers = answerer.answer(&prompts, &sampling, &mut |_, _| Ok(()))?;
        for (question, answer) in batch.iter().zip(answers) {
            on_answer(Answered { answer, ..question.clone() })?;
        }
    }
    Ok(())
}

/// For each record one that shows something else, with as many images: each list of images is exchanged for another.
fn exchanged(records: &[Record]) -> Vec<usize> {
    // The first record of each list of images, by the number of images.
    let mut lists: BTreeMap<usize, BTreeMap<&[String], usize>> = BTreeMap::new();
    for (i, record) in records.iter().enumerate() {
        lists.entry(record.images.len()).or_default().entry(&record.images).or_insert(i);
    }
    let mut random = Random::new(derive(0, &[2]), 0);
    let mut to = BTreeMap::new();
    for same in lists.into_values() {
        let mut shuffled: Vec<(&[String], usize)> = same.into_iter().collect();
        random.shuffle(&mut shuffled);
        let next = shuffled.iter().cycle().skip(1).map(|&(_, first)| first);
        to.extend(shuffled.iter().map(|&(images, _)| images).zip(next));
    }
    records.iter().map(|record| to[record.images.as_slice()]).collect()
}

/// Counts right answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Score {
    /// Questions asked.
    pub questions: usize,
    /// Answered right.
    pub correct: usize,
}

impl Score {
    /// Counts one answer.
    pub fn add(&mut self, answered: &Answered) {
        self.questions += 1;
        self.correct += answered.correct() as usize;
    }

    /// The share of right answers; 0 if there were no questions.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.questions.max(1) as f64
    }

    /// The last line that `neva eval` prints.
    pub fn to_json(&self) -> Value {
        json!({"questions": self.questions, "correct": self.correct, "accuracy": self.accuracy()})
    }
}

#[cfg(test)]
mod tests {
    use super::{Record, exchanged, normal};
    use std::collections::BTreeMap;

    #[test]
    fn blind_questions_get_what_another_record_shows() {
        let record = |images: &[&str]| Record {
            name: String::new(),
            images: images.iter().map(|s| s.to_string()).collect(),
            system: None,
            turns: vec![],
        };
        let lists: [&[&str]; 9] =
            [&["a"], &["a"], &["b"], &["c"], &["a"], &[], &["a", "b"], &["b", "a"], &["a", "b"]];
        let records: Vec<Record> = lists.iter().map(|images| record(images)).collect();
        let mut of: BTreeMap<&[String], &[String]> = BTreeMap::new();
        for (record, to) in records.iter().zip(exchanged(&records)) {
            let images = records[to].images.as_slice();
            assert_eq!(images.len(), record.images.len());
            assert!(images != record.images || images.is_empty(), "{images:?} for itself");
            assert_eq!(
                *of.entry(&record.images).or_insert(images),
                images,
                "records of one list get one list"
            );
        }
        let mut taken: Vec<_> = of.values().collect();
        taken.sort();
        taken.dedup();
        assert_eq!(taken.len(), of.len(), "each list is given once");
    }

    #[test]
    fn case_space_and_a_final_full_stop_do_not_count() {
        assert_eq!(normal("  Blue.\n"), "blue");
        assert_eq!(normal("3.5"), "3.5");
    }
}
