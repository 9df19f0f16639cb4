//! Backward of one key-and-value head of one sequence, FlashAttention-2's algorithm 2: tiles of keys outside,
//! blocks of queries inside, scores computed again from q, k and lse.
//!
//! Keys and values are transposed once per tile; here the scores lie queries down and keys across, since lse is
//! known and nothing has to be reduced.

use super::TILE;
use super::block::{columns, for_blocks, multiply, rows};
use super::columns::{Columns, ColumnsMut};
use super::forward::{Sees, widen};
use crate::dtype::{Float, Real};
use crate::reduce::lane_sum;

/// Queries that are handled at a time.
const QUERIES: usize = 64;

/// One head of keys and values of one sequence, with every head of queries that reads it.
pub struct Group<'a, T: Real> {
    /// Tokens.
    pub len: usize,
    /// What each query sees.
    pub sees: Sees,
    /// The query heads side by side.
    pub q: Columns<'a, T>,
    /// Keys.
    pub k: Columns<'a, T>,
    /// Values.
    pub v: Columns<'a, T>,
    /// Results of forward, side by side.
    pub out: Columns<'a, T>,
    /// Gradients of the results, side by side.
    pub dout: Columns<'a, T>,
    /// Logarithms of the sums, one column per query head.
    pub lse: Columns<'a, T::Acc>,
    /// Gradient of q, side by side.
    pub dq: ColumnsMut<'a, T>,
    /// Gradient of k.
    pub dk: ColumnsMut<'a, T>,
    /// Gradient of v.
    pub dv: ColumnsMut<'a, T>,
}

/// Scratch in elements: tiles, and the dq of one group, which every tile of keys adds to.
pub fn scratch(heads: usize, max_len: usize, tile: usize, d: usize) -> usize {
    heads * max_len.next_multiple_of(8) * d
        + 5 * tile * d
        + 2 * QUERIES * d
        + 2 * QUERIES * TILE
        + 2 * QUERIES
}

/// Computes dq, dk and dv of `group`, which has `heads` heads of queries.
#[inline(always)]
pub fn backward<T: Real, const FMA: bool, const M: usize, const N: usize>(
    mut group: Group<T>,
    heads: usize,
    d: usize,
    scale: f64,
    tile: usize,
    scratch: &mut [T::Acc],
) {
    let len = group.len;
    let padded = len.next_multiple_of(8);
    let scale = T::Acc::of(scale);
    let (dq, scratch) = scratch.split_at_mut(heads * padded * d);
    let (k, scratch) = scratch.split_at_mut(tile * d);
    let (kt, scratch) = scratch.split_at_mut(tile * d);
    let (vt, scratch) = scratch.split_at_mut(tile * d);
    let (dk, scratch) = scratch.split_at_mut(tile * d);
    let (dv, scratch) = scratch.split_at_mut(tile * d);
    let (q, scratch) = scratch.split_at_mut(QUERIES * d);
    let (dout, scratch) = scratch.split_at_mut(QUERIES * d);
    let (p, scratch) = scratch.split_at_mut(QUERIES * TILE);
    let (ds, scratch) = scratch.split_at_mut(QUERIES * TILE);
    let (lse, scratch) = scratch.split_at_mut(QUERIES);
    let (delta, _) = scratch.split_at_mut(QUERIES);

    dq.fill(T::Acc::ZERO);
    for start in (0..len).step_by(tile) {
        let keys = tile.min(len - start);
        let across = keys.next_multiple_of(8);
        for j in 0..across {
            if j < keys {
                let (row, values) = (group.k.row(start + j, d), group.v.row(start + j, d));
                widen(row, &mut k[j * d..][..d]);
                for c in 0..d {
                    kt[c * tile + j] = row[c].to_acc();
                    vt[c * tile + j] = values[c].to_acc();
                }
            } else {
                k[j * d..][..d].fill(T::Acc::ZERO);
                for c in 0..d {
                    kt[c * tile + j] = T::Acc::ZERO;
                    vt[c * tile + j] = T::Acc::ZERO;
                }
            }
        }
        dk[..across * d].fill(T::Acc::ZERO);
        dv[..across * d].fill(T::Acc::ZERO);
        for head in 0..heads {
            let dq = &mut dq[head * padded * d..][..padded * d];
            // The first query that sees a key of this tile.
            let begin = if group.sees.step == 1 { start / 8 * 8 } else { 0 };
            for first in (begin..len).step_by(QUERIES) {
                let count = QUERIES.min(len - first);
                let down = count.next_multiple_of(8);
                for i in 0..down {
                    let (q, dout) = (&mut q[i * d..][..d], &mut dout[i * d..][..d]);
                    if i < count {
                        for (to, x) in q.iter_mut().zip(group.q.skip(head * d).row(first + i, d)) {
                            *to = x.to_acc() * scale;
                        }
                        let dy = group.dout.skip(head * d).row(first + i, d);
                        widen(dy, dout);
                        let y = group.out.skip(head * d).row(first + i, d);
                        delta[i] = lane_sum([dy, y], |[dy, y]| dy.to_acc() * y.to_acc());
                        lse[i] = group.lse.skip(head).row(first + i, 1)[0];
                    } else {
                        q.fill(T::Acc::ZERO);
                        dout.fill(T::Acc::ZERO);
                        delta[i] = T::Acc::ZERO;
                        lse[i] = -T::Acc::NEG_INFINITY; // so that every weight of a filler row is 0
                    }
                }
                for i in (0..down).step_by(M) {
                    let (p, ds) = (&mut p[i * TILE..][..M * TILE], &mut ds[i * TILE..][..M * TILE]);
                    let (q, dout) = (rows::<_, M>(&q[i * d..], d, d), rows::<_, M>(&dout[i * d..], d, d));
                    let (lse, delta) = (&lse[i..][..M], &delta[i..][..M]);
                    let sees: [u32; M] = std::array::from_fn(|r| {
                        group.sees.of(first + i + r).saturating_sub(start).min(keys) as u32
                    });
                    for_blocks!(j in 0..across, W <= N, {
                        let mut s = [[T::Acc::ZERO; W]; M];
                        let left = |c: usize| std::array::from_fn(|r| q[r][c]);
                        multiply::<_, FMA, M, W>(&mut s, 0..d, left, &kt[j..], tile);
                        for r in 0..M {
                            let p = &mut p[r * TILE + j..][..W];
                            for l in 0..W {
                                let weight = (s[r][l] - lse[r]).exp();
                                p[l] = if ((j + l) as u32) < sees[r] { weight } else { T::Acc::ZERO };
                            }
                        }
                        let mut dp = [[T::Acc::ZERO; W]; M];
                        let left = |c: usize| std::array::from_fn(|r| dout[r][c]);
                        multiply::<_, FMA, M, W>(&mut dp, 0..d, left, &vt[j..], tile);
                        for r in 0..M {
                            let (p, ds) = (&p[r * TILE + j..][..W], &mut ds[r * TILE + j..][..W]);
                            for l in 0..W {
                                ds[l] = p[l] * (dp[r][l] - delta[r]);
                            }
                        }
                    });
                    let ds = rows::<_, M>(ds, TILE, keys);
                    let left = |j: usize| std::array::from_fn(|r| ds[r][j]);
                    add::<_, FMA, M, N>(&mut dq[(first + i) * d..], d, keys, left, k);
                }
                for j in (0..across).step_by(M) {
                    add::<_, FMA, M, N>(&mut dv[j * d..], d, count, columns(&p[j..], TILE), dout);
                    add::<_, FMA, M, N>(&mut dk[j * d..], d, count, columns(&ds[j..], TILE), q);
                }
            }
        }
        for j in 0..keys {
            narrow(&dk[j * d..][..d], T::Acc::ONE, group.dk.row(start + j));
            narrow(&dv[j * d..][..d], T::Acc::ONE, group.dv.row(start + j));
        }
    }
    for i in 0..len {
        let row = group.dq.row(i);
        for head in 0..heads {
            narrow(&dq[(head * padded + i) * d..][..d], scale, &mut row[head * d..][..d]);
        }
    }
}

/// `to = scale * from`, rounded.
#[inline(always)]
fn narrow<T: Real>(from: &[T::Acc], scale: T::Acc, to: &mut [T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = T::from_acc(scale * from);
    }
}

/// `c += a b` for M rows of c, which are d wide; b has rows of d too.
#[inline(always)]
fn add<A: Float, const FMA: bool, const M: usize, const N: usize>(
    c: &mut [A],
    d: usize,
    depth: usize,
    a: impl Fn(usize) -> [A; M],
    b: &[A],
) {
    for_blocks!(j in 0..d, W <= N, {
        let mut acc: [[A; W]; M] = std::array::from_fn(|i| std::array::from_fn(|l| c[i * d + j + l]));
        multiply::<A, FMA, M, W>(&mut acc, 0..depth, &a, &b[j..], d);
        for i in 0..M {
            c[i * d + j..][..W].copy_from_slice(&acc[i]);
        }
    });
}
