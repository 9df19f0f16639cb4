//! The pieces of a tokenizer: id -> text and kind, text -> id.

use std::collections::HashMap;
use std::sync::Arc;

/// What a piece stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text that merges can produce.
    Normal,
    /// What no piece covers.
    Unknown,
    /// Found literally in text; no text of its own when decoded: `<s>`, `</s>`.
    Control,
    /// Found literally in text, and decoded to itself: `<extra_id_0>`.
    UserDefined,
    /// One byte of a character that no piece covers: `<0x0A>`.
    Byte(u8),
}

impl Kind {
    /// [`Kind::Byte`] of a piece that is spelled `<0xNN>`.
    pub(super) fn byte(text: &str) -> Option<Kind> {
        let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
        let upper = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
        (digits.len() == 2 && digits.bytes().all(upper))
            .then(|| u8::from_str_radix(digits, 16).ok().map(Kind::Byte))
            .flatten()
    }
}

/// All pieces; the index of a piece is its id.
#[derive(Clone, Debug, Default)]
pub(super) struct Vocabulary {
    texts: Vec<Arc<str>>,
    kinds: Vec<Kind>,
    ids: HashMap<Arc<str>, u32>,
}

impl Vocabulary {
    /// Appends a piece. The error says which text is empty or occurs twice.
    pub(super) fn push(&mut self, text: &str, kind: Kind) -> Result<u32, String> {
        let id = u32::try_from(self.texts.len()).map_err(|_| "more than 2^32 pieces".to_string())?;
        if text.is_empty() {
            return Err(format!("piece {id} is empty"));
        }
        let text: Arc<str> = text.into();
        if let Some(first) = self.ids.insert(text.clone(), id) {
            return Err(format!("pieces {first} and {id} are both {text:?}"));
        }
        self.texts.push(text);
        self.kinds.push(kind);
        Ok(id)
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    pub(super) fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id as usize).map(|text| &**text)
    }

    pub(super) fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    /// Gives a piece another kind: an entry of the vocabulary that turns out to be an added token.
    pub(super) fn set_kind(&mut self, id: u32, kind: Kind) {
        self.kinds[id as usize] = kind;
    }

    /// The id of a piece that merges can produce.
    pub(super) fn normal(&self, text: &str) -> Option<u32> {
        self.id(text).filter(|&id| self.kinds[id as usize] == Kind::Normal)
    }

    /// Every piece: id, text, kind.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &str, Kind)> {
        (0u32..).zip(&self.texts).zip(&self.kinds).map(|((id, text), &kind)| (id, &**text, kind))
    }

    /// The ids of the 256 byte pieces in the order of their bytes, `None` when there are none. The error names the first
    /// byte that is missing when there are some.
    pub(super) fn byte_ids(&self) -> Result<Option<Box<[u32; 256]>>, String> {
        let mut ids = Box::new([u32::MAX; 256]);
        let mut found = 0;
        for (id, _, kind) in self.iter() {
            if let Kind::Byte(byte) = kind {
                ids[byte as usize] = id;
                found += 1;
            }
        }
        match ids.iter().position(|&id| id == u32::MAX) {
            None => Ok(Some(ids)),
            Some(_) if found == 0 => Ok(None),
            Some(byte) => Err(format!("byte fallback without the piece <0x{byte:02X}>")),
        }
    }
}
