//! The values of flags: what each takes, and the one sentence that a value which is none of these is answered with.

use std::error::Error as _;
use std::str::FromStr;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

type Parsed<T> = std::result::Result<T, String>;

/// A value that is `right`, or a sentence of what was `expected`; what was given is added by [`refusal`].
fn parse<T: FromStr>(text: &str, right: impl Fn(&T) -> bool, expected: &str) -> Parsed<T> {
    text.parse().ok().filter(right).ok_or_else(|| format!("expected {expected}"))
}

/// A count of at least 1, for arguments that make no sense at 0.
pub fn positive(text: &str) -> Parsed<usize> {
    parse(text, |n| *n > 0, &format!("a whole number of at least 1{}", bound(text)))
}

/// A count that may be 0.
pub fn count(text: &str) -> Parsed<usize> {
    parse(text, |_| true, &format!("a whole number of at least 0{}", bound(text)))
}

/// What is the matter with digits that make no number here.
fn bound(text: &str) -> &'static str {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits && text.parse::<usize>().is_err() { ", below 2^64" } else { "" }
}

/// A count from 1 to `MOST`, for arguments whose product is a size.
pub fn up_to<const MOST: usize>(text: &str) -> Parsed<usize> {
    parse(text, |n| (1..=MOST).contains(n), &format!("a whole number from 1 to {MOST}"))
}

/// The seed of a generator.
pub fn seed(text: &str) -> Parsed<u64> {
    parse(text, |_| true, &format!("a whole number from 0 to {}", u64::MAX))
}

/// A finite number of at least 0.
pub fn at_least_zero(text: &str) -> Parsed<f64> {
    parse(text, |x: &f64| *x >= 0.0 && x.is_finite(), "a number of at least 0")
}

/// A finite number above 0.
pub fn above_zero(text: &str) -> Parsed<f64> {
    parse(text, |x: &f64| *x > 0.0 && x.is_finite(), "a number above 0")
}

/// A part of the whole that is not nothing.
pub fn probability(text: &str) -> Parsed<f64> {
    parse(text, |x: &f64| *x > 0.0 && *x <= 1.0, "a number above 0, at most 1")
}

/// A text with something in it.
pub fn word(text: &str) -> Parsed<String> {
    parse(text, |word: &String| !word.is_empty(), "a text that is not empty")
}

/// The command, in which every flag takes `-1` for its value instead of another flag, and then says what is wrong with it.
pub fn may_be_negative(command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_string()).collect();
    let command = command.mut_args(|argument| match argument.get_action().takes_values() {
        true => argument.allow_negative_numbers(true),
        false => argument,
    });
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, may_be_negative))
}

/// What is said about a value that a flag does not take: the flag, what was expected, what was given. None if the command
/// line is wrong in another way, for which clap's own words, with its hints, do.
pub fn refusal(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    // `--threads <THREADS>`, or `[OP]`.
    let argument = text(ContextKind::InvalidArg)?;
    let flag = argument.split(' ').next()?;
    let given = text(ContextKind::InvalidValue)?;
    let expected = match (error.kind(), error.get(ContextKind::ValidValue)) {
        (ErrorKind::ValueValidation, _) => error.source()?.to_string(),
        (ErrorKind::InvalidValue, Some(ContextValue::Strings(values))) => match &values[..] {
            [first @ .., last] if !first.is_empty() => format!("expected {} or {last}", first.join(", ")),
            _ => return Some(format!("{argument}: the value is missing")),
        },
        (ErrorKind::InvalidValue, _) => return Some(format!("{argument}: the value is missing")),
        _ => return None,
    };
    Some(format!("{flag}: {expected}, got {given:?}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cli::Arguments;

    fn refused(words: &str) -> Option<String> {
        let error = Arguments::read(words.split(' ')).err().unwrap();
        refusal(&error)
    }

    #[test]
    fn a_value_is_refused_with_its_flag_and_what_was_expected() {
        for (words, sentence) in [
            ("neva bench step --threads=x", "--threads: expected a whole number from 1 to 4096, got \"x\""),
            ("neva bench step --dtype=f64", "--dtype: expected f32 or bf16, got \"f64\""),
            ("neva bench step --train=tower", "--train: expected all, projector or llm, got \"tower\""),
            ("neva bench step --dtype=", "--dtype: expected f32 or bf16, got \"\""),
            ("neva quickstart --out=", "--out <DIR>: the value is missing"),
            ("neva quickstart --out", "--out <DIR>: the value is missing"),
            ("neva bench step --batch -1", "--batch: expected a whole number from 1 to 4096, got \"-1\""),
        ] {
            assert_eq!(refused(words).as_deref(), Some(sentence), "{words}");
        }
    }

    #[test]
    fn what_is_not_about_a_value_is_left_to_clap() {
        for words in
            ["neva", "neva train", "neva bench step --tempo=3", "neva bench step extra", "neva --help"]
        {
            assert_eq!(refused(words), None, "{words}");
        }
    }
}
