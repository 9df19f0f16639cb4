//! SentencePiece BPE models: the `tokenizer.model` of LLaMA, Vicuna and Mistral.
//!
//! What such a model does to a text, in order:
//! 1. **Control pieces** (`<s>`, `</s>`) are found literally and cut the text. SentencePiece itself never does this;
//!    prompts are written with them, so we do, as transformers does. Text after a control piece gets no dummy prefix.
//! 2. **Normalisation**, identity only: a dummy space is put before the text if the model says so, runs of spaces are
//!    reduced if it says so, every space becomes `▁` (U+2581).
//! 3. **User-defined pieces** (`<extra_id_0>`) are found literally, longest first, and are never merged.
//! 4. **Merging** by score: of all adjacent pairs whose concatenation is a piece, the one with the highest score is joined
//!    first, the leftmost among equals.
//! 5. **Byte fallback**: a character that is no piece becomes the pieces `<0xNN>` of its UTF-8 bytes; in a model without
//!    them it becomes the unknown piece, one for a run of such characters.
//!
//! Reference: Kudo, Richardson (2018), "SentencePiece: A simple and language independent subword tokenizer". The ids are
//! those of the `sentencepiece` package, which is the oracle of the tests. Unigram models, normalisers with a character
//! map, whitespace as suffix and unused pieces are refused by name.

use super::Piece;
use super::literal::Literals;
use super::merge::{Merge, Symbol, Word};
use super::protobuf::{Fields, Value, put_bytes, put_float, put_varint};
use super::vocabulary::{Kind, Vocabulary};

/// What SentencePiece writes for a space, U+2581.
pub(super) const SPACE: char = '▁';

/// Everything of a model that is not its vocabulary.
#[derive(Clone, Debug)]
pub(super) struct SentencePiece {
    add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    /// By id: the order of merging, smallest first, from the scores, highest first.
    ranks: Vec<u32>,
    byte_ids: Option<Box<[u32; 256]>>,
    unk: u32,
    /// What the unknown piece decodes to.
    pub(super) unk_surface: String,
    user_defined: Literals,
    control: Literals,
    /// No piece goes on over a space that follows something else, so words can be merged one by one.
    words_end_at_spaces: bool,
}

/// The names of the special pieces that a model declares.
pub(super) struct Names {
    pub(super) bos: String,
    pub(super) eos: String,
    pub(super) pad: String,
}

/// The fields of `TrainerSpec` and `NormalizerSpec` that decide how text is encoded, with their proto2 defaults.
struct Specs {
    trainer: bool,
    normalizer: bool,
    model_type: u64,
    byte_fallback: bool,
    whitespace_as_suffix: bool,
    unk_surface: String,
    names: Names,
    normalizer_name: String,
    character_map: bool,
    denormalizer: bool,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

impl Default for Specs {
    fn default() -> Self {
        Specs {
            trainer: false,
            normalizer: false,
            model_type: 1,
            byte_fallback: false,
            whitespace_as_suffix: false,
            unk_surface: " \u{2047} ".into(),
            names: Names { bos: "<s>".into(), eos: "</s>".into(), pad: "<pad>".into() },
            normalizer_name: String::new(),
            character_map: false,
            denormalizer: false,
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

fn utf8(bytes: &[u8], at: usize) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| format!("byte {at}: a string that is not UTF-8"))
}

impl Specs {
    fn read_trainer(&mut self, bytes: &[u8], at: usize) -> Result<(), String> {
        self.trainer = true;
        let mut fields = Fields::new(bytes, at);
        while let Some(field) = fields.next()? {
            match field {
                (3, Value::Varint(value)) => self.model_type = value,
                (24, Value::Varint(value)) => self.whitespace_as_suffix = value != 0,
                (35, Value::Varint(value)) => self.byte_fallback = value != 0,
                (44, Value::Bytes { bytes, at }) => self.unk_surface = utf8(bytes, at)?,
                (46, Value::Bytes { bytes, at }) => self.names.bos = utf8(bytes, at)?,
                (47, Value::Bytes { bytes, at }) => self.names.eos = utf8(bytes, at)?,
                (48, Value::Bytes { bytes, at }) => self.names.pad = utf8(bytes, at)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, bytes: &[u8], at: usize) -> Result<(), String> {
        self.normalizer = true;
        let mut fields = Fields::new(bytes, at);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Bytes { bytes, at }) => self.normalizer_name = utf8(bytes, at)?,
                (2, Value::Bytes { bytes, .. }) => self.character_map = !bytes.is_empty(),
                (3, Value::Varint(value)) => self.add_dummy_prefix = value != 0,
                (4, Value::Varint(value)) => self.remove_extra_whitespaces = value != 0,
                (5, Value::Varint(value)) => self.escape_whitespaces = value != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_denormalizer(&mut self, bytes: &[u8], at: usize) -> Result<(), String> {
        let mut fields = Fields::new(bytes, at);
        while let Some(field) = fields.next()? {
            if let (2, Value::Bytes { bytes, .. }) = field {
                self.denormalizer = !bytes.is_empty();
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if !self.trainer || !self.normalizer {
            return Err(
                "no trainer or normalizer specification: the file is cut short, or no SentencePiece model"
                    .into(),
            );
        }
        let refuse = |what: &str| {
            Err(format!("{what} is not supported; expected a BPE model with identity normalisation"))
        };
        match self.model_type {
            2 => {}
            1 => return refuse("a unigram model"),
            3 => return refuse("a word model"),
            4 => return refuse("a character model"),
            other => return refuse(&format!("model type {other}")),
        }
        if self.character_map {
            return refuse(&format!("the normaliser {:?}", self.normalizer_name));
        }
        if self.denormalizer {
            return refuse("a denormaliser");
        }
        if self.whitespace_as_suffix {
            return refuse("whitespace as a suffix (treat_whitespace_as_suffix)");
        }
        if !self.escape_whitespaces {
            return refuse("unescaped whitespace (escape_whitespaces: false)");
        }
        Ok(())
    }
}

/// One `SentencePiece` message: text, score, kind.
fn read_piece(bytes: &[u8], at: usize, id: usize) -> Result<(String, f32, Kind), String> {
    let (mut text, mut score, mut kind) = (String::new(), 0.0, 1);
    let mut fields = Fields::new(bytes, at);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes { bytes, at }) => text = utf8(bytes, at)?,
            (2, Value::Fixed32(bits)) => score = f32::from_bits(bits),
            (3, Value::Varint(value)) => kind = value,
            _ => {}
        }
    }
    if score.is_nan() {
        return Err(format!("piece {id} {text:?}: its score is not a number"));
    }
    let kind = match kind {
        1 => Kind::Normal,
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => return Err(format!("piece {id} {text:?}: unused pieces are not supported")),
        6 => {
            Kind::byte(&text).ok_or_else(|| format!("piece {id} {text:?}: a byte piece is spelled <0xNN>"))?
        }
        other => return Err(format!("piece {id} {text:?}: unknown kind {other}")),
    };
    Ok((text, score, kind))
}

/// Reads a `ModelProto`. The error is a sentence without the file's name.
pub(super) fn read(file: &[u8]) -> Result<(Vocabulary, SentencePiece, Names), String> {
    let mut vocabulary = Vocabulary::default();
    let mut scores = Vec::new();
    let mut specs = Specs::default();
    let mut fields = Fields::new(file, 0);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes { bytes, at }) => {
                let (text, score, kind) = read_piece(bytes, at, vocabulary.len())?;
                vocabulary.push(&text, kind)?;
                scores.push(score);
            }
            (2, Value::Bytes { bytes, at }) => specs.read_trainer(bytes, at)?,
            (3, Value::Bytes { bytes, at }) => specs.read_normalizer(bytes, at)?,
            (5, Value::Bytes { bytes, at }) => specs.read_denormalizer(bytes, at)?,
            _ => {}
        }
    }
    specs.check()?;
    let byte_ids = vocabulary.byte_ids()?;
    if byte_ids.is_some() != specs.byte_fallback {
        return Err("byte fallback without byte pieces, or byte pieces without byte fallback".into());
    }
    let unknown: Vec<u32> =
        vocabulary.iter().filter(|(_, _, kind)| *kind == Kind::Unknown).map(|(id, ..)| id).collect();
    let [unk] = unknown[..] else {
        return Err(format!("expected one unknown piece, found {}", unknown.len()));
    };
    let of_kinds = |kinds: &[Kind]| {
        let chosen = vocabulary.iter().filter(|(_, _, kind)| kinds.contains(kind));
        Literals::new(chosen.map(|(id, text, _)| (text, id)))
    };
    let model = SentencePiece {
        add_dummy_prefix: specs.add_dummy_prefix,
        remove_extra_whitespaces: specs.remove_extra_whitespaces,
        ranks: ranks(&scores),
        byte_ids,
        unk,
        unk_surface: specs.unk_surface,
        user_defined: of_kinds(&[Kind::UserDefined]),
        control: of_kinds(&[Kind::Control, Kind::Unknown]),
        words_end_at_spaces: !vocabulary
            .iter()
            .any(|(_, text, kind)| kind == Kind::Normal && text.trim_start_matches(SPACE).contains(SPACE)),
    };
    Ok((vocabulary, model, specs.names))
}

/// The rank of each piece: pieces with equal scores share one.
fn ranks(scores: &[f32]) -> Vec<u32> {
    let mut distinct = scores.to_vec();
    distinct.sort_unstable_by(|a, b| b.total_cmp(a));
    distinct.dedup();
    // `partition_point` and not `binary_search`: -0.0 and 0.0 are one score.
    scores.iter().map(|score| distinct.partition_point(|other| other > score) as u32).collect()
}

impl SentencePiece {
    /// Adds a token of a model directory that the model itself does not know; it behaves as a control piece.
    pub(super) fn add(&mut self, text: &str, id: u32) {
        self.control.insert(text, id);
    }

    /// Whether decoding drops the space that the dummy prefix put before the text.
    pub(super) fn strips_first_space(&self) -> bool {
        self.add_dummy_prefix || self.remove_extra_whitespaces
    }

    /// Encodes `text[part]`.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        part: std::ops::Range<usize>,
    ) -> Vec<Piece> {
        let text = &text[..part.end];
        let mut pieces = Vec::new();
        let mut at = part.start;
        loop {
            let found = self.control.find(text, at);
            let segment = at..found.map_or(text.len(), |(start, ..)| start);
            let before = pieces.len();
            self.encode_segment(vocabulary, text, segment.clone(), &mut pieces);
            // Spaces alone may be left out: they belong to the control piece behind them, or else to the one before.
            let left_out = pieces.len() == before;
            let Some((start, end, id)) = found else {
                if let Some(last) = pieces.last_mut().filter(|_| left_out) {
                    last.span.end = segment.end;
                }
                break;
            };
            pieces.push(Piece { id, span: if left_out { segment.start } else { start }..end });
            at = end;
        }
        pieces
    }

    /// Encodes `text[segment]`, which holds no control piece.
    fn encode_segment(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        segment: std::ops::Range<usize>,
        pieces: &mut Vec<Piece>,
    ) {
        let (normal, origins) = self.normalize(text, segment);
        let mut word = Word::default();
        let merge = |left: &Symbol, right: &Symbol| {
            let id = vocabulary.normal(&normal[left.normal.start..right.normal.end])?;
            Some(Merge { rank: self.ranks[id as usize], id })
        };
        let first = pieces.len();
        let mut emit = |symbol: &Symbol| self.emit(symbol, &normal, first, pieces);
        let (mut at, mut index, mut after_space) = (0, 0, true);
        while let Some(character) = normal[at..].chars().next() {
            let user_defined = self.user_defined.at(&normal, at);
            let length = user_defined.map_or(character.len_utf8(), |(length, _)| length);
            let next = index + user_defined.map_or(1, |_| normal[at..at + length].chars().count());
            let (span, here) = (origins[index]..origins[next], at..at + length);
            let space = character == SPACE;
            if user_defined.is_some() || (space && !after_space && self.words_end_at_spaces) {
                word.finish(merge, &mut emit);
            }
            if let Some((_, id)) = user_defined {
                word.push(id, span, here);
                word.finish(|_, _| None, &mut emit);
            } else {
                word.push(vocabulary.normal(&normal[here.clone()]).unwrap_or(Symbol::UNKNOWN), span, here);
            }
            (at, index, after_space) = (at + length, next, space);
        }
        word.finish(merge, &mut emit);
    }

    /// The normalised text of a segment, and for each of its characters and for its end the byte of `text` where what it
    /// stands for begins.
    fn normalize(&self, text: &str, segment: std::ops::Range<usize>) -> (String, Vec<usize>) {
        let mut normal = String::with_capacity(segment.len() + segment.len() / 4 + SPACE.len_utf8());
        let mut origins = Vec::with_capacity(segment.len() + 2);
        let mut after_space = self.remove_extra_whitespaces;
        for (offset, character) in text[segment.clone()].char_indices() {
            let space = character == ' ';
            if space && after_space && self.remove_extra_whitespaces {
                continue;
            }
            if normal.is_empty() && self.add_dummy_prefix && segment.start == 0 {
                normal.push(SPACE);
                origins.push(segment.start);
            }
            normal.push(if space { SPACE } else { character });
            origins.push(segment.start + offset);
            after_space = space;
        }
        if self.remove_extra_whitespaces {
            while normal.ends_with(SPACE) {
                normal.pop();
                origins.pop();
            }
        }
        // What was left out before the first character belongs to it.
        if let Some(first) = origins.first_mut() {
            *first = segment.start;
        }
        origins.push(segment.end);
        (normal, origins)
    }

    /// Appends the pieces of a merged symbol.
    fn emit(&self, symbol: &Symbol, normal: &str, first: usize, pieces: &mut Vec<Piece>) {
        let Symbol { id, span, .. } = symbol;
        if *id != Symbol::UNKNOWN {
            pieces.push(Piece { id: *id, span: span.clone() });
        } else if let Some(ids) = &self.byte_ids {
            // A space is one byte of the text and three of its `▁`: the last two then cover nothing.
            let bytes = &normal.as_bytes()[symbol.normal.clone()];
            for (index, &byte) in bytes.iter().enumerate() {
                let start = (span.start + index).min(span.end);
                let end = if index + 1 == bytes.len() { span.end } else { (start + 1).min(span.end) };
                pieces.push(Piece { id: ids[byte as usize], span: start..end });
            }
        } else if let Some(last) = pieces[first..].last_mut().filter(|last| last.id == self.unk) {
            last.span.end = span.end;
        } else {
            pieces.push(Piece { id: self.unk, span: span.clone() });
        }
    }
}

/// Writes a `ModelProto` of a BPE model with byte fallback: `pieces` are text, score and kind, in the order of their ids.
pub(super) fn write(pieces: &[(String, f32, Kind)]) -> Vec<u8> {
    let mut file = Vec::new();
    for (text, score, kind) in pieces {
        let mut piece = Vec::new();
        put_bytes(&mut piece, 1, text.as_bytes());
        put_float(&mut piece, 2, *score);
        let kind = match kind {
            Kind::Normal => 1,
            Kind::Unknown => 2,
            Kind::Control => 3,
            Kind::UserDefined => 4,
            Kind::Byte(_) => 6,
        };
        put_varint(&mut piece, 3, kind);
        put_bytes(&mut file, 1, &piece);
    }
    let mut trainer = Vec::new();
    put_varint(&mut trainer, 3, 2); // model_type: BPE
    put_varint(&mut trainer, 4, pieces.len() as u64); // vocab_size
    put_varint(&mut trainer, 35, 1); // byte_fallback
    put_varint(&mut trainer, 40, 0); // unk_id
    put_varint(&mut trainer, 41, 1); // bos_id
    put_varint(&mut trainer, 42, 2); // eos_id
    put_varint(&mut trainer, 43, -1i64 as u64); // pad_id: none
    put_bytes(&mut file, 2, &trainer);
    let mut normalizer = Vec::new();
    put_bytes(&mut normalizer, 1, b"identity");
    put_varint(&mut normalizer, 3, 1); // add_dummy_prefix
    put_varint(&mut normalizer, 4, 0); // remove_extra_whitespaces
    put_varint(&mut normalizer, 5, 1); // escape_whitespaces
    put_bytes(&mut file, 3, &normalizer);
    file
}
