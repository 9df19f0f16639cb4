//! Byte-pair merging of one word: the best adjacent pair is joined until no pair can be.
//!
//! Candidates wait in a heap, best rank first and leftmost among equals, so a word of n symbols costs O(n log n).
//! A candidate goes stale when a neighbour is merged first; it is recognised by asking again what the symbols that stand
//! there now would make. Reference: Sennrich, Haddow, Birch (2016), "Neural Machine Translation of Rare Words with
//! Subword Units", algorithm 1.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

const NONE: usize = usize::MAX;

/// A stretch of the word: a character at first, a piece in the end.
#[derive(Clone, Debug)]
pub(super) struct Symbol {
    /// The piece, [`Symbol::UNKNOWN`] for a character that is none.
    pub(super) id: u32,
    /// The bytes of the input text that it covers.
    pub(super) span: Range<usize>,
    /// The bytes of the normalised text that it covers; empty once it was merged into its left neighbour.
    pub(super) normal: Range<usize>,
    before: usize,
    after: usize,
}

impl Symbol {
    /// The id of a character that is no piece.
    pub(super) const UNKNOWN: u32 = u32::MAX;
}

/// What joining two neighbours would make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Merge {
    /// Smaller is joined earlier.
    pub(super) rank: u32,
    /// The piece it makes.
    pub(super) id: u32,
}

/// The symbols of one word and the heap, kept between words for their memory.
#[derive(Default)]
pub(super) struct Word {
    symbols: Vec<Symbol>,
    /// `(rank, left symbol, id)`.
    candidates: BinaryHeap<Reverse<(u32, usize, u32)>>,
}

impl Word {
    /// Appends a symbol that covers at least one byte of the normalised text.
    pub(super) fn push(&mut self, id: u32, span: Range<usize>, normal: Range<usize>) {
        assert!(!normal.is_empty(), "a symbol covers at least one byte of the normalised text");
        let here = self.symbols.len();
        if let Some(last) = self.symbols.last_mut() {
            last.after = here;
        }
        self.symbols.push(Symbol { id, span, normal, before: here.wrapping_sub(1), after: NONE });
    }

    /// The symbol pushed last.
    pub(super) fn last_mut(&mut self) -> Option<&mut Symbol> {
        self.symbols.last_mut()
    }

    /// Merges with `merge(left, right)` until nothing is left to join, hands each remaining symbol to `emit` in order, and
    /// empties the word.
    pub(super) fn finish(
        &mut self,
        merge: impl Fn(&Symbol, &Symbol) -> Option<Merge>,
        mut emit: impl FnMut(&Symbol),
    ) {
        for left in 0..self.symbols.len().saturating_sub(1) {
            self.propose(left, &merge);
        }
        while let Some(Reverse((_, left, id))) = self.candidates.pop() {
            let (here, right) = (&self.symbols[left], self.symbols[left].after);
            if here.normal.is_empty() || right == NONE {
                continue;
            }
            if merge(here, &self.symbols[right]).map(|merge| merge.id) != Some(id) {
                continue;
            }
            let joined = &mut self.symbols[right];
            let (span_end, normal_end, after) = (joined.span.end, joined.normal.end, joined.after);
            joined.normal.end = joined.normal.start;
            let here = &mut self.symbols[left];
            here.id = id;
            here.span.end = span_end;
            here.normal.end = normal_end;
            here.after = after;
            let before = here.before;
            if after != NONE {
                self.symbols[after].before = left;
                self.propose(left, &merge);
            }
            if before != NONE {
                self.propose(before, &merge);
            }
        }
        self.symbols.iter().filter(|symbol| !symbol.normal.is_empty()).for_each(&mut emit);
        self.symbols.clear();
    }

    /// Puts the pair of `left` and its right neighbour on the heap if they can be joined.
    fn propose(&mut self, left: usize, merge: &impl Fn(&Symbol, &Symbol) -> Option<Merge>) {
        let here = &self.symbols[left];
        if let Some(Merge { rank, id }) = merge(here, &self.symbols[here.after]) {
            self.candidates.push(Reverse((rank, left, id)));
        }
    }
}
