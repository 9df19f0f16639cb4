//! Forward: one block of queries of one head against its keys, FlashAttention-2's algorithm 1.
//!
//! The tile of scores is computed transposed, keys down and queries across. Then the maximum and the sum of a
//! query's scores are vertical: one lane is one query, nothing is ever added across lanes, and keys need no
//! transposition, only queries do, once per block.
//!
//! What a query's result depends on: its own row, the keys it sees, and where tiles start, which is at the first
//! key. A key it does not see is never multiplied into its output, and weighs exactly 0 in its sum.

use super::Kernel;
use super::block::{Lanes, PAD, Rows, Transposed, for_blocks, load, multiply, store, transpose, zeros};
use super::columns::{Columns, ColumnsMut};
use crate::dtype::{Float, Real};

/// The most queries across a panel: two registers of [`PAD`].
const PANEL: usize = 2 * PAD;

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

impl<'a, T: Real> Queries<'a, T> {
    /// The same under another name of the type.
    pub fn cast<U: Real>(self) -> Queries<'a, U> {
        let Queries { q, k, v, count, sees, out, lse } = self;
        let lse = lse.map(ColumnsMut::cast);
        Queries { q: q.cast(), k: k.cast(), v: v.cast(), count, sees, out: out.cast(), lse }
    }
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
    let (queries, width) = (queries.next_multiple_of(PAD), d.next_multiple_of(PAD));
    2 * queries * width + 2 * tile * width + tile * PANEL + 2 * queries
}

/// One block with all it takes. `tile` is how many keys make a tile, a multiple of 8.
pub struct Task<'a, T: Real> {
    /// The block.
    pub queries: Queries<'a, T>,
    /// Width of the head.
    pub d: usize,
    /// What scores are multiplied by.
    pub scale: f64,
    /// Keys of a tile.
    pub tile: usize,
    /// As [`scratch`] says, or more.
    pub scratch: &'a mut [T::Acc],
}

impl<T: Real> Kernel<T::Acc> for Task<'_, T> {
    #[inline(always)]
    fn run<L: Lanes<Elem = T::Acc>, const M: usize, const TWO: bool>(self) {
        forward::<T, L, M, TWO>(self)
    }
}

/// Computes `out` and `lse` of one block.
#[inline(always)]
fn forward<T: Real, L: Lanes<Elem = T::Acc>, const M: usize, const TWO: bool>(task: Task<T>) {
    let Task { queries: mut block, d, scale, tile, scratch } = task;
    let count = block.count;
    let padded = count.next_multiple_of(L::WIDTH);
    let width = d.next_multiple_of(PAD);
    let (qt, scratch) = scratch.split_at_mut(padded * d);
    let (out, scratch) = scratch.split_at_mut(padded * width);
    let (k, scratch) = scratch.split_at_mut(tile * d);
    let (v, scratch) = scratch.split_at_mut(tile * width);
    let (s, scratch) = scratch.split_at_mut(tile * PANEL);
    let (top, scratch) = scratch.split_at_mut(padded);
    let (sum, _) = scratch.split_at_mut(padded);

    // Queries in panels [d, across], one for each block of columns of the scores; the last is filled up with zeros.
    let scale = T::Acc::of(scale);
    for (i, row) in out.chunks_exact_mut(width).enumerate() {
        if i < count {
            widen(block.q.row(i, d), row);
            row.iter_mut().for_each(|x| *x *= scale);
        } else {
            row.fill(T::Acc::ZERO);
        }
    }
    for_blocks!(first in 0..padded, C of L if TWO, {
        let across = C * L::WIDTH;
        let panel = &mut qt[first * d..][..across * d];
        transpose::<L>(&out[first * width..], (across, width), panel, (d, across));
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
            widen(block.v.row(start + j, d), &mut v[j * width..][..width]);
        }
        k[keys * d..keys.next_multiple_of(M) * d].fill(T::Acc::ZERO);
        for_blocks!(first in 0..padded, C of L if TWO, {
            let across = C * L::WIDTH;
            if sees(first + across - 1) > start {
                let mut seen = [0; PANEL];
                for (i, n) in seen[..across].iter_mut().enumerate() {
                    *n = sees(first + i).saturating_sub(start).min(keys) as u32;
                }
                scores::<L, M, C>(&qt[first * d..], k, (keys, d), s);
                let mut shrink = [T::Acc::ZERO; PANEL];
                soften::<L, C>(s, &seen, keys, &mut top[first..], &mut sum[first..], &mut shrink);
                let mut i = 0;
                while i < across.min(count - first) {
                    let (s, seen, shrink) = (&s[i..], &seen[i..], &shrink[i..]);
                    let out = &mut out[(first + i) * width..];
                    if count - first - i == 1 {
                        weigh::<L, 1, TWO>(s, across, v, width, seen, shrink, out);
                    } else {
                        weigh::<L, M, TWO>(s, across, v, width, seen, shrink, out);
                    }
                    i += M;
                }
            }
        });
    }
    for i in 0..count {
        let inverse = T::Acc::ONE / sum[i];
        for (y, &o) in block.out.row(i).iter_mut().zip(&out[i * width..][..d]) {
            *y = T::from_acc(o * inverse);
        }
        if let Some(lse) = &mut block.lse {
            lse.row(i)[0] = top[i] + sum[i].ln();
        }
    }
}

/// `to = from`, filled up with zeros.
#[inline(always)]
pub fn widen<T: Real>(from: &[T], to: &mut [T::Acc]) {
    let (to, filler) = to.split_at_mut(from.len());
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.to_acc();
    }
    filler.fill(T::Acc::ZERO);
}

/// Scores [key, query] of one tile of keys and one panel of queries.
#[inline(always)]
fn scores<L: Lanes, const M: usize, const C: usize>(
    qt: &[L::Elem],
    k: &[L::Elem],
    (keys, d): (usize, usize),
    s: &mut [L::Elem],
) {
    let across = C * L::WIDTH;
    for j in (0..keys).step_by(M) {
        let k = Rows::<_, M>::new(&k[j * d..], d, d);
        let block = multiply::<L, M, C>(zeros::<L, M, C>(), d, &k, qt, across);
        store(&block, &mut s[j * across..], across);
    }
}

/// Makes weights of scores, and corrects the running maximum and sum; `shrink` is what to multiply earlier weights
/// by. Query i sees the first `seen[i]` keys of the tile.
#[inline(always)]
fn soften<L: Lanes, const C: usize>(
    s: &mut [L::Elem],
    seen: &[u32],
    keys: usize,
    top: &mut [L::Elem],
    sum: &mut [L::Elem],
    shrink: &mut [L::Elem],
) {
    let across = C * L::WIDTH;
    let (seen, top, sum, shrink) =
        (&seen[..across], &mut top[..across], &mut sum[..across], &mut shrink[..across]);
    let s = &mut s[..keys * across];
    let fewest = seen.iter().fold(keys as u32, |a, &b| a.min(b)) as usize;
    for (j, s) in s.chunks_exact_mut(across).enumerate().skip(fewest) {
        for i in 0..across {
            s[i] = if (j as u32) < seen[i] { s[i] } else { L::Elem::NEG_INFINITY };
        }
    }
    let [mut new] = load::<L, 1, C>(top, across);
    for s in s.chunks_exact(across) {
        for (c, new) in new.iter_mut().enumerate() {
            *new = new.max(L::load(&s[c * L::WIDTH..]));
        }
    }
    // exp(-inf) is exactly 0 and exp(0) exactly 1: a query that sees nothing here keeps its bits.
    shrink.copy_from_slice(top);
    store(&[new], top, across);
    for i in 0..across {
        shrink[i] = (shrink[i] - top[i]).exp();
    }
    for s in s.chunks_exact_mut(across) {
        for i in 0..across {
            s[i] = (s[i] - top[i]).exp();
        }
    }
    let mut total = [L::zero(); C];
    for s in s.chunks_exact(across) {
        for (c, total) in total.iter_mut().enumerate() {
            *total = total.add(L::load(&s[c * L::WIDTH..]));
        }
    }
    for (c, total) in total.iter().enumerate() {
        let at = c * L::WIDTH;
        let mut earlier = [L::Elem::ZERO; PAD];
        for (to, (sum, shrink)) in earlier.iter_mut().zip(sum[at..].iter().zip(&shrink[at..])) {
            *to = *sum * *shrink;
        }
        L::load(&earlier).add(*total).store(&mut sum[at..]);
    }
}

/// `out = shrink * out + weights v` for M queries; `weights` is [key, query] with rows of `stride`.
#[inline(always)]
fn weigh<L: Lanes, const M: usize, const TWO: bool>(
    weights: &[L::Elem],
    stride: usize,
    v: &[L::Elem],
    width: usize,
    seen: &[u32],
    shrink: &[L::Elem],
    out: &mut [L::Elem],
) {
    let (seen, shrink) = (&seen[..M], &shrink[..M]);
    let (fewest, most) = seen.iter().fold((u32::MAX, 0), |(a, b), &n| (a.min(n), b.max(n)));
    let left = Transposed::<_, M> { a: weights, stride };
    for_blocks!(c in 0..width, C of L if TWO, {
        let mut block = load::<L, M, C>(&out[c..], width);
        for (row, &shrink) in block.iter_mut().zip(shrink) {
            *row = row.map(|lanes| lanes.times(shrink));
        }
        let mut block = multiply::<L, M, C>(block, fewest as usize, &left, &v[c..], width);
        // Keys that only some of these queries see.
        for k in fewest..most {
            let row = &v[k as usize * width + c..][..C * L::WIDTH];
            let weights = &weights[k as usize * stride..][..M];
            for ((sums, &seen), &weight) in block.iter_mut().zip(seen).zip(weights) {
                if k < seen {
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum = L::load(&row[c * L::WIDTH..]).madd(weight, *sum);
                    }
                }
            }
        }
        store(&block, &mut out[c..], width);
    });
}
