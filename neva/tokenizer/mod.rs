//! Text to ids and back.
//!
//! Two file formats, read by hand because that is all the tokenizers of the models we train need:
//! - `tokenizer.model`, SentencePiece BPE (`sentencepiece.rs`): LLaMA-2, Vicuna, Mistral, and what `neva tokenizer train`
//!   writes;
//! - `tokenizer.json` (`json.rs`), byte-level BPE or the LLaMA-2 style: LLaMA-3, Qwen-2, GPT-2, SmolLM.
//!
//! [`Tokenizer::encode`] returns each id with the bytes of the text that it covers. Supervision masks are made from these
//! spans: no prefix is ever encoded a second time to find out where an answer begins. Special tokens (`<s>`, `</s>`,
//! `<image>`, `<extra_id_0>`) are recognised literally in text, and a beginning-of-sequence id is never added.

mod alphabet;
mod decoder;
mod json;
mod literal;
mod merge;
mod protobuf;
mod sentencepiece;
mod split;
mod train;
mod vocabulary;

pub use decoder::Decoder;
pub use train::train;

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Error;
use crate::error::one_line;
use json::Json;
use sentencepiece::SentencePiece;
use vocabulary::{Kind, Vocabulary};

/// The name of a SentencePiece model in a model directory.
const MODEL: &str = "tokenizer.model";
/// The name of a JSON tokenizer in a model directory.
const JSON: &str = "tokenizer.json";
/// The name of the file beside either that says which tokens begin, end and pad a sequence.
const CONFIG: &str = "tokenizer_config.json";

/// One token of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The id, less than [`Tokenizer::vocab_size`].
    pub id: u32,
    /// The bytes of the text that the token covers. Spans follow each other without gaps from the first byte of the text
    /// to its last. A span is empty for the space that a model puts before the text, and it need not end between
    /// characters: a byte piece covers one byte.
    pub span: Range<usize>,
}

/// A vocabulary and the rules by which text becomes its pieces.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    scheme: Scheme,
    special: Special,
    /// The file that it was read from, byte for byte: [`MODEL`] or [`JSON`].
    file: (&'static str, Vec<u8>),
    /// The [`CONFIG`] that lay beside it.
    config: Option<Vec<u8>>,
}

/// How text becomes pieces.
#[derive(Clone, Debug)]
enum Scheme {
    SentencePiece(SentencePiece),
    Json(Box<Json>),
}

impl Scheme {
    /// What the unknown piece decodes to when special tokens are skipped.
    fn unk_surface(&self) -> &str {
        match self {
            Scheme::SentencePiece(model) => &model.unk_surface,
            Scheme::Json(json) => &json.unk_surface,
        }
    }
}

/// The ids with a role.
#[derive(Clone, Copy, Debug, Default)]
struct Special {
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
    pad: Option<u32>,
}

impl Tokenizer {
    /// Loads `tokenizer.model` of a model directory, or else its `tokenizer.json`, and `tokenizer_config.json` if there
    /// is one. Tokens that only the latter's `added_tokens_decoder` knows are added.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the directory has neither file, [`Error::Io`], or as [`Tokenizer::load_file`].
    pub fn load(dir: &Path) -> crate::Result<Tokenizer> {
        match [MODEL, JSON].map(|name| dir.join(name)).into_iter().find(|path| path.exists()) {
            Some(path) => Self::load_file(&path),
            None => Err(refused(dir, format!("has no {MODEL} and no {JSON}, expected one of them"))),
        }
    }

    /// Loads one file, JSON if its name ends in `.json` and else a SentencePiece model, and the `tokenizer_config.json`
    /// beside it if there is one.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Tokenizer`] that names the file and what is wrong with it: cut short, not of the format,
    /// or of a kind that is not supported.
    pub fn load_file(path: &Path) -> crate::Result<Tokenizer> {
        let file = std::fs::read(path).map_err(Error::io(path))?;
        let config_path = path.with_file_name(CONFIG);
        let config = match std::fs::read(&config_path) {
            Ok(config) => Some(config),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io(config_path)(error)),
        };
        let json = path.extension().is_some_and(|extension| extension == "json");
        let read = if json { Self::from_json(file) } else { Self::from_model(file) };
        let mut tokenizer = read.map_err(|message| refused(path, message))?;
        if let Some(config) = config {
            tokenizer.apply(&config).map_err(|message| refused(&config_path, message))?;
            tokenizer.config = Some(config);
        }
        Ok(tokenizer)
    }

    /// The tokenizer of the bytes of a SentencePiece model.
    fn from_model(file: Vec<u8>) -> Result<Tokenizer, String> {
        let (vocabulary, model, names) = sentencepiece::read(&file)?;
        let control =
            |name: &str| vocabulary.id(name).filter(|&id| vocabulary.kind(id) == Some(Kind::Control));
        let special = Special {
            bos: control(&names.bos),
            eos: control(&names.eos),
            unk: vocabulary.iter().find(|(_, _, kind)| *kind == Kind::Unknown).map(|(id, ..)| id),
            pad: control(&names.pad),
        };
        Ok(Tokenizer {
            vocabulary,
            scheme: Scheme::SentencePiece(model),
            special,
            file: (MODEL, file),
            config: None,
        })
    }

    /// The tokenizer of the bytes of a `tokenizer.json`.
    fn from_json(file: Vec<u8>) -> Result<Tokenizer, String> {
        let (vocabulary, json, special) = json::read(&file)?;
        Ok(Tokenizer {
            vocabulary,
            scheme: Scheme::Json(Box::new(json)),
            special,
            file: (JSON, file),
            config: None,
        })
    }

    /// Takes over what a `tokenizer_config.json` says.
    fn apply(&mut self, config: &[u8]) -> Result<(), String> {
        let config = crate::json::parse(config)?;
        let config = config.as_object().ok_or("expected a JSON object")?;
        self.add(config.get("added_tokens_decoder").unwrap_or(&Value::Null))?;
        let special = &mut self.special;
        for (key, id) in [
            ("bos_token", &mut special.bos),
            ("eos_token", &mut special.eos),
            ("unk_token", &mut special.unk),
            ("pad_token", &mut special.pad),
        ] {
            let token = match config.get(key) {
                None | Some(Value::Null) => continue,
                Some(Value::String(token)) => token,
                Some(other) => match other.get("content") {
                    Some(Value::String(token)) => token,
                    _ => return Err(format!("{key}: expected a string")),
                },
            };
            let found = self.vocabulary.id(token);
            *id = Some(found.ok_or_else(|| format!("{key}: {token:?} is not in the vocabulary"))?);
        }
        Ok(())
    }

    /// Adds the tokens of `added_tokens_decoder`, an object from id to token, that the vocabulary lacks.
    fn add(&mut self, tokens: &Value) -> Result<(), String> {
        let tokens = match tokens {
            Value::Null => return Ok(()),
            tokens => tokens.as_object().ok_or("added_tokens_decoder: expected an object")?,
        };
        let mut by_id = Vec::with_capacity(tokens.len());
        for (key, token) in tokens {
            let id: u32 = key.parse().map_err(|_| format!("added_tokens_decoder: {key:?} is not an id"))?;
            let Some(Value::String(content)) = token.get("content") else {
                return Err(format!("added_tokens_decoder: {id}: expected a string \"content\""));
            };
            by_id.push((id, content, token.get("special") == Some(&Value::Bool(true))));
        }
        by_id.sort_unstable();
        for (id, content, special) in by_id {
            if self.vocabulary.text(id) == Some(content) {
                continue;
            }
            if id as usize != self.vocabulary.len() {
                let there = self.vocabulary.text(id).map_or("nothing".into(), |text| format!("{text:?}"));
                let size = self.vocabulary.len();
                return Err(format!(
                    "added_tokens_decoder: {id} is {content:?}, but the {size} pieces have {there} there"
                ));
            }
            self.vocabulary.push(content, if special { Kind::Control } else { Kind::UserDefined })?;
            match &mut self.scheme {
                Scheme::SentencePiece(model) => model.add(content, id),
                Scheme::Json(json) => json.add(content, id),
            }
        }
        Ok(())
    }

    /// The tokens of `text` in order, without a beginning-of-sequence token.
    pub fn encode(&self, text: &str) -> Vec<Piece> {
        self.encode_part(text, 0..text.len())
    }

    /// The tokens of `text[part]` where it stands in `text`: none of them reaches over the part's ends, and a model that
    /// puts a space before a text puts none before a part that begins inside the text. The parts of a text, encoded one
    /// by one, decode to the text. Spans count from the beginning of `text`.
    ///
    /// # Panics
    /// When the part does not lie in the text, or begins or ends inside a character.
    pub fn encode_part(&self, text: &str, part: Range<usize>) -> Vec<Piece> {
        assert!(text.get(part.clone()).is_some(), "{part:?} is no part of a text of {} bytes", text.len());
        match &self.scheme {
            Scheme::SentencePiece(model) => model.encode(&self.vocabulary, text, part),
            Scheme::Json(json) => json.encode(&self.vocabulary, text, part),
        }
    }

    /// The text of `ids`. Special tokens (control pieces) stand in it as they are spelled if `keep_special`, and are left
    /// out otherwise; user-defined pieces such as `<extra_id_1>` always stand in it. Bytes that make no character, and
    /// ids outside the vocabulary, are U+FFFD.
    pub fn decode(&self, ids: &[u32], keep_special: bool) -> String {
        let mut text = String::new();
        let mut decoder = self.decoder(keep_special);
        for &id in ids {
            decoder.push(id, &mut text);
        }
        decoder.finish(&mut text);
        text
    }

    /// A decoder for ids that come one by one; see [`Tokenizer::decode`].
    pub fn decoder(&self, keep_special: bool) -> Decoder<'_> {
        Decoder::new(self, keep_special)
    }

    /// The number of pieces, special ones included. Every id is less.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// The id of the piece or special token that is spelled `piece`: with `▁` for a space in a SentencePiece model, in
    /// the characters that stand for bytes (`Ġ` for a space) in a byte-level one.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.vocabulary.id(piece)
    }

    /// The spelling of a piece, the inverse of [`Tokenizer::id`].
    pub fn piece(&self, id: u32) -> Option<&str> {
        self.vocabulary.text(id)
    }

    /// The token that begins a sequence.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// The token that ends a sequence.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// The token for text that no piece covers.
    pub fn unk(&self) -> Option<u32> {
        self.special.unk
    }

    /// The token that fills a batch up.
    pub fn pad(&self) -> Option<u32> {
        self.special.pad
    }

    /// Writes the file that the tokenizer was read from, unchanged, and a `tokenizer_config.json`: the one that lay beside
    /// it, or one that transformers loads it with.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, dir: &Path) -> crate::Result<()> {
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(Error::io(path))
        };
        write(self.file.0, &self.file.1)?;
        match &self.config {
            Some(config) => write(CONFIG, config),
            None => write(CONFIG, format!("{:#}\n", self.default_config()).as_bytes()),
        }
    }

    /// A `tokenizer_config.json` for a tokenizer that came without one.
    fn default_config(&self) -> Value {
        let token = |id: Option<u32>| id.and_then(|id| self.vocabulary.text(id));
        let mut config = serde_json::json!({
            "tokenizer_class": match self.scheme {
                Scheme::SentencePiece(_) => "LlamaTokenizer",
                Scheme::Json(_) => "PreTrainedTokenizerFast",
            },
            "bos_token": token(self.special.bos),
            "eos_token": token(self.special.eos),
            "unk_token": token(self.special.unk),
            "pad_token": token(self.special.pad),
            "clean_up_tokenization_spaces": false,
        });
        if let Scheme::SentencePiece(_) = self.scheme {
            // No dummy prefix after a special token, which is what `encode` does.
            config["legacy"] = false.into();
            config["add_bos_token"] = true.into();
            config["add_eos_token"] = false.into();
        }
        config
    }
}

fn refused(path: impl Into<PathBuf>, message: impl Into<String>) -> Error {
    Error::Tokenizer { path: path.into(), message: one_line(message) }
}
