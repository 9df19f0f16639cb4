//! Dropout on the CPU: the mask is made 64 columns at a time, 16 counters side by side.

use crate::dtype::{Float, Real};
use crate::random::{DROPOUT, philox_lanes, words};
use crate::reduce::{elements_per_task, rows_per_task};
use crate::simd::vectorize;
use rayon::prelude::*;

/// Counters mixed together: one zmm register per counter word.
const LANES: usize = 16;

/// `x *= keep / (1 - p)` in place, where `keep` is 0 or 1: 0 if the element's random word is below `threshold`.
pub fn apply<T: Real>(width: usize, threshold: u32, scale: f64, seed: u64, x: &mut [T], keys: &[u32]) {
    let scale = T::Acc::of(scale);
    let tasks = x.par_chunks_mut(elements_per_task(width)).zip(keys.par_chunks(rows_per_task(width)));
    tasks.for_each(|(x, keys)| {
        vectorize(
            #[inline(always)]
            || {
                for (x, &key) in x.chunks_exact_mut(width).zip(keys) {
                    for (group, x) in x.chunks_mut(4 * LANES).enumerate() {
                        let bits = random_words(group as u32, key, seed);
                        for (x, &bits) in x.iter_mut().zip(&bits) {
                            *x =
                                T::from_acc(if bits < threshold { T::Acc::ZERO } else { x.to_acc() * scale });
                        }
                    }
                }
            },
        )
    });
}

/// The random words of columns 64 group .. 64 (group + 1) of a row.
#[inline(always)]
fn random_words(group: u32, key: u32, seed: u64) -> [u32; 4 * LANES] {
    let mut blocks = [0; LANES];
    for (l, block) in blocks.iter_mut().enumerate() {
        *block = group.wrapping_mul(LANES as u32).wrapping_add(l as u32);
    }
    let mixed = philox_lanes([blocks, [key; LANES], [0; LANES], [DROPOUT; LANES]], words(seed));
    let mut bits = [0; 4 * LANES];
    for l in 0..LANES {
        for w in 0..4 {
            bits[4 * l + w] = mixed[w][l];
        }
    }
    bits
}
