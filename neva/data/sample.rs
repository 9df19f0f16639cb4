//! One record as the model sees it: ids, and which of them it must predict.
//!
//! What is supervised is known from the text (see [`template`](super::template)), and checked here: decoding the supervised
//! ids of an answer gives the answer and what ends it, or the record is refused. Nothing is silently masked.

use std::ops::Range;

use super::encode::{ImageTokens, encode};
use super::records::Record;
use super::template::{Exchange, render};
use crate::config::schema::Template;
use crate::model::{Batch, IGNORE};
use crate::tokenizer::Tokenizer;

/// The ids of a record. An image is one id here and `rows` of them in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The last id is to be predicted, and is no input.
    ids: Vec<u32>,
    /// Where in `ids` its images stand.
    images: Vec<u32>,
    /// The parts of `ids` that are to be predicted.
    answers: Vec<Range<u32>>,
    /// Whether something was cut off at the end.
    truncated: bool,
}

impl Sample {
    /// The sample of a record, of at most `max_len` rows: what comes after is cut off.
    ///
    /// # Errors
    /// A sentence without the record's name: the template has no place for the record; the tokenizer does not give an
    /// answer back; the cut leaves no token to predict, or goes through an image.
    pub fn new(
        record: &Record,
        template: Template,
        tokenizer: &Tokenizer,
        images: ImageTokens,
        max_len: usize,
    ) -> Result<Self, String> {
        let exchanges: Vec<Exchange> = (record.turns.iter())
            .map(|turn| Exchange {
                question: &turn.question,
                answer: Some(&turn.answer),
                label: turn.label.as_deref(),
            })
            .collect();
        let rendered = render(template, tokenizer, record.system.as_deref(), &exchanges)?;
        let mut encoded = encode(&rendered, tokenizer, images)?;
        for (ids, text) in encoded.answers.iter().zip(&rendered.answers) {
            check(tokenizer, &encoded.ids[ids.clone()], &rendered.text[text.clone()])?;
        }

        // The last row predicts an id that is no row itself: max_len rows are max_len + 1 ids.
        let rows = encoded.ids.len() + encoded.images.len() * (images.rows - 1) - 1;
        let truncated = rows > max_len;
        if truncated {
            let kept = keep(&encoded.ids, &encoded.images, images.rows, max_len + 1).ok_or_else(|| {
                format!("is {rows} rows long, and the cut at {max_len} goes through an image")
            })?;
            for answer in &mut encoded.answers {
                answer.end = answer.end.min(kept);
            }
            encoded.answers.retain(|answer| answer.start < answer.end);
        }
        let Some(last) = encoded.answers.last() else {
            return Err(format!("is {rows} rows long: the cut at {max_len} leaves no token to predict"));
        };
        // What follows the last id that is predicted has no effect on anything.
        encoded.ids.truncate(last.end);
        encoded.images.retain(|&at| at < last.end);
        let to_u32 = |at: usize| u32::try_from(at).expect("a sample has less than 2^32 ids");
        Ok(Sample {
            ids: encoded.ids,
            images: encoded.images.into_iter().map(to_u32).collect(),
            answers: encoded.answers.iter().map(|a| to_u32(a.start)..to_u32(a.end)).collect(),
            truncated,
        })
    }

    /// How many images it has left. They are the first of its record.
    pub fn images(&self) -> usize {
        self.images.len()
    }

    /// Whether its end was cut off.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// How many ids are to be predicted; at least one.
    pub fn supervised(&self) -> usize {
        self.answers.iter().map(|answer| answer.len()).sum()
    }

    /// How many rows it has in a batch.
    pub fn rows(&self, images: ImageTokens) -> usize {
        self.ids.len() - 1 + self.images.len() * (images.rows - 1)
    }

    /// Appends its rows to `batch`, with weight `weight` where something is to be predicted. `first_key` is the key of
    /// its first row; the rows after it count on. Pixels are not added.
    pub(super) fn append(&self, batch: &mut Batch, images: ImageTokens, weight: f32, first_key: u32) {
        if batch.cu_seqlens.is_empty() {
            batch.cu_seqlens.push(0);
        }
        let first = batch.ids.len();
        let mut places = self.images.iter().peekable();
        let mut answers = self.answers.iter().peekable();
        for (at, pair) in self.ids.windows(2).enumerate() {
            let at = at as u32;
            if places.next_if_eq(&&at).is_some() {
                let start = batch.ids.len() as u32;
                batch.image_rows.extend(start..start + images.rows as u32);
                batch.ids.extend(std::iter::repeat_n(images.token, images.rows));
                batch.labels.extend(std::iter::repeat_n(IGNORE, images.rows - 1));
            } else {
                batch.ids.push(pair[0]);
            }
            while answers.next_if(|answer| answer.end <= at + 1).is_some() {}
            let supervised = answers.peek().is_some_and(|answer| answer.contains(&(at + 1)));
            batch.labels.push(if supervised { pair[1] } else { IGNORE });
        }
        let rows = (batch.ids.len() - first) as u32;
        batch.positions.extend(0..rows);
        batch.keys.extend((0..rows).map(|row| first_key.wrapping_add(row)));
        let labels = &batch.labels[first..];
        batch.weights.extend(labels.iter().map(|&label| if label == IGNORE { 0.0 } else { weight }));
        batch.cu_seqlens.push(batch.ids.len() as u32);
        batch.images += self.images.len();
    }
}

/// How many of `ids` fit in `room` rows, when an image is `rows` of them; None when an image fits in part.
fn keep(ids: &[u32], images: &[usize], rows: usize, room: usize) -> Option<usize> {
    let (mut used, mut at) = (0, 0);
    let mut images = images.iter().peekable();
    while at < ids.len() && used < room {
        used += if images.next_if_eq(&&at).is_some() { rows } else { 1 };
        at += 1;
    }
    (used <= room).then_some(at)
}

/// Decoding the ids of an answer gives the answer. One space at its beginning does not count: it may be the template's, or
/// one that the tokenizer puts before a text, and decoding leaves it out or not.
fn check(tokenizer: &Tokenizer, ids: &[u32], text: &str) -> Result<(), String> {
    let decoded = tokenizer.decode(ids, true);
    if decoded == text || text.strip_prefix(' ') == Some(&decoded) || decoded.strip_prefix(' ') == Some(text)
    {
        return Ok(());
    }
    let (decoded, text) = (decoded.trim_start_matches(' '), text.trim_start_matches(' '));
    let same = decoded.chars().zip(text.chars()).take_while(|(a, b)| a == b).count();
    let from_there = |text: &str| text.chars().skip(same).take(20).collect::<String>();
    Err(format!(
        "the tokenizer does not give the answer back: after {same} characters {:?} became {:?}",
        from_there(text),
        from_there(decoded)
    ))
}
