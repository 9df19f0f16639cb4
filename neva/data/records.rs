//! LLaVA JSON: a list of records, each with its images and a conversation about them.
//!
//! ```json
//! [{"id": "0", "image": "a.png", "conversations": [
//!     {"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A cat."}]}]
//! ```
//!
//! | key | value |
//! |---|---|
//! | `id` | text or number, optional; errors name it |
//! | `image` | a path or a list of paths, from the image folder unless absolute; without it the record is text only |
//! | `conversations` | turns by `human` and `gpt`, alternating; each with `from` and `value` |
//! | `system` | optional: stands in place of the template's system text |
//! | `label` of a gpt turn | optional: NVGPT's line of qualities; other templates have no place for it and do not use it |
//!
//! Other keys are allowed and not read. As in LLaVA, a first turn that is not human is left out. Everything else that
//! does not fit is an error: LLaVA and NeMo then train on something other than what was written.

use std::fmt;
use std::path::Path;

use serde::Deserializer as _;
use serde::de::{SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::one_line;
use crate::json::{Room, Strict, check_text, describe, shorten};
use crate::{Error, Result};

/// Where an image stands in a text.
pub const IMAGE: &str = "<image>";

/// A conversation and its images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What errors call it: its index in the file, and its id if it has one.
    pub name: String,
    /// The images' paths as they are written, in the order of the [`IMAGE`]s.
    pub images: Vec<String>,
    /// The system text, if the record has its own.
    pub system: Option<String>,
    /// Questions and answers, at least one.
    pub turns: Vec<Turn>,
}

/// A question with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What the human says; may hold [`IMAGE`].
    pub question: String,
    /// What the model is to say.
    pub answer: String,
    /// NVGPT's line of qualities of this answer.
    pub label: Option<String>,
}

/// Reads a file of records.
///
/// # Errors
/// [`Error::Io`]; [`Error::DataFile`] when the file is not a JSON list or is cut off, with the line; [`Error::Data`] when a
/// record is not as the table above says.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let file = std::fs::read(path).map_err(Error::io(path))?;
    let whole = |message: String| Error::DataFile { path: path.into(), message };
    check_text(&file).map_err(whole)?;
    let mut list = List { path, file: &file, records: Vec::new(), begun: false, failed: None };
    let mut json = serde_json::Deserializer::from_slice(&file);
    let read = json.deserialize_seq(&mut list).and_then(|()| json.end());
    if let Some(error) = list.failed {
        return Err(error);
    }
    let records = list.records.len();
    match read {
        // Behind the first bracket only a key that is given twice and too large a tree are wrong data.
        Err(error) if error.is_data() && list.begun => Err(Error::Data {
            path: path.into(),
            record: records.to_string(),
            message: one_line(describe(&error)),
        }),
        Err(error) if error.is_data() => Err(whole(format!("expected a list of records: {error}"))),
        Err(error) if error.is_syntax() && error.to_string().starts_with("recursion limit") => {
            Err(Error::Data { path: path.into(), record: records.to_string(), message: describe(&error) })
        }
        Err(error) => {
            Err(whole(format!("not JSON, or cut off, after {}: {error}", count(records, "record"))))
        }
        Ok(()) if list.records.is_empty() => Err(whole("the list of records is empty".into())),
        Ok(()) => Ok(list.records),
    }
}

/// Takes the records one by one, so that no more than one of them is in memory as JSON.
struct List<'a> {
    path: &'a Path,
    /// Its bytes.
    file: &'a [u8],
    records: Vec<Record>,
    /// Whether it is a list.
    begun: bool,
    /// Why the last record was refused: it stops the reading.
    failed: Option<Error>,
}

impl<'de> Visitor<'de> for &mut List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        self.begun = true;
        while let Some(value) = list.next_element_seed(Strict(&mut Room::of(self.file)))? {
            let name = name(self.records.len(), &value);
            match record(name.clone(), &value) {
                Ok(record) => self.records.push(record),
                Err(message) => {
                    self.failed = Some(Error::Data {
                        path: self.path.into(),
                        record: name,
                        message: one_line(message),
                    });
                    return Err(serde::de::Error::custom("a record was refused"));
                }
            }
        }
        Ok(())
    }
}

fn name(index: usize, record: &Value) -> String {
    match record.get("id") {
        Some(Value::String(id)) => format!("{index} ({})", shorten(id.as_str())),
        Some(Value::Number(id)) => format!("{index} ({id})"),
        _ => index.to_string(),
    }
}

fn record(name: String, value: &Value) -> std::result::Result<Record, String> {
    let record = value.as_object().ok_or_else(|| format!("expected an object, found {}", kind(value)))?;
    match record.get("id") {
        None | Some(Value::Null | Value::String(_) | Value::Number(_)) => {}
        Some(other) => return Err(format!("\"id\": expected text or a number, found {}", kind(other))),
    }
    if record.contains_key("video") {
        return Err("\"video\" is not supported in this version".into());
    }
    let images = images(record)?;
    let system = optional_text(record, "system")?;
    let turns = turns(record)?;
    let places: usize = turns.iter().map(|turn| turn.question.matches(IMAGE).count()).sum();
    if places != images.len() {
        let (found, listed) = (count(places, IMAGE), count(images.len(), "image"));
        return Err(format!("the turns hold {found}, but the record has {listed}"));
    }
    Ok(Record { name, images, system, turns })
}

fn images(record: &Map<String, Value>) -> std::result::Result<Vec<String>, String> {
    let wrong = |what: &str| format!("\"image\": expected a path or a list of paths, found {what}");
    let path = |value: &Value| match value {
        Value::String(path) if !path.is_empty() => Ok(path.clone()),
        Value::String(_) => Err(wrong("empty text")),
        other => Err(wrong(kind(other))),
    };
    match record.get("image") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(paths)) => paths.iter().map(path).collect(),
        Some(one) => Ok(vec![path(one)?]),
    }
}

fn turns(record: &Map<String, Value>) -> std::result::Result<Vec<Turn>, String> {
    let conversations = match record.get("conversations") {
        Some(Value::Array(turns)) => turns,
        Some(other) => return Err(format!("\"conversations\": expected a list, found {}", kind(other))),
        None => return Err("\"conversations\" is missing".into()),
    };
    let mut said = Vec::with_capacity(conversations.len());
    for (index, turn) in conversations.iter().enumerate() {
        let at = |message: String| format!("turn {index}: {message}");
        let turn = turn.as_object().ok_or_else(|| at(format!("expected an object, found {}", kind(turn))))?;
        let human = match text(turn, "from").map_err(at)? {
            "human" => true,
            "gpt" => false,
            other => return Err(at(format!("\"from\": expected human or gpt, found {other:?}"))),
        };
        let value = text(turn, "value").map_err(at)?;
        let label = optional_text(turn, "label").map_err(at)?;
        if index == 0 && !human {
            continue;
        }
        if human == (said.len() % 2 == 1) {
            let (there, expected) = if human { ("human", "gpt") } else { ("gpt", "human") };
            return Err(at(format!("two {there} turns in a row, expected {expected}")));
        }
        if !human && value.contains(IMAGE) {
            return Err(at(format!("{IMAGE} in an answer; images stand in human turns")));
        }
        if human && label.is_some() {
            return Err(at("\"label\" belongs to gpt turns, this one is human".into()));
        }
        said.push((value.to_string(), label));
    }
    if said.is_empty() {
        return Err("\"conversations\" holds no human turn with an answer".into());
    }
    let mut said = said.into_iter();
    let mut turns = Vec::with_capacity(said.len() / 2);
    while let Some((question, _)) = said.next() {
        let Some((answer, label)) = said.next() else {
            return Err("the last human turn has no answer".into());
        };
        turns.push(Turn { question, answer, label });
    }
    Ok(turns)
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> std::result::Result<&'a str, String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("{key:?}: expected text, found {}", kind(other))),
        None => Err(format!("{key:?} is missing")),
    }
}

fn optional_text(object: &Map<String, Value>, key: &str) -> std::result::Result<Option<String>, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => text(object, key).map(|text| Some(text.to_string())),
    }
}

/// What an error calls a value.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// `no image`, `1 image`, `2 images`.
fn count(n: usize, what: &str) -> String {
    match n {
        0 => format!("no {what}"),
        1 => format!("1 {what}"),
        _ => format!("{n} {what}s"),
    }
}
