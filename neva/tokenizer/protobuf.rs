//! The wire format of protocol buffers, as far as a SentencePiece model needs it.
//!
//! A message is a sequence of fields, each a varint tag `(number << 3) | wire type` followed by its value. [`Fields`]
//! walks them without copying: a length is believed only after it was compared with the bytes that are left, so
//! hostile input can cost no more memory than it has bytes. Groups (wire types 3 and 4) are refused.

/// The value of one field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// Wire type 0: an integer, an enum or a bool.
    Varint(u64),
    /// Wire type 1: eight bytes, which no field that we read uses.
    Fixed64,
    /// Wire type 5: four little-endian bytes, a float among the fields that we read.
    Fixed32(u32),
    /// Wire type 2: a string, bytes or a message. `at` is its offset in the file.
    Bytes {
        /// The content.
        bytes: &'a [u8],
        /// The offset of its first byte in the file.
        at: usize,
    },
}

/// The fields of one message, in the order of the file. Errors are sentences that name a byte offset.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// Walks `bytes`, whose first byte lies at offset `at` of the file.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Fields { bytes, at }
    }

    /// The next field's number and value, `None` at the end of the message.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, String> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = self.varint()?;
                let at = self.at;
                Value::Bytes { bytes: self.take(length)?, at }
            }
            5 => {
                let bytes = self.take(4)?;
                Value::Fixed32(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            wire => {
                return Err(format!("byte {start}: wire type {wire} is not one of a SentencePiece model"));
            }
        };
        Ok(Some((tag >> 3, value)))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let left = self.bytes.len();
        let fits = usize::try_from(length).ok().filter(|&length| length <= left);
        let Some(length) = fits else {
            return Err(format!(
                "byte {}: a field of {length} bytes where {left} are left: cut short, or no SentencePiece model",
                self.at
            ));
        };
        let (taken, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        self.at += length;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(format!("byte {start}: an integer of more than ten bytes"))
    }
}

/// Appends an integer, enum or bool field.
pub(super) fn put_varint(out: &mut Vec<u8>, field: u64, value: u64) {
    put_raw_varint(out, field << 3);
    put_raw_varint(out, value);
}

/// Appends a float field.
pub(super) fn put_float(out: &mut Vec<u8>, field: u64, value: f32) {
    put_raw_varint(out, field << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a string, bytes or message field.
pub(super) fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_raw_varint(out, field << 3 | 2);
    put_raw_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_raw_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn fields_read_back_as_written() {
        let mut message = Vec::new();
        put_varint(&mut message, 3, u64::MAX);
        put_float(&mut message, 2, -1.5);
        put_bytes(&mut message, 200, b"abc");
        let mut fields = Fields::new(&message, 0);
        assert_eq!(fields.next().unwrap(), Some((3, Value::Varint(u64::MAX))));
        assert_eq!(fields.next().unwrap(), Some((2, Value::Fixed32((-1.5f32).to_bits()))));
        assert_eq!(
            fields.next().unwrap(),
            Some((200, Value::Bytes { bytes: b"abc", at: message.len() - 3 }))
        );
        assert_eq!(fields.next().unwrap(), None);
    }

    #[test]
    fn hostile_lengths_and_integers_are_refused() {
        let error = |bytes: &[u8]| Fields::new(bytes, 7).next().unwrap_err();
        assert_eq!(
            error(b"\x0a\xff\xff\xff\xff\x0f"),
            "byte 13: a field of 4294967295 bytes where 0 are left: cut short, or no SentencePiece model"
        );
        assert_eq!(
            error(b"\x08\x80"),
            "byte 9: a field of 1 bytes where 0 are left: cut short, or no SentencePiece model"
        );
        assert_eq!(error(&[0x80; 11]), "byte 7: an integer of more than ten bytes");
        assert_eq!(error(b"\x0b"), "byte 7: wire type 3 is not one of a SentencePiece model");
    }
}
