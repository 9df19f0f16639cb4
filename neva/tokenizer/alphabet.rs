//! The alphabet of byte-level BPE: one printable character for each byte, so that a vocabulary is readable text.
//!
//! Reference: the GPT-2 release (Radford et al., 2019), whose files fixed the assignment.

/// The printable character that stands for a byte: itself, or the next one from U+0100 on.
pub(super) fn byte_character(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return byte as char;
    }
    let before = (0..byte).filter(|&other| !printable(other)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character stands for, the inverse of [`byte_character`].
pub(super) fn character_byte(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ 0..0x100 => Some(code as u8).filter(|&byte| byte_character(byte) == character),
        // The 68 bytes that are not printable are 0-32, 127-160 and 173.
        code @ 0x100..0x121 => Some((code - 0x100) as u8),
        code @ 0x121..0x143 => Some((code - 0x121) as u8 + 127),
        0x143 => Some(173),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_printable_character() {
        for byte in 0..=255 {
            assert_eq!(character_byte(byte_character(byte)), Some(byte));
        }
        assert_eq!((byte_character(b' '), byte_character(b'\n'), byte_character(173)), ('Ġ', 'Ċ', 'Ń'));
        assert_eq!(character_byte(' '), None);
        assert_eq!(character_byte('\u{144}'), None);
    }
}
