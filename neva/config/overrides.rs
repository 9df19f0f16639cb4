//! `key=value` words of the command line, with Hydra's meaning.
//!
//! | word | meaning |
//! |---|---|
//! | `key=value` | change a key: one of the file, or a known one that has its default |
//! | `+key=value` | add a key that the file does not have |
//! | `++key=value` | add or change |
//! | `~key` | remove a key of the file |
//!
//! The value is YAML (`model.optim.betas=[0.9,0.99]`), except that nothing after `=` is the empty text.

use super::keys::Keys;
use super::value::{Entry, Origin, Source, Value, parse_override};
use crate::error::one_line;
use crate::json::shorten;
use crate::{Error, Result};

/// No key of ours is deeper; a word of a million dots is refused here.
const MOST_PARTS: usize = 16;

/// Applies the words to the tree, in their order.
pub(super) fn apply(tree: &mut Value, words: &[String], keys: &Keys, source: &Source) -> Result<()> {
    for word in words {
        apply_one(tree, word, keys, source)?;
    }
    Ok(())
}

fn apply_one(tree: &mut Value, word: &str, keys: &Keys, source: &Source) -> Result<()> {
    let usage = |message: String| Error::Usage(one_line(format!("command line: {message}")));
    if let Some(key) = word.strip_prefix('~') {
        return match remove(tree, key) {
            true => Ok(()),
            false => {
                Err(source.error(Origin::CommandLine, key, "is not in the file, so it cannot be removed"))
            }
        };
    }
    let Some((target, text)) = word.split_once('=') else {
        return Err(usage(format!("{}: expected key=value, +key=value, ++key=value or ~key", shorten(word))));
    };
    let (key, may_change) = match target.strip_prefix("++") {
        Some(key) => (key, true),
        None => match target.strip_prefix('+') {
            Some(key) => (key, false),
            None => (target, true),
        },
    };
    let parts: Vec<&str> = key.split('.').collect();
    if parts.len() > MOST_PARTS || parts.iter().any(|part| part.is_empty()) {
        return Err(usage(format!("{}: expected a key of words with dots between", shorten(word))));
    }
    let error = |message: String| source.error(Origin::CommandLine, key, message);
    if !keys.knows(key) {
        return Err(error(keys.unknown(key)));
    }
    let value = parse_override(text).map_err(|message| error(format!("{text:?} {message}")))?;
    if let Some(entry) = find(tree, &parts)
        && !may_change
    {
        let place = source.origin(entry.origin);
        return Err(error(format!("is already set at {place}; say {key}=… or ++{key}=… to change it")));
    }
    set(tree, &parts, value).map_err(error)
}

fn find<'a>(tree: &'a Value, parts: &[&str]) -> Option<&'a Entry> {
    let entry = tree.entry(parts.first()?)?;
    if parts.len() == 1 { Some(entry) } else { find(&entry.value, &parts[1..]) }
}

/// Sets the value at `parts`, making the mappings on the way; a mapping is merged into a mapping, as Hydra does.
fn set(tree: &mut Value, parts: &[&str], value: Value) -> std::result::Result<(), String> {
    if *tree == Value::Null {
        *tree = Value::Map(Vec::new());
    }
    let Value::Map(entries) = tree else {
        return Err(format!("cannot be set, because a key above it is {}", tree.describe()));
    };
    let index = match entries.iter().position(|entry| entry.key == parts[0]) {
        Some(index) => index,
        None => {
            let key = parts[0].to_string();
            entries.push(Entry { key, value: Value::Null, origin: Origin::CommandLine });
            entries.len() - 1
        }
    };
    let entry = &mut entries[index];
    if parts.len() > 1 {
        return set(&mut entry.value, &parts[1..], value);
    }
    match (&mut entry.value, value) {
        (old @ Value::Map(_), Value::Map(new)) => {
            new.into_iter().try_for_each(|child| set(old, &[&child.key], child.value))
        }
        (_, value) => {
            entry.value = value;
            entry.origin = Origin::CommandLine;
            Ok(())
        }
    }
}

/// Removes the entry of a dotted key; false if there is none.
fn remove(tree: &mut Value, key: &str) -> bool {
    let Value::Map(entries) = tree else { return false };
    match key.split_once('.') {
        Some((first, rest)) => entries
            .iter_mut()
            .find(|entry| entry.key == first)
            .is_some_and(|entry| remove(&mut entry.value, rest)),
        None => {
            let before = entries.len();
            entries.retain(|entry| entry.key != key);
            entries.len() < before
        }
    }
}
