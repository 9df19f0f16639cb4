//! The untyped tree between the YAML text and the typed sections, and the text it came from.
//!
//! serde loses the place where a value was written. Here every key gets a number in reading order, and the line
//! of key *n* is found when a message needs it: the text is parsed once more and the walk stops at key *n*, where
//! the parser itself names the line. There is no second YAML scanner that could disagree with the first.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::error::one_line;
use crate::{Error, Result};

/// A YAML value. Numbers keep the difference between `1` and `1.0`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub key: String,
    pub value: Value,
    pub origin: Origin,
}

/// Where a key was written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Origin {
    /// The n-th key of the file.
    File(usize),
    /// A `key=value` word.
    CommandLine,
    /// Nowhere: the default of a key that was not given.
    Default,
}

/// A configuration text and the name by which messages call it.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub name: String,
    pub text: String,
}

impl Source {
    /// The tree of the whole text: a mapping.
    pub fn parse(&self) -> Result<Value> {
        if open_brackets(&self.text) > MOST_OPEN_BRACKETS {
            let message = format!("opens more than {MOST_OPEN_BRACKETS} brackets without closing them");
            return Err(self.file_error(None, &message));
        }
        let mut walk = Walk { room: room(&self.text), ..Walk::default() };
        match walk.run(&self.text) {
            Ok(Value::Null) => {
                Err(self.file_error(None, "is empty; expected the keys trainer, exp_manager and model"))
            }
            Ok(map @ Value::Map(_)) => Ok(map),
            Ok(other) => Err(self.file_error(
                None,
                &format!("expected the keys trainer, exp_manager and model, got {}", other.describe()),
            )),
            Err(error) => Err(match walk.duplicate {
                Some((first, second)) => {
                    let first = self.origin(Origin::File(first));
                    let message = format!("is given twice, first at {first}");
                    self.error(Origin::File(second), &walk.path.join("."), message)
                }
                None => self.file_error(error.location().map(|at| at.line()), &yaml_message(&error)),
            }),
        }
    }

    /// An error about the file as a whole, or about a line of it.
    pub fn file_error(&self, line: Option<usize>, message: &str) -> Error {
        let origin = match line {
            Some(line) => format!("{}:{line}", self.name),
            None => self.name.clone(),
        };
        Error::ConfigFile { origin, message: one_line(message) }
    }

    /// An error about one key. A key of foreign bytes stays on one line of reasonable length.
    pub fn error(&self, origin: Origin, key: &str, message: impl Into<String>) -> Error {
        let key = key.chars().take(200).flat_map(char::escape_debug).collect();
        Error::Config { origin: self.origin(origin), key, message: one_line(message) }
    }

    /// `path:line`, or `command line`.
    pub fn origin(&self, origin: Origin) -> String {
        match origin {
            Origin::CommandLine => "command line".to_string(),
            Origin::Default => self.name.clone(),
            Origin::File(ordinal) => match self.line(ordinal) {
                Some(line) => format!("{}:{line}", self.name),
                None => self.name.clone(),
            },
        }
    }

    /// The line, from 1, of the file's key number `ordinal`.
    fn line(&self, ordinal: usize) -> Option<usize> {
        let mut walk = Walk { stop_at: Some(ordinal), room: room(&self.text), ..Walk::default() };
        Some(walk.run(&self.text).err()?.location()?.line())
    }
}

/// The parser needs time quadratic in the brackets that are open, and says that they are nested too deep only after.
const MOST_OPEN_BRACKETS: usize = 1000;

/// The most brackets open at once, those in quotes and comments included.
fn open_brackets(text: &str) -> usize {
    let (mut open, mut most) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// The value of a `key=value` word.
pub(super) fn parse_override(text: &str) -> std::result::Result<Value, String> {
    // Hydra reads `key=` as the empty text, YAML as null.
    if text.is_empty() {
        return Ok(Value::Text(String::new()));
    }
    if open_brackets(text) > MOST_OPEN_BRACKETS {
        return Err(format!("opens more than {MOST_OPEN_BRACKETS} brackets without closing them"));
    }
    let mut walk = Walk { command_line: true, room: room(text), ..Walk::default() };
    walk.run(text).map_err(|error| match walk.duplicate {
        Some(_) => format!("holds {} twice", walk.path.join(".")),
        None => yaml_message(&error),
    })
}

/// The parser's words without the place, which is said in front.
fn yaml_message(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    if text.contains("recursion limit") {
        return "is nested more than 128 levels deep".to_string();
    }
    if text.contains("repetition limit") || text.contains(TOO_LARGE) {
        return "aliases (*name) multiply this too far".to_string();
    }
    format!("is not valid YAML: {}", text.split(" at line ").next().unwrap_or(&text))
}

impl Value {
    /// The entry of a mapping, `None` if there is none or this is no mapping.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match self {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The words an error message calls this value by.
    pub fn describe(&self) -> String {
        match self {
            Value::Null => "null".to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) if value.is_nan() => "NaN".to_string(),
            Value::Float(value) => format!("{value:?}"),
            Value::Text(text) if text.chars().count() > 60 => {
                format!("{:?} and more", text.chars().take(60).collect::<String>())
            }
            Value::Text(text) => format!("{text:?}"),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Map(_) => "a mapping".to_string(),
        }
    }

    /// A scalar as it would stand in the YAML, `None` for a list or a mapping.
    pub fn scalar_text(&self) -> Option<String> {
        match self {
            Value::Text(text) => Some(text.clone()),
            Value::List(_) | Value::Map(_) => None,
            other => Some(other.describe()),
        }
    }
}

/// Text that would be read as an interpolation is escaped, so that what is written reads back as it was.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i128(*value),
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::Text(text) => serializer.serialize_str(&text.replace("${", "\\${")),
            Value::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(item))?;
                list.end()
            }
            Value::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                entries.iter().try_for_each(|entry| map.serialize_entry(&entry.key, &entry.value))?;
                map.end()
            }
        }
    }
}

/// What a walk says when its room is used up.
const TOO_LARGE: &str = "more than there is room for";

/// How much a tree may hold: values, and bytes of text. A text without aliases has less of both than twice its bytes (an
/// escape of two, `\L`, is a character of three); the parser's own limit is the number of aliases, and each may stand
/// for most of the file.
fn room(text: &str) -> usize {
    2 * text.len() + 1000
}

/// One pass over a text: builds the tree, or stops at one key.
#[derive(Default)]
struct Walk {
    /// Keys seen so far.
    keys: usize,
    /// Fail at this key, for the parser to say its line.
    stop_at: Option<usize>,
    /// Keys from the root to here.
    path: Vec<String>,
    /// Both numbers of a key that its mapping holds twice; `path` ends in it.
    duplicate: Option<(usize, usize)>,
    command_line: bool,
    /// How many more values and bytes of text the tree may hold.
    room: usize,
}

impl Walk {
    fn run(&mut self, text: &str) -> std::result::Result<Value, serde_yaml::Error> {
        self.deserialize(serde_yaml::Deserializer::from_str(text))
    }

    fn charge<E: serde::de::Error>(&mut self, size: usize) -> std::result::Result<(), E> {
        self.room = self.room.checked_sub(size).ok_or_else(|| E::custom(TOO_LARGE))?;
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Walk {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        self.charge(1)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Walk {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value without a !tag")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> std::result::Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u128<E>(self, value: u128) -> std::result::Result<Value, E> {
        Ok(i128::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> std::result::Result<Value, E> {
        self.charge(value.len())?;
        Ok(Value::Text(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(&mut *self)? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut ordinals = std::collections::HashMap::new();
        while let Some(key) = map.next_key_seed(Key(self))? {
            let ordinal = self.keys;
            self.keys += 1;
            self.charge(key.len())?;
            self.path.push(key.clone());
            if let Some(first) = ordinals.insert(key.clone(), ordinal) {
                self.duplicate = Some((first, ordinal));
                return Err(A::Error::custom("duplicate key"));
            }
            let value = map.next_value_seed(&mut *self)?;
            self.path.pop();
            let origin = if self.command_line { Origin::CommandLine } else { Origin::File(ordinal) };
            entries.push(Entry { key, value, origin });
        }
        Ok(Value::Map(entries))
    }
}

/// Reads a key; this is where the walk to a given key stops.
struct Key<'a>(&'a Walk);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a word as the key")
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> std::result::Result<String, E> {
        if self.0.stop_at == Some(self.0.keys) {
            return Err(E::custom("found"));
        }
        Ok(value.to_string())
    }
}
