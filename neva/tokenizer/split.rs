//! Cutting text into the words within which byte-level BPE merges.
//!
//! Tokenizer files say how with a regular expression, and there are few of them in use. Each is known here by its text
//! and has a scanner written by hand; any other is refused. `\p{L}` and `\p{N}` are the general categories L and N of
//! Unicode, and `\s` is White_Space.

use std::ops::Range;

use unicode_general_category::{GeneralCategory, get_general_category};

/// GPT-2, in both spellings that occur.
pub(super) const GPT2: [&str; 2] = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
];
/// LLaMA-3.
pub(super) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen-2, which is LLaMA-3 with single digits.
pub(super) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A way to cut text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// The pattern [`GPT2`].
    Gpt2,
    /// The pattern [`LLAMA3`], or [`QWEN2`], with up to `digits` digits in a word.
    Llama3 {
        /// 3 or 1.
        digits: usize,
    },
    /// Runs of digits, or every digit, apart from the rest.
    Digits {
        /// Every digit for itself.
        individual: bool,
    },
}

impl Split {
    /// The scanner of a regular expression.
    pub(super) fn of_pattern(pattern: &str) -> Option<Split> {
        match pattern {
            LLAMA3 => Some(Split::Llama3 { digits: 3 }),
            QWEN2 => Some(Split::Llama3 { digits: 1 }),
            _ => GPT2.contains(&pattern).then_some(Split::Gpt2),
        }
    }

    /// The length in bytes of the word that `text`, not empty, begins with.
    fn word(self, text: &str) -> usize {
        match self {
            Split::Gpt2 => gpt2(text),
            Split::Llama3 { digits } => llama3(text, digits),
            Split::Digits { individual } => {
                let run = |numeric: bool| run(text, |c| c.is_numeric() == numeric);
                match text.chars().next() {
                    Some(c) if c.is_numeric() && individual => c.len_utf8(),
                    Some(c) => run(c.is_numeric()),
                    None => 0,
                }
            }
        }
    }
}

/// Cuts `text[range]` by the first of `splits`, every part by the second, and so on, and hands on the words in order.
pub(super) fn words(splits: &[Split], text: &str, range: Range<usize>, word: &mut impl FnMut(Range<usize>)) {
    let Some((first, rest)) = splits.split_first() else {
        word(range);
        return;
    };
    let mut at = range.start;
    while at < range.end {
        let length = first.word(&text[at..range.end]);
        assert!(length > 0, "every text begins with a word");
        words(rest, text, at..at + length, word);
        at += length;
    }
}

fn letter(c: char) -> bool {
    use GeneralCategory::*;
    c.is_ascii_alphabetic()
        || !c.is_ascii()
            && matches!(
                get_general_category(c),
                UppercaseLetter | LowercaseLetter | TitlecaseLetter | ModifierLetter | OtherLetter
            )
}

fn number(c: char) -> bool {
    use GeneralCategory::*;
    c.is_ascii_digit()
        || !c.is_ascii() && matches!(get_general_category(c), DecimalNumber | LetterNumber | OtherNumber)
}

/// `[^\s\p{L}\p{N}]`
fn other(c: char) -> bool {
    !c.is_whitespace() && !letter(c) && !number(c)
}

fn line_end(c: char) -> bool {
    c == '\r' || c == '\n'
}

/// The length of the longest prefix of characters that are all `of` a kind.
fn run(text: &str, of: impl Fn(char) -> bool) -> usize {
    text.find(|c| !of(c)).unwrap_or(text.len())
}

/// ` ?X+`: the length of a run of a kind after an optional space; 0 without a match.
fn spaced_run(text: &str, of: impl Fn(char) -> bool) -> usize {
    let space = usize::from(text.starts_with(' '));
    match run(&text[space..], of) {
        0 => 0,
        length => space + length,
    }
}

/// `\s+(?!\S)|\s+`: a run of whitespace, without its last character if a word follows and there is another.
fn whitespace(text: &str) -> usize {
    let length = run(text, char::is_whitespace);
    let last = text[..length].chars().next_back().map_or(0, char::len_utf8);
    if length < text.len() && last < length { length - last } else { length }
}

/// The first of `endings` that follows an apostrophe at the beginning of `text`, by length with the apostrophe.
fn contraction(text: &str, endings: &[&str], fold: impl Fn(char) -> char) -> usize {
    let Some(rest) = text.strip_prefix('\'') else { return 0 };
    let ending = endings.iter().find_map(|ending| {
        let mut characters = rest.chars();
        let matches = ending.chars().all(|expected| characters.next().map(&fold) == Some(expected));
        matches.then(|| rest.len() - characters.as_str().len())
    });
    ending.map_or(0, |length| 1 + length)
}

fn gpt2(text: &str) -> usize {
    let alternatives: [&dyn Fn() -> usize; 4] = [
        &|| contraction(text, &["s", "t", "re", "ve", "m", "ll", "d"], |c| c),
        &|| spaced_run(text, letter),
        &|| spaced_run(text, number),
        &|| spaced_run(text, other),
    ];
    alternatives.iter().map(|length| length()).find(|&length| length > 0).unwrap_or_else(|| whitespace(text))
}

fn llama3(text: &str, digits: usize) -> usize {
    // Case folding, which makes the long s an s.
    let fold = |c: char| if c == 'ſ' { 's' } else { c.to_ascii_lowercase() };
    let alternatives: [&dyn Fn() -> usize; 5] = [
        &|| contraction(text, &["s", "t", "re", "ve", "m", "ll", "d"], fold),
        // [^\r\n\p{L}\p{N}]?\p{L}+
        &|| {
            let first = text.chars().next().filter(|&c| !line_end(c) && !letter(c) && !number(c));
            let before = first.map_or(0, char::len_utf8);
            match run(&text[before..], letter) {
                0 => 0,
                length => before + length,
            }
        },
        // \p{N}{1,3}
        &|| text.chars().take(digits).take_while(|&c| number(c)).map(char::len_utf8).sum(),
        //  ?[^\s\p{L}\p{N}]+[\r\n]*
        &|| match spaced_run(text, other) {
            0 => 0,
            length => length + run(&text[length..], line_end),
        },
        // \s*[\r\n]+
        &|| text[..run(text, char::is_whitespace)].rfind(line_end).map_or(0, |last| last + 1),
    ];
    alternatives.iter().map(|length| length()).find(|&length| length > 0).unwrap_or_else(|| whitespace(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(split: Split, text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        words(&[split], text, 0..text.len(), &mut |range| found.push(&text[range]));
        found
    }

    #[test]
    fn gpt2_words() {
        let words = cut(Split::Gpt2, "I'm  a dog's 12345 THEY'RE\n\n x!? ");
        assert_eq!(
            words,
            ["I", "'m", " ", " a", " dog", "'s", " 12345", " THEY", "'", "RE", "\n\n", " x", "!?", " "]
        );
    }

    #[test]
    fn llama3_words() {
        let words = cut(Split::Llama3 { digits: 3 }, "I'm  a (dog)'S 12345\n\n x!?\n ");
        assert_eq!(
            words,
            ["I", "'m", " ", " a", " (", "dog", ")'", "S", " ", "123", "45", "\n\n", " x", "!?\n", " "]
        );
        assert_eq!(cut(Split::Llama3 { digits: 1 }, "a12"), ["a", "1", "2"]);
    }

    #[test]
    fn digits_stand_apart() {
        assert_eq!(cut(Split::Digits { individual: true }, "ab12c"), ["ab", "1", "2", "c"]);
        assert_eq!(cut(Split::Digits { individual: false }, "ab12c"), ["ab", "12", "c"]);
    }
}
