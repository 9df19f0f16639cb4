//! Forward: one block of queries of one head against its keys, FlashAttention-2's algorithm 1.
//!
//! The tile of scores is computed transposed, keys down and queries across. Then the maximum and the sum of a
//! query's scores are vertical: one lane is one query, nothing is ever added across lanes, and keys need no
//! transposition, only queries do, once per block.
//!
//! What a query's result depends on: its own row, the keys it sees, and where tiles start, which is at the first
//! key. A key it does not see is never multiplied into its output, and weighs exactly 0 in its sum.

use super::TILE;
use super::block::{columns, for_blocks, multiply, rows};
use super::columns::{Columns, ColumnsMut};
use crate::dtype::{Float, Real};

/// Some queries of one head.
pub struct Queries<'a, T: Real> {
    /// Their rows of q.
    pub q: Columns<'a, T>,
    /// The keys they see, from the first on.
    pub k: Columns<'a, T>,
    /// The values of those keys.
    pub v: Columns<'a, T>,
    /// How many queries.
    pub count: usize,
    /// Query i sees the keys `0..sees.of(i)`.
    pub sees: Sees,
    /// Where the results go.
    pub out: ColumnsMut<'a, T>,
    /// Where the logarithms of the sums go.
    pub lse: Option<ColumnsMut<'a, T::Acc>>,
}

/// How many keys each query sees.
#[derive(Clone, Copy)]
pub struct Sees {
    /// The first query.
    pub first: usize,
    /// How many more each next one sees: 1 if causal, else 0.
    pub step: usize,
}

impl Sees {
    /// Query i.
    #[inline(always)]
    pub fn of(self, i: usize) -> usize {
        self.first + self.step * i
    }
}

/// Scratch for blocks of at most `queries` queries, in elements.
pub fn scratch(queries: usize, tile: usize, d: usize) -> usize {
    let (queries, tile) = (queries.next_multiple_of(8), tile.next_multiple_of(8));
    2 * queries * d + 2 * tile * d + 3 * queries
}

/// Computes `out` and `lse` of `block`. `tile` is how many keys make a tile, a multiple of 8 up to [`TILE`].
#[inline(always)]
pub fn forward<T: Real, const FMA: bool, const M: usize, const N: usize>(
    mut block: Queries<T>,
    d: usize,
    scale: f64,
    tile: usize,
    scratch: &mut [T::Acc],
) {
    let count = block.count;
    let padded = count.next_multiple_of(8);
    let (qt, scratch) = scratch.split_at_mut(padded * d);
    let (out, scratch) = scratch.split_at_mut(padded * d);
    let (k, scratch) = scratch.split_at_mut(tile * d);
    let (v, scratch) = scratch.split_at_mut(tile * d);
    let (top, scratch) = scratch.split_at_mut(padded);
    let (sum, _) = scratch.split_at_mut(padded);

    // Queries in panels [d, width], one panel per block of columns of the scores; the last is filled up with zeros.
    let scale = T::Acc::of(scale);
    for_blocks!(first in 0..padded, W <= N, {
        let panel = &mut qt[first * d..][..W * d];
        for i in 0..W {
            if first + i < count {
                for (c, &x) in block.q.row(first + i, d).iter().enumerate() {
                    panel[c * W + i] = x.to_acc() * scale;
                }
            } else {
                for c in 0..d {
                    panel[c * W + i] = T::Acc::ZERO;
                }
            }
        }
    });
    out.fill(T::Acc::ZERO);
    top.fill(T::Acc::NEG_INFINITY);
    sum.fill(T::Acc::ZERO);

    // A filler query sees what the last real one sees.
    let sees = |i: usize| block.sees.of(i.min(count - 1));
    for start in (0..sees(count - 1)).step_by(tile) {
        let keys = tile.min(sees(count - 1) - start);
        for j in 0..keys {
            widen(block.k.row(start + j, d), &mut k[j * d..][..d]);
            widen(block.v.row(start + j, d), &mut v[j * d..][..d]);
        }
        k[keys * d..keys.next_multiple_of(M) * d].fill(T::Acc::ZERO);
        for_blocks!(first in 0..padded, W <= N, {
            if sees(first + W - 1) > start {
                let rows = std::array::from_fn::<u32, W, _>(|i| sees(first + i).saturating_sub(start).min(keys) as u32);
                panel::<T::Acc, FMA, M, N, W>(
                    &qt[first * d..],
                    (k, v, keys),
                    d,
                    rows,
                    W.min(count - first),
                    &mut top[first..],
                    &mut sum[first..],
                    &mut out[first * d..],
                );
            }
        });
    }
    for i in 0..count {
        let (sum, top) = (sum[i], top[i]);
        let inverse = T::Acc::ONE / sum;
        for (y, &o) in block.out.row(i).iter_mut().zip(&out[i * d..][..d]) {
            *y = T::from_acc(o * inverse);
        }
        if let Some(lse) = &mut block.lse {
            lse.row(i)[0] = top + sum.ln();
        }
    }
}

#[inline(always)]
pub fn widen<T: Real>(from: &[T], to: &mut [T::Acc]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.to_acc();
    }
}

/// One tile of keys against one panel of W queries, of which `real` are real; `sees[i]` keys of the tile are seen
/// by query i.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn panel<A: Float, const FMA: bool, const M: usize, const N: usize, const W: usize>(
    qt: &[A],
    (k, v, keys): (&[A], &[A], usize),
    d: usize,
    sees: [u32; W],
    real: usize,
    top: &mut [A],
    sum: &mut [A],
    out: &mut [A],
) {
    // Scores, then weights: [key, query].
    let mut s = [[A::ZERO; W]; TILE];
    for j in (0..keys).step_by(M) {
        let mut acc = [[A::ZERO; W]; M];
        let k = rows::<A, M>(&k[j * d..], d, d);
        multiply::<A, FMA, M, W>(&mut acc, 0..d, |c| std::array::from_fn(|j| k[j][c]), qt, W);
        s[j..j + M].copy_from_slice(&acc);
    }
    let fewest = sees.iter().fold(keys as u32, |a, &b| a.min(b)) as usize;
    for (j, s) in s.iter_mut().enumerate().take(keys).skip(fewest) {
        for i in 0..W {
            s[i] = if (j as u32) < sees[i] { s[i] } else { A::NEG_INFINITY };
        }
    }
    let old: [A; W] = std::array::from_fn(|i| top[i]);
    let mut new = old;
    for s in &s[..keys] {
        for i in 0..W {
            new[i] = if s[i] > new[i] { s[i] } else { new[i] };
        }
    }
    let mut total = [A::ZERO; W];
    for s in &mut s[..keys] {
        for i in 0..W {
            let weight = (s[i] - new[i]).exp();
            s[i] = weight;
            total[i] += weight;
        }
    }
    // exp(-inf) is exactly 0 and exp(0) exactly 1: a query that sees nothing here keeps its bits.
    let mut shrink = [A::ZERO; W];
    for i in 0..W {
        shrink[i] = (old[i] - new[i]).exp();
        sum[i] = sum[i] * shrink[i] + total[i];
        top[i] = new[i];
    }
    let s = s.as_flattened();
    let mut i = 0;
    while i < real {
        if real - i == 1 {
            weigh::<A, FMA, 1, N>(&s[i..], W, v, d, &sees[i..], &shrink[i..], &mut out[i * d..]);
            i += 1;
        } else {
            weigh::<A, FMA, M, N>(&s[i..], W, v, d, &sees[i..], &shrink[i..], &mut out[i * d..]);
            i += M;
        }
    }
}

/// `out = shrink * out + weights v` for M queries; `weights` is [key, query] with rows of `stride`.
#[inline(always)]
fn weigh<A: Float, const FMA: bool, const M: usize, const N: usize>(
    weights: &[A],
    stride: usize,
    v: &[A],
    d: usize,
    sees: &[u32],
    shrink: &[A],
    out: &mut [A],
) {
    let sees: [u32; M] = std::array::from_fn(|i| sees[i]);
    let (fewest, most) = sees.iter().fold((u32::MAX, 0), |(a, b), &n| (a.min(n), b.max(n)));
    for_blocks!(c in 0..d, W <= N, {
        let mut acc: [[A; W]; M] =
            std::array::from_fn(|i| std::array::from_fn(|j| out[i * d + c + j] * shrink[i]));
        multiply::<A, FMA, M, W>(&mut acc, 0..fewest as usize, columns(weights, stride), &v[c..], d);
        // Keys that only some of these queries see.
        for k in fewest..most {
            let row = &v[k as usize * d + c..][..W];
            for i in 0..M {
                if k < sees[i] {
                    let weight = weights[k as usize * stride + i];
                    for j in 0..W {
                        acc[i][j] = super::block::madd::<A, FMA>(weight, row[j], acc[i][j]);
                    }
                }
            }
        }
        for i in 0..M {
            out[i * d + c..][..W].copy_from_slice(&acc[i]);
        }
    });
}
