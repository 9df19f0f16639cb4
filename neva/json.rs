//! JSON files, read strictly: UTF-8 without a byte order mark, no key twice in one object, and no more memory than
//! [`MOST_PER_BYTE`].
//!
//! serde_json takes the last of two equal keys without a word; which one the author of the file meant is not known. And
//! an object of one key, eight bytes of a text, is 632 bytes in its tree.

use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
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
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let tree = Strict(&mut Room::of(bytes)).deserialize(&mut json);
    tree.and_then(|tree| json.end().map(|()| tree)).map_err(|error| describe(&error))
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

/// Bytes of memory that the tree may take for a byte of the text. A vocabulary of short words, the densest text that
/// anybody means, takes half of it.
const MOST_PER_BYTE: usize = 32;

/// Bytes that it may take whatever the text: a short one may be dense.
const FREE_BYTES: usize = 1 << 16;

/// What an item of a list takes.
const VALUE_BYTES: usize = size_of::<Value>();

/// What a node of an object takes, with its part of the nodes above.
const NODE_BYTES: usize = 11 * (size_of::<String>() + VALUE_BYTES) + 128;

/// The entries for which an object has a node: 11 fit, but when they come in order each is split at the sixth.
const NODE_ENTRIES: usize = 6;

/// The memory that is left to a tree.
pub(crate) struct Room(usize);

impl Room {
    /// That for the tree of this text.
    pub(crate) fn of(text: &[u8]) -> Room {
        Room(MOST_PER_BYTE * text.len() + FREE_BYTES)
    }

    fn take<E: serde::de::Error>(&mut self, bytes: usize) -> std::result::Result<(), E> {
        self.0 = self.0.checked_sub(bytes).ok_or_else(|| {
            E::custom(format!(
                "holds so many short lists or objects that each byte takes {MOST_PER_BYTE} of memory"
            ))
        })?;
        Ok(())
    }

    fn give(&mut self, bytes: usize) {
        self.0 += bytes;
    }
}

/// Reads a value none of whose objects has a key twice, and for which there is room.
pub(crate) struct Strict<'a>(pub(crate) &'a mut Room);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
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

    fn visit_str<E: serde::de::Error>(self, value: &str) -> std::result::Result<Value, E> {
        self.0.take(value.len())?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Strict(&mut *self.0))? {
            let full = items.len();
            if full == items.capacity() {
                // Twice as much, and until it is copied the old beside the new. A list of one item has room for one.
                let more = full.max(1);
                self.0.take((full + more) * VALUE_BYTES)?;
                items.reserve_exact(more);
                self.0.give(full * VALUE_BYTES);
            }
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
            let node = if object.len().is_multiple_of(NODE_ENTRIES) { NODE_BYTES } else { 0 };
            self.0.take(node + key.len())?;
            let value = map.next_value_seed(Strict(&mut *self.0))?;
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

    #[test]
    fn a_tree_far_larger_than_its_text_is_refused() {
        let list = |item: &str, count| format!("[{}]", vec![item; count].join(","));
        let item = "{\"\":0}";
        assert!(parse(list(item, 100).as_bytes()).is_ok());
        let error = parse(list(item, 100_000).as_bytes()).err().unwrap_or_default();
        let words =
            "holds so many short lists or objects that each byte takes 32 of memory at line 1 column ";
        assert!(error.starts_with(words), "{error}");
        assert!(parse(list("\"a word\"", 100_000).as_bytes()).is_ok());
    }
}
