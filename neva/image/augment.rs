//! Training pictures that differ a little each time they are shown.
//!
//! A tower that is born on a few thousand pictures remembers them before it has learnt what they show. Moved and mirrored
//! they are never quite the same twice, and what is asked about them has the same answer: unless it is where something
//! is, which is why nothing of this is on by default.

use kernels::random::Random;

/// How far a picture may be changed. The default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augment {
    /// Mirror every other picture, left and right exchanged.
    pub flip: bool,
    /// Move it by up to so many pixels, in each direction and axis; what comes into sight repeats the edge.
    pub shift: usize,
}

/// One change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Left and right are exchanged, before it is moved.
    pub mirrored: bool,
    /// Pixels to the right.
    pub right: isize,
    /// Pixels down.
    pub down: isize,
}

impl Augment {
    /// The change that the numbers of `random` choose, each as likely as any other.
    pub fn choose(&self, random: &mut Random) -> Change {
        let mut below = |n: usize| random.below(n as u32) as isize;
        let mirrored = below(2) == 1;
        let reach = self.shift as isize;
        let (right, down) = (below(2 * self.shift + 1) - reach, below(2 * self.shift + 1) - reach);
        Change { mirrored: self.flip && mirrored, right, down }
    }
}

impl Change {
    /// Changes a square picture `[size, size, 3]`.
    ///
    /// # Panics
    /// When `rgb` is not so long.
    pub fn apply(&self, rgb: &[u8], size: usize) -> Vec<u8> {
        assert_eq!(rgb.len(), 3 * size * size, "a square picture has size * size pixels");
        let last = size as isize - 1;
        let mut changed = Vec::with_capacity(rgb.len());
        for y in 0..size as isize {
            let row = &rgb[(y - self.down).clamp(0, last) as usize * 3 * size..][..3 * size];
            for x in 0..size as isize {
                let from = (x - self.right).clamp(0, last);
                let from = if self.mirrored { last - from } else { from };
                changed.extend_from_slice(&row[from as usize * 3..][..3]);
            }
        }
        changed
    }
}
