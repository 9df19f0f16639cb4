//! Finding special tokens literally in text: leftmost first, longest at one place.

use std::collections::HashMap;

/// A set of strings, each with the id of its piece.
#[derive(Clone, Debug)]
pub(super) struct Literals {
    ids: HashMap<Box<str>, u32>,
    /// By first byte: the distinct lengths of the strings that begin with it, longest first. Few strings share a first
    /// byte and a length, so a candidate costs one look-up per length and not one comparison per string.
    lengths: Vec<Vec<usize>>,
}

impl Literals {
    /// The set of `strings`; empty ones are left out.
    pub(super) fn new<'a>(strings: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut literals = Literals { ids: HashMap::new(), lengths: vec![Vec::new(); 256] };
        for (string, id) in strings {
            literals.insert(string, id);
        }
        literals
    }

    /// Adds a string, unless it is empty.
    pub(super) fn insert(&mut self, string: &str, id: u32) {
        let Some(&first) = string.as_bytes().first() else { return };
        self.ids.insert(string.into(), id);
        let lengths = &mut self.lengths[first as usize];
        let place = lengths.partition_point(|&length| length > string.len());
        if lengths.get(place) != Some(&string.len()) {
            lengths.insert(place, string.len());
        }
    }

    /// The longest string of the set that `text` begins with at byte `at`: its length in bytes and its id.
    pub(super) fn at(&self, text: &str, at: usize) -> Option<(usize, u32)> {
        let first = *text.as_bytes().get(at)?;
        self.lengths[first as usize].iter().find_map(|&length| {
            let candidate = text.get(at..at.checked_add(length)?)?;
            self.ids.get(candidate).map(|&id| (length, id))
        })
    }

    /// The first place at or after byte `from` where a string of the set stands: start, end, id.
    pub(super) fn find(&self, text: &str, from: usize) -> Option<(usize, usize, u32)> {
        if self.ids.is_empty() {
            return None;
        }
        (from..text.len())
            .find_map(|start| self.at(text, start).map(|(length, id)| (start, start + length, id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftmost_then_longest() {
        let set = Literals::new([("<a>", 1), ("<a><b>", 2), ("b>", 3), ("é", 4), ("", 5)]);
        assert_eq!(set.find("x<a><b>", 0), Some((1, 7, 2)));
        assert_eq!(set.find("x<a><c>", 0), Some((1, 4, 1)));
        assert_eq!(set.find("x<a><b>", 2), Some((5, 7, 3)));
        assert_eq!(set.find("eéé", 0), Some((1, 3, 4)));
        assert_eq!(set.find("<a", 0), None);
    }
}
