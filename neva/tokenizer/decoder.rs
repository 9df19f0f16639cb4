//! From ids back to text, one id at a time.
//!
//! A character may be spread over several pieces (byte fallback, byte-level BPE), so bytes wait until they make a whole
//! character: what comes out is always valid text, and its concatenation is the same however the ids arrive.
//! [`Tokenizer::decode`](super::Tokenizer::decode) is this decoder run to its end.

use super::alphabet::character_byte;
use super::sentencepiece::SPACE;
use super::vocabulary::Kind;
use super::{Scheme, Tokenizer};

/// Decodes a stream of ids, as generation needs it.
///
/// ```no_run
/// # fn main() -> neva::Result<()> {
/// let tokenizer = neva::tokenizer::Tokenizer::load("model".as_ref())?;
/// let mut decoder = tokenizer.decoder(false);
/// let mut text = String::new();
/// for id in [15043, 29991] {
///     decoder.push(id, &mut text);
/// }
/// decoder.finish(&mut text);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Decoder<'t> {
    tokenizer: &'t Tokenizer,
    keep_special: bool,
    byte_level: bool,
    /// Nothing was decoded yet, so a leading space is the dummy prefix.
    at_start: bool,
    /// Bytes that may still become a character; at most three between calls.
    bytes: Vec<u8>,
}

impl<'t> Decoder<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, keep_special: bool) -> Self {
        let byte_level = matches!(&tokenizer.scheme, Scheme::Json(json) if json.byte_level());
        Decoder { tokenizer, keep_special, byte_level, at_start: true, bytes: Vec::new() }
    }

    /// Appends to `text` what `id` completes, which may be nothing. An id outside the vocabulary is U+FFFD.
    pub fn push(&mut self, id: u32, text: &mut String) {
        let vocabulary = &self.tokenizer.vocabulary;
        let (Some(kind), Some(piece)) = (vocabulary.kind(id), vocabulary.text(id)) else {
            self.literal("\u{fffd}", text);
            return;
        };
        match kind {
            Kind::Control if !self.keep_special => {
                self.flush(text);
            }
            Kind::Control => self.literal(piece, text),
            Kind::Unknown => {
                self.literal(
                    if self.keep_special { piece } else { self.tokenizer.scheme.unk_surface() },
                    text,
                );
            }
            Kind::Byte(byte) => {
                self.bytes.push(byte);
                self.drain(text);
            }
            Kind::Normal if self.byte_level => {
                // A character that stands for no byte cannot be made by encoding; it stands for itself.
                for character in piece.chars() {
                    match character_byte(character) {
                        Some(byte) => self.bytes.push(byte),
                        None => self.bytes.extend(character.to_string().as_bytes()),
                    }
                }
                self.drain(text);
            }
            Kind::UserDefined if self.byte_level => self.literal(piece, text),
            Kind::Normal | Kind::UserDefined => self.spaced(piece, text),
        }
    }

    /// Appends what is left: U+FFFD for bytes that never became a character. The decoder is then as new.
    pub fn finish(&mut self, text: &mut String) {
        self.flush(text);
        self.at_start = true;
    }

    fn literal(&mut self, piece: &str, text: &mut String) {
        self.flush(text);
        self.at_start = false;
        text.push_str(piece);
    }

    /// A piece with `▁` for spaces.
    fn spaced(&mut self, piece: &str, text: &mut String) {
        self.flush(text);
        let (strips, until_text) = match &self.tokenizer.scheme {
            Scheme::SentencePiece(model) => (model.strips_first_space(), model.remove_extra_whitespaces),
            Scheme::Json(json) => (json.strips_first_space, false),
        };
        let stripped = piece.strip_prefix(SPACE).filter(|_| self.at_start && strips);
        let rest = stripped.unwrap_or(piece);
        // A model that removes extra spaces goes on removing them until there is text.
        self.at_start &= rest.is_empty() && until_text;
        text.extend(rest.chars().map(|character| if character == SPACE { ' ' } else { character }));
    }

    /// Moves whole characters, and U+FFFD for those that can be none, from `bytes` to `text`.
    fn drain(&mut self, text: &mut String) {
        loop {
            let (valid, invalid) = match std::str::from_utf8(&self.bytes) {
                Ok(all) => (all.len(), None),
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            text.push_str(&String::from_utf8_lossy(&self.bytes[..valid]));
            self.at_start &= valid == 0;
            self.bytes.drain(..valid);
            let Some(invalid) = invalid else { return };
            self.replace(invalid, text);
        }
    }

    /// [`Decoder::drain`], and no byte can still become a character.
    fn flush(&mut self, text: &mut String) {
        if !self.bytes.is_empty() {
            self.drain(text);
            self.replace(self.bytes.len(), text);
        }
    }

    /// Replaces the first `count` bytes, which make no character.
    fn replace(&mut self, count: usize, text: &mut String) {
        if count > 0 {
            self.at_start = false;
            self.bytes.drain(..count);
            // SentencePiece replaces every byte, byte-level BPE what was the beginning of one character.
            text.extend(std::iter::repeat_n('\u{fffd}', if self.byte_level { 1 } else { count }));
        }
    }
}
