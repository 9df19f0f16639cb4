//! Learning a vocabulary from text, so that a model can be born without downloads.
//!
//! Byte-pair encoding over characters, written as a SentencePiece model. Pieces in the order of their ids:
//! 1. `<unk>`, `<s>`, `</s>`;
//! 2. the 256 byte pieces;
//! 3. the pieces learned by merging, the most frequent pair first;
//! 4. every character that occurs in the text, the most frequent first;
//! 5. `<extra_id_0>` to `<extra_id_7>`, which NeVA's prompts and images are made of, user-defined;
//! 6. the caller's special tokens, user-defined.
//!
//! A piece lies within one word: a space begins a word, every other whitespace character and every digit stands alone, and
//! letters do not join with punctuation. The result depends on nothing but the text and the arguments.
//!
//! Each merge rewrites only the distinct words that hold its pair, and pair counts wait in a heap where a count that has
//! fallen since is corrected when it surfaces. Reference: Sennrich, Haddow, Birch (2016), algorithm 1.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use unicode_general_category::{GeneralCategory, get_general_category};

use super::Tokenizer;
use super::sentencepiece::{SPACE, write};
use super::vocabulary::{Kind, Vocabulary};
use crate::Error;

/// The number of `<extra_id_N>` pieces.
const EXTRA_IDS: usize = 8;
/// The longest learned piece in characters: longer ones are quotations, not words.
const LONGEST_PIECE: usize = 16;
/// A word longer than this many characters is cut, so that text without spaces costs no more than other text.
const LONGEST_WORD: usize = 128;
/// A pair that occurs once is no regularity.
const LEAST_COUNT: u64 = 2;

/// Two symbols that stand side by side.
type Pair = (u32, u32);

/// Learns a vocabulary of at most `vocab_size` pieces, fewer when the text has no more pairs that occur twice.
/// `special` are found literally in text afterwards, as `<extra_id_0>` to `<extra_id_7>` are.
///
/// # Errors
/// [`Error::Usage`] when `vocab_size` is too small for the bytes, the characters of the text and the special tokens, and
/// when a special token is empty, holds whitespace, or is a piece already.
pub fn train<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    vocab_size: usize,
    special: &[&str],
) -> crate::Result<Tokenizer> {
    let words = count_words(texts);
    let mut counts: HashMap<char, u64> = HashMap::from([(SPACE, 0)]);
    for (word, count) in &words {
        word.chars().for_each(|character| *counts.entry(character).or_default() += count);
    }
    let mut alphabet: Vec<(char, u64)> = counts.into_iter().collect();
    alphabet.sort_unstable_by_key(|&(character, count)| (Reverse(count), character));
    let alphabet: Vec<char> = alphabet.into_iter().map(|(character, _)| character).collect();

    let fixed = 3 + 256 + alphabet.len() + EXTRA_IDS + special.len();
    let Some(room) = vocab_size.checked_sub(fixed) else {
        return Err(Error::Usage(format!(
            "a vocabulary of {vocab_size} pieces is too small, expected at least {fixed}: 3 control pieces, 256 bytes, \
             {} characters of the text and {} special tokens",
            alphabet.len(),
            EXTRA_IDS + special.len()
        )));
    };
    let learned = Learner::new(&words, &alphabet).learn(room);

    let mut pieces = vec![
        ("<unk>".to_string(), 0.0, Kind::Unknown),
        ("<s>".to_string(), 0.0, Kind::Control),
        ("</s>".to_string(), 0.0, Kind::Control),
    ];
    pieces.extend((0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), 0.0, Kind::Byte(byte))));
    let characters = alphabet.iter().map(char::to_string);
    let ranked = learned.into_iter().chain(characters).enumerate();
    pieces.extend(ranked.map(|(rank, text)| (text, -(rank as f32), Kind::Normal)));
    let extra = (0..EXTRA_IDS).map(|index| format!("<extra_id_{index}>"));
    let special = extra.chain(special.iter().map(|token| token.to_string()));
    pieces.extend(special.map(|token| (token, 0.0, Kind::UserDefined)));

    let mut vocabulary = Vocabulary::default();
    for (text, _, kind) in &pieces {
        vocabulary.push(text, *kind).map_err(|message| Error::Usage(format!("special token: {message}")))?;
        if text.contains(char::is_whitespace) && *kind == Kind::UserDefined {
            return Err(Error::Usage(format!("special token: {text:?} holds whitespace")));
        }
    }
    let tokenizer = Tokenizer::from_model(write(&pieces));
    Ok(tokenizer
        .unwrap_or_else(|message| panic!("a model that we wrote must be one that we read: {message}")))
}

/// The distinct words of the texts, each with the number of times it occurs, in a fixed order.
fn count_words<'a>(texts: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, u64> {
    let mut counts: HashMap<String, u64> = HashMap::new();
    let mut word = String::new();
    for text in texts {
        // The dummy prefix.
        let (mut before, mut length) = (Class::Space, 1);
        word.push(SPACE);
        for character in text.chars() {
            let class = Class::of(character);
            let joins = match class {
                Class::Letter | Class::Other => before == class || before == Class::Space,
                Class::Space | Class::Alone => false,
            };
            if !joins || length == LONGEST_WORD {
                count(&mut counts, &mut word);
                length = 0;
            }
            word.push(if class == Class::Space { SPACE } else { character });
            (before, length) = (class, length + 1);
        }
        count(&mut counts, &mut word);
    }
    counts.into_iter().collect()
}

/// Counts `word` once more and empties it.
fn count(counts: &mut HashMap<String, u64>, word: &mut String) {
    match counts.get_mut(word.as_str()) {
        Some(count) => *count += 1,
        None => _ = counts.insert(word.clone(), 1),
    }
    word.clear();
}

/// What decides whether a character joins the word before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Letter,
    /// Digits, line ends, tabs.
    Alone,
    Other,
}

impl Class {
    fn of(character: char) -> Class {
        use GeneralCategory::{EnclosingMark, NonspacingMark, SpacingMark};
        if character == ' ' || character == SPACE {
            Class::Space
        } else if character.is_whitespace() || character.is_control() || character.is_numeric() {
            Class::Alone
        } else if character.is_alphabetic()
            || matches!(get_general_category(character), EnclosingMark | NonspacingMark | SpacingMark)
        {
            Class::Letter
        } else {
            Class::Other
        }
    }
}

/// The distinct words as symbols, and where each pair of them occurs.
struct Learner {
    /// The text of each symbol: the alphabet, then what was learned.
    texts: Vec<String>,
    /// The symbol of a text: two pairs can make the same one.
    symbols: HashMap<String, u32>,
    words: Vec<(Vec<u32>, u64)>,
    /// How often a pair occurs, and the words that hold it or held it once.
    pairs: HashMap<Pair, (u64, HashSet<u32>)>,
    /// `(count, pair)`, the most frequent first and the oldest symbols among equals. A count may have fallen since.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl Learner {
    fn new(words: &BTreeMap<String, u64>, alphabet: &[char]) -> Self {
        let texts: Vec<String> = alphabet.iter().map(char::to_string).collect();
        let ids: HashMap<char, u32> = alphabet.iter().copied().zip(0..).collect();
        let words =
            words.iter().map(|(word, &count)| (word.chars().map(|c| ids[&c]).collect(), count)).collect();
        let symbols = texts.iter().cloned().zip(0..).collect();
        let mut learner = Learner { texts, symbols, words, pairs: HashMap::new(), queue: BinaryHeap::new() };
        for word in 0..learner.words.len() as u32 {
            learner.count_pairs(word);
        }
        learner.queue = learner.pairs.iter().map(|(&pair, &(count, _))| (count, Reverse(pair))).collect();
        learner
    }

    /// Up to `room` pieces in the order in which they were made.
    fn learn(mut self, room: usize) -> Vec<String> {
        let alphabet = self.texts.len();
        while self.texts.len() < alphabet + room {
            let Some((count, Reverse(pair))) = self.queue.pop() else { break };
            let now = self.pairs.get(&pair).map_or(0, |&(count, _)| count);
            if now < count {
                if now >= LEAST_COUNT {
                    self.queue.push((now, Reverse(pair)));
                }
                continue;
            }
            if count < LEAST_COUNT {
                break;
            }
            let text = format!("{}{}", self.texts[pair.0 as usize], self.texts[pair.1 as usize]);
            if text.chars().count() <= LONGEST_PIECE {
                self.merge(pair, text);
            }
        }
        self.texts.split_off(alphabet)
    }

    /// Makes `text` a symbol and puts it wherever `pair` stands.
    fn merge(&mut self, pair: Pair, text: String) {
        let next = self.texts.len() as u32;
        let symbol = *self.symbols.entry(text.clone()).or_insert(next);
        if symbol == next {
            self.texts.push(text);
        }
        let (_, words) = self.pairs.remove(&pair).unwrap_or_default();
        let mut changed = HashSet::new();
        for word in words {
            let (symbols, count) = &self.words[word as usize];
            for window in symbols.windows(2) {
                if let Some((total, _)) = self.pairs.get_mut(&(window[0], window[1])) {
                    *total -= count;
                }
            }
            let mut merged = Vec::with_capacity(symbols.len());
            let mut rest = &symbols[..];
            while let [left, tail @ ..] = rest {
                let joins = tail.first().is_some_and(|&right| (*left, right) == pair);
                merged.push(if joins { symbol } else { *left });
                rest = &tail[usize::from(joins)..];
            }
            changed.extend(merged.windows(2).map(|pair| (pair[0], pair[1])));
            self.words[word as usize].0 = merged;
            self.count_pairs(word);
        }
        for pair in changed.into_iter().filter(|pair| pair.0 == symbol || pair.1 == symbol) {
            self.queue.push((self.pairs[&pair].0, Reverse(pair)));
        }
    }

    /// Adds the pairs of a word to the counts.
    fn count_pairs(&mut self, word: u32) {
        let (symbols, count) = &self.words[word as usize];
        for window in symbols.windows(2) {
            let (total, words) = self.pairs.entry((window[0], window[1])).or_default();
            *total += count;
            words.insert(word);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_end_at_spaces_digits_and_changes_of_class() {
        let words = count_words(["a dog's  2 tails\n\tDog", "a"]);
        let words: Vec<(&str, u64)> = words.iter().map(|(word, &count)| (word.as_str(), count)).collect();
        assert_eq!(
            words,
            [
                ("\t", 1),
                ("\n", 1),
                ("'", 1),
                ("2", 1),
                ("Dog", 1),
                ("s", 1),
                ("▁", 2),
                ("▁a", 2),
                ("▁dog", 1),
                ("▁tails", 1)
            ]
        );
    }

    #[test]
    fn the_most_frequent_pair_is_learned_first() {
        let tokenizer = train(["abab abab xy xy"], 3 + 256 + 5 + 8 + 3, &[]).unwrap();
        let learned: Vec<&str> = (259..262).map(|id| tokenizer.piece(id).unwrap()).collect();
        // ab occurs four times; then all pairs occur twice, and the older symbols come first.
        assert_eq!(learned, ["ab", "▁x", "▁ab"]);
    }

    #[test]
    fn a_pair_that_occurs_once_is_not_learned() {
        let tokenizer = train(["ab cd"], 1000, &[]).unwrap();
        assert_eq!(tokenizer.vocab_size(), 3 + 256 + 5 + 8);
    }
}
