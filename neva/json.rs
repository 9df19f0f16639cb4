//! JSON files, read strictly: UTF-8 without a byte order mark, and no key twice in one object.
//!
//! serde_json takes the last of two equal keys without a word; which one the author of the file meant is not known.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::{Error, Result};

/// Reads a file that belongs to a model: [`Error::Checkpoint`] names it.
pub(crate) fn read(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    parse(&bytes).map_err(|message| Error::Checkpoint { path: path.into(), message })
}

/// The value in the bytes of a file. The error is a sentence without the file's name.
pub(crate) fn parse(bytes: &[u8]) -> std::result::Result<Value, String> {
    check_text(bytes)?;
    serde_json::from_slice::<Strict>(bytes).map(|strict| strict.0).map_err(|error| describe(&error))
}

/// Refuses bytes that are no UTF-8 text, by what they seem to be.
pub(crate) fn check_text(bytes: &[u8]) -> std::result::Result<(), String> {
    match bytes {
        [] => return Err("is empty; expected JSON".into()),
        [0xef, 0xbb, 0xbf, ..] => {
            return Err("begins with a byte order mark; expected JSON in UTF-8 without one".into());
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Err("is UTF-16; expected JSON in UTF-8".into()),
        _ => {}
    }
    std::str::from_utf8(bytes).map(|_| ()).map_err(|error| {
        if error.error_len().is_none() {
            return "is cut off inside a character; expected JSON in UTF-8".to_string();
        }
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        format!("is not UTF-8 text in line {line}; expected JSON in UTF-8")
    })
}

/// What is wrong with a text: serde_json's words, and ours where its would puzzle.
pub(crate) fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if let Some(place) = text.strip_prefix("recursion limit exceeded") {
        return format!("is nested more than 128 levels deep{place}");
    }
    if error.is_data() { text } else { format!("not JSON: {text}") }
}

/// A value none of whose objects has a key twice.
pub(crate) struct Strict(pub(crate) Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(Tree).map(Strict)
    }
}

/// Builds the value.
struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> std::result::Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("{} is given twice", shorten(key.as_str()))));
            }
            let Strict(value) = map.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// A value, or a text in quotes, for an error message: no longer than a line.
pub(crate) fn shorten(value: impl Into<Value>) -> String {
    let text = match value.into() {
        Value::Array(items) if items.len() > 4 => return format!("a list of {}", items.len()),
        Value::Object(entries) if entries.len() > 4 => return format!("an object of {} keys", entries.len()),
        value => value.to_string(),
    };
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        for text in
            ["null", "[]", r#"{"a": [1, -2, 0.5, true, "\u00e9", {"a": {}}]}"#, "18446744073709551615"]
        {
            assert_eq!(parse(text.as_bytes()).ok(), serde_json::from_str(text).ok(), "{text}");
        }
    }

    #[test]
    fn what_is_no_strict_json_is_refused_in_words() {
        let error = |bytes: &[u8]| parse(bytes).err().unwrap_or_default();
        let cases: [(&[u8], &str); 9] = [
            (b"{\"\xc3", "is cut off inside a character; expected JSON in UTF-8"),
            (b"", "is empty; expected JSON"),
            (b"\xef\xbb\xbf{}", "begins with a byte order mark; expected JSON in UTF-8 without one"),
            (b"\xff\xfe{\0}\0", "is UTF-16; expected JSON in UTF-8"),
            (b"{\n\"\xe9\": 1}", "is not UTF-8 text in line 2; expected JSON in UTF-8"),
            (b"{\"a\": ", "not JSON: EOF while parsing a value at line 1 column 6"),
            (b"{\"a\": {\"b\": 1, \"b\": 1}}", "\"b\" is given twice at line 1 column 18"),
            (b"1e999", "not JSON: number out of range at line 1 column 5"),
            (&[b'['; 10_000], "is nested more than 128 levels deep at line 1 column 128"),
        ];
        for (bytes, message) in cases {
            assert_eq!(error(bytes), message);
        }
    }
}
