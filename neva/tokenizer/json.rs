//! `tokenizer.json`: byte-level BPE (GPT-2, LLaMA-3, Qwen-2, SmolLM) and the LLaMA-2 style.
//!
//! What such a file does to a text, in order:
//! 1. **Added tokens** are found literally, leftmost and longest; those with `"normalized": false` before the others.
//!    Each may swallow the whitespace beside it (`lstrip`, `rstrip`).
//! 2. The text between them becomes words:
//!    - *byte-level*: cut by the file's patterns ([`super::split`]), and every byte becomes one of 256 printable characters;
//!    - *spaced* (LLaMA-2): every space becomes `▁`, with one put before the text as the file says.
//! 3. **Merging** within each word, by the rank of a pair of pieces in the list of merges.
//! 4. In the spaced style a character that is no piece becomes the pieces `<0xNN>` of its bytes, or else the unknown piece.
//!
//! The ids are those of the `tokenizers` package, which is the oracle of the tests. What this file does not name is refused
//! by name: it would change ids silently. `truncation` and `padding` are not read, and of `post_processor` only which
//! token begins a sequence.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::Value;

use super::alphabet::byte_character;
use super::literal::Literals;
use super::merge::{Merge, Symbol, Word};
use super::sentencepiece::SPACE;
use super::split::{Split, words};
use super::vocabulary::{Kind, Vocabulary};
use super::{Piece, Special};

/// More ways to cut than any file needs; they are applied one inside the other.
const MOST_SPLITS: usize = 16;

/// Everything of a file that is not its vocabulary.
#[derive(Clone, Debug)]
pub(super) struct Json {
    text: Text,
    /// By left and right piece.
    merges: HashMap<(u32, u32), Merge>,
    /// A word that is a piece is taken whole, whatever merges would make of it.
    ignore_merges: bool,
    unk: Option<u32>,
    /// What the unknown piece decodes to.
    pub(super) unk_surface: String,
    fuse_unk: bool,
    byte_ids: Option<Box<[u32; 256]>>,
    /// Decoding drops a space at the beginning.
    pub(super) strips_first_space: bool,
    /// Added tokens that are found in the text as it is, and those found in what the first leave.
    literals: [Literals; 2],
    /// The added tokens that swallow whitespace on their left, on their right.
    strips: HashMap<u32, (bool, bool)>,
}

/// How text becomes words of characters.
#[derive(Clone, Debug)]
enum Text {
    /// Characters stand for bytes.
    Bytes {
        splits: Vec<Split>,
        /// A space is put before text that does not begin with one.
        add_prefix_space: bool,
        /// The piece of each byte.
        pieces: Box<[u32; 256]>,
    },
    /// `▁` stands for a space.
    Spaced {
        prefix: Prefix,
        /// Every `▁` begins a word.
        split: bool,
    },
}

/// When a `▁` is put before a stretch of text between added tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefix {
    Never,
    /// At the beginning of the whole text unless there is a space already.
    First,
    /// Unless there is a space already.
    Missing,
    Always,
}

type Object = serde_json::Map<String, Value>;

fn object<'a>(value: &'a Value, name: &str) -> Result<&'a Object, String> {
    value.as_object().ok_or_else(|| format!("{name}: expected an object"))
}

fn array<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{name}: expected a list"))
}

fn string<'a>(value: &'a Value, name: &str) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("{name}: expected a string"))
}

/// The member `key` of an object, null when it is missing.
fn member<'a>(object: &'a Object, key: &str) -> &'a Value {
    object.get(key).unwrap_or(&Value::Null)
}

fn flag(object: &Object, key: &str, name: &str, default: bool) -> Result<bool, String> {
    match member(object, key) {
        Value::Null => Ok(default),
        value => value.as_bool().ok_or_else(|| format!("{name}.{key}: expected true or false")),
    }
}

fn id(value: &Value, name: &str) -> Result<u32, String> {
    value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| format!("{name}: expected an id"))
}

/// The `type` of a component, "null" for none.
fn kind<'a>(value: &'a Value, name: &str) -> Result<&'a str, String> {
    match value {
        Value::Null => Ok("null"),
        value => string(member(object(value, name)?, "type"), &format!("{name}.type")),
    }
}

/// A component and, if it is a `Sequence`, its parts under `key`.
fn parts<'a>(value: &'a Value, key: &str, name: &str) -> Result<Vec<&'a Value>, String> {
    match kind(value, name)? {
        "null" => Ok(Vec::new()),
        "Sequence" => Ok(array(&value[key], &format!("{name}.{key}"))?.iter().collect()),
        _ => Ok(vec![value]),
    }
}

fn unsupported<T>(name: &str, what: &str) -> Result<T, String> {
    Err(format!("{name}: {what} is not supported"))
}

/// Reads a file. The error is a sentence without the file's name.
pub(super) fn read(file: &[u8]) -> Result<(Vocabulary, Json, Special), String> {
    let file = crate::json::parse(file)?;
    let file = object(&file, "the file")?;
    let model = object(member(file, "model"), "model")?;
    match member(model, "type") {
        Value::Null if model.contains_key("merges") => {}
        value if value == "BPE" => {}
        value => return unsupported("model.type", &value.to_string()),
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if !matches!(member(model, key), Value::Null) && member(model, key) != "" {
            return unsupported(&format!("model.{key}"), &member(model, key).to_string());
        }
    }
    if member(model, "dropout").as_f64().is_some_and(|rate| rate != 0.0) {
        return unsupported("model.dropout", "dropout of merges");
    }
    let byte_fallback = flag(model, "byte_fallback", "model", false)?;
    let added = added_tokens(member(file, "added_tokens"))?;
    let mut vocabulary =
        read_vocabulary(object(member(model, "vocab"), "model.vocab")?, &added, byte_fallback)?;
    for token in &added {
        vocabulary.set_kind(token.id, if token.special { Kind::Control } else { Kind::UserDefined });
    }
    let unk = match member(model, "unk_token") {
        Value::Null => None,
        value => {
            let text = string(value, "model.unk_token")?;
            Some(
                vocabulary
                    .id(text)
                    .ok_or_else(|| format!("model.unk_token: {text:?} is not in the vocabulary"))?,
            )
        }
    };
    let mut unk_surface = String::new();
    if let Some(unk) = unk {
        if vocabulary.kind(unk) != Some(Kind::Control) {
            unk_surface = vocabulary.text(unk).unwrap_or_default().into();
        }
        vocabulary.set_kind(unk, Kind::Unknown);
    }

    let text = read_text(file, &vocabulary)?;
    let byte_level = matches!(text, Text::Bytes { .. });
    let byte_ids = if byte_fallback { vocabulary.byte_ids()? } else { None };
    if !byte_level && byte_ids.is_none() && unk.is_none() {
        return Err("model: neither unk_token nor byte_fallback for characters outside the vocabulary".into());
    }
    let normalizer = !matches!(member(file, "normalizer"), Value::Null);
    if let Some(token) = added.iter().find(|token| normalizer && token.normalized) {
        return unsupported(
            "added_tokens",
            &format!("the normalized token {:?} with a normalizer", token.content),
        );
    }
    let ignore_merges = flag(model, "ignore_merges", "model", false)?;
    if ignore_merges && !byte_level {
        return unsupported("model.ignore_merges", "true without a byte-level pre_tokenizer");
    }
    let literals = |normalized: bool| {
        let chosen = added.iter().filter(|token| token.normalized == normalized);
        Literals::new(chosen.map(|token| (token.content.as_str(), token.id)))
    };
    let json = Json {
        merges: read_merges(member(model, "merges"), &vocabulary)?,
        ignore_merges,
        unk,
        unk_surface,
        fuse_unk: flag(model, "fuse_unk", "model", false)?,
        byte_ids,
        strips_first_space: read_decoder(member(file, "decoder"), byte_level, byte_fallback)?,
        literals: [literals(false), literals(true)],
        strips: added.iter().map(|token| (token.id, token.strips)).filter(|(_, s)| s.0 || s.1).collect(),
        text,
    };
    let named = |names: &[&str]| names.iter().find_map(|name| vocabulary.id(name));
    let bos = first_of_template(member(file, "post_processor"))?;
    let special = Special {
        bos: bos.and_then(|bos| vocabulary.id(bos)),
        eos: named(&["</s>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>"]),
        unk,
        pad: named(&["<pad>"]),
    };
    Ok((vocabulary, json, special))
}

/// An entry of `added_tokens`.
struct Added {
    id: u32,
    content: String,
    special: bool,
    normalized: bool,
    strips: (bool, bool),
}

fn added_tokens(value: &Value) -> Result<Vec<Added>, String> {
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        value => array(value, "added_tokens")?,
    };
    let mut added = Vec::with_capacity(list.len());
    for (index, token) in list.iter().enumerate() {
        let name = format!("added_tokens[{index}]");
        let token = object(token, &name)?;
        let content = string(member(token, "content"), &format!("{name}.content"))?.to_string();
        if flag(token, "single_word", &name, false)? {
            return unsupported(&name, &format!("single_word of {content:?}"));
        }
        let special = flag(token, "special", &name, false)?;
        added.push(Added {
            id: id(member(token, "id"), &format!("{name}.id"))?,
            content,
            special,
            normalized: flag(token, "normalized", &name, !special)?,
            strips: (flag(token, "lstrip", &name, false)?, flag(token, "rstrip", &name, false)?),
        });
    }
    Ok(added)
}

/// The entries of `model.vocab` and the added tokens that are not among them, in the order of their ids.
fn read_vocabulary(vocab: &Object, added: &[Added], byte_fallback: bool) -> Result<Vocabulary, String> {
    let mut entries = Vec::with_capacity(vocab.len() + added.len());
    for (text, value) in vocab {
        entries.push((id(value, &format!("model.vocab[{text:?}]"))?, text.as_str()));
    }
    for token in added {
        match vocab.get(&token.content).map(|there| there.as_u64() == Some(token.id.into())) {
            Some(true) => {}
            Some(false) => {
                return Err(format!("added_tokens: {:?} has another id in model.vocab", token.content));
            }
            None => entries.push((token.id, &token.content)),
        }
    }
    entries.sort_unstable();
    let mut vocabulary = Vocabulary::default();
    for (id, text) in entries {
        let next = vocabulary.len();
        if (id as usize) < next {
            return Err(format!(
                "id {id} is both {:?} and {text:?}",
                vocabulary.text(id).unwrap_or_default()
            ));
        }
        if id as usize > next {
            return Err(format!("no piece has the id {next}, but {text:?} has {id}"));
        }
        let byte = Kind::byte(text).filter(|_| byte_fallback);
        vocabulary.push(text, byte.unwrap_or(Kind::Normal))?;
    }
    Ok(vocabulary)
}

fn read_merges(value: &Value, vocabulary: &Vocabulary) -> Result<HashMap<(u32, u32), Merge>, String> {
    let list = array(value, "model.merges")?;
    let mut merges = HashMap::with_capacity(list.len());
    for (rank, merge) in (0u32..).zip(list) {
        let name = || format!("model.merges[{rank}]");
        let pair = match merge {
            Value::String(pair) => pair.split_once(' ').filter(|(_, right)| !right.contains(' ')),
            Value::Array(pair) => match &pair[..] {
                [Value::String(left), Value::String(right)] => Some((left.as_str(), right.as_str())),
                _ => None,
            },
            _ => None,
        };
        let (left, right) =
            pair.ok_or_else(|| format!("{}: expected \"left right\" or [left, right]", name()))?;
        let piece = |text: &str| {
            vocabulary.id(text).ok_or_else(|| format!("{}: {text:?} is not in the vocabulary", name()))
        };
        let pair = (piece(left)?, piece(right)?);
        merges.insert(pair, Merge { rank, id: piece(&format!("{left}{right}"))? });
    }
    Ok(merges)
}

/// What `normalizer` and `pre_tokenizer` do together.
fn read_text(file: &Object, vocabulary: &Vocabulary) -> Result<Text, String> {
    let (mut prefix, mut replaces) = (Prefix::Never, false);
    for part in parts(member(file, "normalizer"), "normalizers", "normalizer")? {
        match kind(part, "normalizer")? {
            "Prepend" if part["prepend"] == "▁" => prefix = Prefix::Always,
            "Replace" if part["pattern"]["String"] == " " && part["content"] == "▁" => replaces = true,
            other => return unsupported("normalizer", &format!("{other} ({part})")),
        }
    }
    let spaced = replaces || prefix != Prefix::Never;
    let stages = parts(member(file, "pre_tokenizer"), "pretokenizers", "pre_tokenizer")?;
    if stages.len() > MOST_SPLITS {
        return unsupported("pre_tokenizer", &format!("a sequence of {}", stages.len()));
    }
    if let [stage] = stages[..]
        && kind(stage, "pre_tokenizer")? == "Metaspace"
    {
        let stage = object(stage, "pre_tokenizer")?;
        if member(stage, "replacement") != "▁" || spaced {
            return unsupported("pre_tokenizer", "Metaspace with another replacement or a normalizer");
        }
        let prefix = match member(stage, "prepend_scheme") {
            Value::Null if flag(stage, "add_prefix_space", "pre_tokenizer", true)? => Prefix::Missing,
            Value::Null => Prefix::Never,
            scheme => match string(scheme, "pre_tokenizer.prepend_scheme")? {
                "always" => Prefix::Missing,
                "first" => Prefix::First,
                "never" => Prefix::Never,
                other => return unsupported("pre_tokenizer.prepend_scheme", other),
            },
        };
        return Ok(Text::Spaced { prefix, split: flag(stage, "split", "pre_tokenizer", true)? });
    }
    if stages.is_empty() && replaces {
        return Ok(Text::Spaced { prefix, split: false });
    }
    if spaced {
        return unsupported(
            "normalizer",
            "Prepend or Replace before a pre_tokenizer, or the first without the second,",
        );
    }

    let mut splits = Vec::new();
    for (index, stage) in stages.iter().enumerate() {
        let name = format!("pre_tokenizer[{index}]");
        let kind = kind(stage, &name)?;
        let stage = object(stage, &name)?;
        match kind {
            "Split" => {
                let pattern = string(&member(stage, "pattern")["Regex"], &format!("{name}.pattern.Regex"))?;
                let split = Split::of_pattern(pattern);
                splits
                    .push(split.ok_or_else(|| format!("{name}: the pattern {pattern:?} is not supported"))?);
                let inverted = flag(stage, "invert", &name, false)?;
                // The patterns match all text, so that keeping the matches and keeping everything are the same.
                match (member(stage, "behavior").as_str(), inverted) {
                    (Some("Isolated"), _) | (Some("Removed"), true) => {}
                    (behavior, _) => return unsupported(&name, &format!("the behavior {behavior:?}")),
                }
            }
            "Digits" => {
                splits.push(Split::Digits { individual: flag(stage, "individual_digits", &name, false)? })
            }
            "ByteLevel" if index + 1 == stages.len() => {
                let add_prefix_space = flag(stage, "add_prefix_space", &name, true)?;
                if add_prefix_space && !splits.is_empty() {
                    return unsupported(&name, "add_prefix_space after a split");
                }
                if flag(stage, "use_regex", &name, true)? {
                    splits.push(Split::Gpt2);
                }
                let mut pieces = Box::new([0; 256]);
                for byte in 0..=255u8 {
                    let character = byte_character(byte).to_string();
                    pieces[byte as usize] = vocabulary.id(&character).ok_or_else(|| {
                        format!("model.vocab: no {character:?}, which stands for byte 0x{byte:02X}")
                    })?;
                }
                return Ok(Text::Bytes { splits, add_prefix_space, pieces });
            }
            other => return unsupported(&name, other),
        }
    }
    unsupported("pre_tokenizer", "one that is neither byte-level nor Metaspace, without a normalizer,")
}

/// Whether decoding drops a leading space. Any decoder but the two that go with the styles is refused.
fn read_decoder(value: &Value, byte_level: bool, byte_fallback: bool) -> Result<bool, String> {
    let parts = parts(value, "decoders", "decoder")?;
    let kinds = parts.iter().map(|part| kind(part, "decoder")).collect::<Result<Vec<_>, _>>()?;
    if byte_level {
        return match kinds[..] {
            ["ByteLevel"] => Ok(false),
            _ => unsupported("decoder", &format!("{kinds:?} after a byte-level pre_tokenizer")),
        };
    }
    let known = match kinds[..] {
        ["Replace", "ByteFallback", "Fuse"] | ["Replace", "ByteFallback", "Fuse", "Strip"] => byte_fallback,
        ["Replace", "Fuse"] | ["Replace", "Fuse", "Strip"] => !byte_fallback,
        _ => false,
    };
    let replaces = known && parts[0]["pattern"]["String"] == "▁" && parts[0]["content"] == " ";
    let strip = parts.iter().find(|part| part["type"] == "Strip");
    let strips_one = strip.is_none_or(|s| s["content"] == " " && s["start"] == 1 && s["stop"] == 0);
    if replaces && strips_one {
        return Ok(strip.is_some());
    }
    unsupported(
        "decoder",
        &format!("{value} (expected Replace, ByteFallback, Fuse and Strip of one leading space)"),
    )
}

/// The special token that the template of a post-processor begins with.
fn first_of_template(value: &Value) -> Result<Option<&str>, String> {
    for part in parts(value, "processors", "post_processor")? {
        if let Some(token) = part["single"][0]["SpecialToken"]["id"].as_str() {
            return Ok(Some(token));
        }
    }
    Ok(None)
}

impl Json {
    /// Whether pieces are spelled in the characters that stand for bytes.
    pub(super) fn byte_level(&self) -> bool {
        matches!(self.text, Text::Bytes { .. })
    }

    /// Makes a token that a model directory adds to the file be found in text.
    pub(super) fn add(&mut self, text: &str, id: u32) {
        self.literals[0].insert(text, id);
    }

    /// Encodes `text[part]`.
    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, part: Range<usize>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut word = Word::default();
        // What goes on in the middle of a text gets no space before it, whatever the file says about beginnings.
        let goes_on = |range: &Range<usize>| part.start > 0 && range.start == part.start;
        self.between(&self.literals[0], text, part.clone(), &mut pieces, &mut |range, pieces| {
            self.between(&self.literals[1], text, range, pieces, &mut |range, pieces| {
                if !range.is_empty() {
                    let may_prefix = !goes_on(&range);
                    self.encode_segment(vocabulary, text, range, may_prefix, &mut word, pieces);
                }
            });
        });
        pieces
    }

    /// Pushes the `literals` in `text[range]` and hands what is between them on.
    fn between(
        &self,
        literals: &Literals,
        text: &str,
        range: Range<usize>,
        pieces: &mut Vec<Piece>,
        rest: &mut impl FnMut(Range<usize>, &mut Vec<Piece>),
    ) {
        let text = &text[..range.end];
        let (mut done, mut from) = (range.start, range.start);
        while let Some((mut start, mut end, id)) = literals.find(text, from) {
            from = end;
            let (left, right) = self.strips.get(&id).copied().unwrap_or_default();
            if left {
                start = text[..start].trim_end().len();
            }
            if right {
                end = text.len() - text[end..].trim_start().len();
            }
            // A neighbour may have swallowed the whitespace that this token consists of.
            let start = start.max(done);
            let end = end.max(start);
            rest(done..start, pieces);
            pieces.push(Piece { id, span: start..end });
            done = end;
        }
        rest(done..range.end, pieces);
    }

    /// Encodes `text[segment]`, not empty, which holds no added token. Only if `may_prefix` is a space put before it.
    fn encode_segment(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        segment: Range<usize>,
        may_prefix: bool,
        word: &mut Word,
        pieces: &mut Vec<Piece>,
    ) {
        let here = &text[segment.clone()];
        match &self.text {
            Text::Bytes { splits, add_prefix_space, pieces: bytes } => {
                let prefix = usize::from(may_prefix && *add_prefix_space && !here.starts_with(' '));
                let normal = format!("{}{here}", &" "[..prefix]);
                words(splits, &normal, 0..normal.len(), &mut |range| {
                    let origin = |at: usize| segment.start + at.saturating_sub(prefix);
                    if self.ignore_merges {
                        let spelled: String =
                            normal.as_bytes()[range.clone()].iter().map(|&b| byte_character(b)).collect();
                        if let Some(id) = vocabulary.id(&spelled) {
                            pieces.push(Piece { id, span: origin(range.start)..origin(range.end) });
                            return;
                        }
                    }
                    for at in range {
                        let id = bytes[normal.as_bytes()[at] as usize];
                        word.push(id, origin(at)..origin(at + 1), at..at + 1);
                    }
                    self.finish(word, pieces);
                });
            }
            Text::Spaced { prefix, split } => {
                let spaced = here.starts_with([' ', SPACE]);
                let prefixed = match prefix {
                    Prefix::Never => false,
                    Prefix::First => segment.start == 0 && !spaced,
                    Prefix::Missing => !spaced,
                    Prefix::Always => true,
                };
                let start = segment.start;
                let characters =
                    here.char_indices().map(|(at, c)| (start + at..start + at + c.len_utf8(), c));
                let prefix = (prefixed && may_prefix).then_some((start..start, ' '));
                for (span, character) in prefix.into_iter().chain(characters) {
                    let character = if character == ' ' { SPACE } else { character };
                    if character == SPACE && *split {
                        self.finish(word, pieces);
                    }
                    self.push_character(vocabulary, character, span, word);
                }
                self.finish(word, pieces);
            }
        }
    }

    /// Appends a character to the word: its piece, or those of its bytes, or the unknown piece.
    fn push_character(&self, vocabulary: &Vocabulary, character: char, span: Range<usize>, word: &mut Word) {
        let mut buffer = [0; 4];
        let spelled: &str = character.encode_utf8(&mut buffer);
        if let Some(id) = vocabulary.id(spelled) {
            word.push(id, span, 0..1);
        } else if let Some(ids) = &self.byte_ids {
            let last = spelled.len() - 1;
            for (index, byte) in spelled.bytes().enumerate() {
                let start = (span.start + index).min(span.end);
                let end = if index == last { span.end } else { (start + 1).min(span.end) };
                word.push(ids[byte as usize], start..end, 0..1);
            }
        } else if let Some(unk) = self.unk {
            match word.last_mut().filter(|last| self.fuse_unk && last.id == unk) {
                Some(last) => last.span.end = span.end,
                None => word.push(unk, span, 0..1),
            }
        }
    }

    fn finish(&self, word: &mut Word, pieces: &mut Vec<Piece>) {
        let merge = |left: &Symbol, right: &Symbol| self.merges.get(&(left.id, right.id)).copied();
        word.finish(merge, |symbol| pieces.push(Piece { id: symbol.id, span: symbol.span.clone() }));
    }
}
