//! Random numbers that are a function of where they are used, not of what ran before: a counter-based generator.
//!
//! Philox4x32-10 of Salmon et al., *Parallel Random Numbers: As Easy as 1, 2, 3* (2011), section 4.3: a keyed mixing of
//! a 128-bit counter, ten rounds of two 32 x 32 -> 64 bit products. Any number of a stream can be had at once, in
//! parallel, on any device, and a run that resumes needs no generator state.
//!
//! The key is the seed. The last counter word says what the numbers are for, so two uses of one seed share none:
//!
//! | use | counter words |
//! |---|---|
//! | [`Random`], [`fill_normal`] | block (2 words), stream, 0 |
//! | dropout | column / 4, key of the row, 0, 1 |
//! | [`derive()`] | value (2 words), 0, 2 |

use crate::dtype::{Float, Real};
use rayon::prelude::*;

const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const KEY_STEPS: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85]; // golden ratio, sqrt(3) - 1

const STREAM: u32 = 0;
pub(crate) const DROPOUT: u32 = 1;
const DERIVE: u32 = 2;

/// Philox4x32-10: 128 random bits for a counter and a key.
#[inline(always)]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    philox_lanes(counter.map(|c| [c]), key).map(|[word]| word)
}

/// [`philox`] of `N` counters side by side, word by word, so that it vectorises.
#[inline(always)]
pub(crate) fn philox_lanes<const N: usize>(mut counter: [[u32; N]; 4], mut key: [u32; 2]) -> [[u32; N]; 4] {
    for _ in 0..ROUNDS {
        let [c0, c1, c2, c3] = &mut counter;
        for l in 0..N {
            let a = c0[l] as u64 * MULTIPLIERS[0] as u64;
            let b = c2[l] as u64 * MULTIPLIERS[1] as u64;
            c0[l] = (b >> 32) as u32 ^ c1[l] ^ key[0];
            c1[l] = b as u32;
            c2[l] = (a >> 32) as u32 ^ c3[l] ^ key[1];
            c3[l] = a as u32;
        }
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

/// The two words of a 64-bit number, the low one first.
#[inline(always)]
pub(crate) fn words(v: u64) -> [u32; 2] {
    [v as u32, (v >> 32) as u32]
}

fn join(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// A seed for one purpose out of a seed and the numbers that name the purpose: `derive(seed, &[epoch])`,
/// `derive(seed, &[step, site])`. Different paths give unrelated seeds.
pub fn derive(seed: u64, path: &[u64]) -> u64 {
    path.iter().fold(seed, |seed, &v| {
        let [low, high] = words(v);
        let [a, b, ..] = philox([low, high, 0, DERIVE], words(seed));
        join(a, b)
    })
}

/// The numbers of one stream of one seed, in order.
#[derive(Debug, Clone)]
pub struct Random {
    seed: u64,
    stream: u32,
    block: u64,
    /// The words of the current block that are not used yet: the first `left`, from the back.
    words: [u32; 4],
    left: usize,
}

impl Random {
    /// The start of stream `stream` of `seed`.
    pub fn new(seed: u64, stream: u32) -> Self {
        Random { seed, stream, block: 0, words: [0; 4], left: 0 }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.left == 0 {
            self.words = stream_block(self.seed, self.stream, self.block);
            self.words.reverse();
            self.block += 1;
            self.left = 4;
        }
        self.left -= 1;
        self.words[self.left]
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let low = self.next_u32();
        join(low, self.next_u32())
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        unit(self.next_u64())
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (self.next_u64(), self.next_u64());
        normal_pair(u, v).0
    }

    /// Uniform among 0..bound, without bias; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        // Lemire, *Fast Random Integer Generation in an Interval* (2019): the high half of the product, drawn again
        // in the few cases where the low half says that some values would come up once too often.
        let mut product = self.next_u32() as u64 * bound as u64;
        if (product as u32) < bound {
            let excess = bound.wrapping_neg() % bound;
            while (product as u32) < excess {
                product = self.next_u32() as u64 * bound as u64;
            }
        }
        (product >> 32) as u32
    }

    /// Puts `items` in a random order (Fisher and Yates); every order is equally likely. At most 2^32 items.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let bound = u32::try_from(i + 1).expect("a shuffle has at most 2^32 - 1 items");
            items.swap(i, self.below(bound) as usize);
        }
    }

    /// The numbers 0..n in a random order.
    pub fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }
}

/// Fills `out` with normal numbers of mean 0. Elements 2i and 2i + 1 come from block i of the stream, so the result
/// does not depend on the number of threads.
pub fn fill_normal<T: Real>(seed: u64, stream: u32, std: f64, out: &mut [T]) {
    const TASK: usize = 2048;
    out.par_chunks_mut(TASK).enumerate().for_each(|(task, out)| {
        for (i, pair) in out.chunks_mut(2).enumerate() {
            let [a, b, c, d] = stream_block(seed, stream, (task * TASK / 2 + i) as u64);
            let (first, second) = normal_pair(join(a, b), join(c, d));
            for (y, value) in pair.iter_mut().zip([first, second]) {
                *y = T::from_acc(T::Acc::of(value * std));
            }
        }
    });
}

fn stream_block(seed: u64, stream: u32, block: u64) -> [u32; 4] {
    let [low, high] = words(block);
    philox([low, high, stream, STREAM], words(seed))
}

/// The upper 53 bits as a number in [0, 1).
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * 2f64.powi(-53)
}

/// Two independent standard normal numbers (Box and Muller, 1958).
fn normal_pair(u: u64, v: u64) -> (f64, f64) {
    let radius = (-2.0 * (1.0 - unit(u)).ln()).sqrt();
    let (sin, cos) = (std::f64::consts::TAU * unit(v)).sin_cos();
    (radius * cos, radius * sin)
}
