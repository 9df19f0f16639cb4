//! Backward of one key-and-value head of one sequence, FlashAttention-2's algorithm 2: tiles of keys outside,
//! blocks of queries inside, scores computed again from q, k and lse.
//!
//! Keys and values are transposed once per tile; here the scores lie queries down and keys across, since lse is
//! known and nothing has to be reduced.

use super::block::{Lanes, Left, PAD, Rows, Transposed, for_blocks, load, multiply, store, transpose, zeros};
use super::columns::{Columns, ColumnsMut};
use super::forward::{Sees, widen};
use super::{Kernel, TILE};
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

impl<'a, T: Real> Group<'a, T> {
    /// The same under another name of the type.
    pub fn cast<U: Real>(self) -> Group<'a, U> {
        let Group { len, sees, q, k, v, out, dout, lse, dq, dk, dv } = self;
        Group {
            len,
            sees,
            q: q.cast(),
            k: k.cast(),
            v: v.cast(),
            out: out.cast(),
            dout: dout.cast(),
            lse: lse.cast(),
            dq: dq.cast(),
            dk: dk.cast(),
            dv: dv.cast(),
        }
    }
}

/// Scratch in elements: tiles, and for one group dq, which every tile of keys adds to, and delta.
pub fn scratch(heads: usize, max_len: usize, tile: usize, d: usize) -> usize {
    let (len, width) = (max_len.next_multiple_of(PAD), d.next_multiple_of(PAD));
    heads * len * (width + 1)
        + (3 * width + 2 * d) * tile.next_multiple_of(PAD)
        + 2 * QUERIES * width
        + 2 * QUERIES * TILE
        + QUERIES
}

/// One group with all it takes. `tile` is how many keys make a tile, a multiple of 8.
pub struct Task<'a, T: Real> {
    /// The group.
    pub group: Group<'a, T>,
    /// Heads of queries in it.
    pub heads: usize,
    /// Width of a head.
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
        backward::<T, L, M, TWO>(self)
    }
}

/// Computes dq, dk and dv of one group.
#[inline(always)]
fn backward<T: Real, L: Lanes<Elem = T::Acc>, const M: usize, const TWO: bool>(task: Task<T>) {
    let Task { mut group, heads, d, scale, tile, scratch } = task;
    let len = group.len;
    let padded = len.next_multiple_of(PAD);
    let width = d.next_multiple_of(PAD);
    let across = tile.next_multiple_of(PAD);
    let (dq, scratch) = scratch.split_at_mut(heads * padded * width);
    let (k, scratch) = scratch.split_at_mut(across * width);
    let (dk, scratch) = scratch.split_at_mut(across * width);
    let (dv, scratch) = scratch.split_at_mut(across * width);
    let (kt, scratch) = scratch.split_at_mut(d * across);
    let (vt, scratch) = scratch.split_at_mut(d * across);
    let (q, scratch) = scratch.split_at_mut(QUERIES * width);
    let (dout, scratch) = scratch.split_at_mut(QUERIES * width);
    let (p, scratch) = scratch.split_at_mut(QUERIES * TILE);
    let (ds, scratch) = scratch.split_at_mut(QUERIES * TILE);
    let (lse, scratch) = scratch.split_at_mut(QUERIES);
    let (delta, _) = scratch.split_at_mut(heads * padded);
    let mut block = Scores { q, dout, lse, kt, vt, p, ds, d, width, across };

    dq.fill(T::Acc::ZERO);
    delta.fill(T::Acc::ZERO);
    for i in 0..len {
        for head in 0..heads {
            let (out, dout) = (group.out.skip(head * d).row(i, d), group.dout.skip(head * d).row(i, d));
            delta[head * padded + i] = lane_sum([dout, out], |[dout, out]| dout.to_acc() * out.to_acc());
        }
    }
    for start in (0..len).step_by(tile) {
        let keys = tile.min(len - start);
        fill(k, group.k.from(start), keys, d, width);
        fill(dv, group.v.from(start), keys, d, width);
        transpose::<L>(k, (across, width), block.kt, (d, across));
        transpose::<L>(dv, (across, width), block.vt, (d, across));
        dk.fill(T::Acc::ZERO);
        dv.fill(T::Acc::ZERO);
        for head in 0..heads {
            let dq = &mut dq[head * padded * width..][..padded * width];
            let delta = &delta[head * padded..][..padded];
            // The first query that sees a key of this tile.
            let begin = if group.sees.step == 1 { start / PAD * PAD } else { 0 };
            for first in (begin..len).step_by(QUERIES) {
                let count = QUERIES.min(len - first);
                block.take_queries(&group, head, first, count, T::Acc::of(scale));
                for i in (0..count).step_by(M) {
                    let mut seen = [0; M];
                    for (r, n) in seen.iter_mut().enumerate() {
                        *n = group.sees.of(first + i + r).saturating_sub(start).min(keys) as u32;
                    }
                    block.compute::<L, M, TWO>(i, keys, &seen, &delta[first + i..]);
                    let ds = Rows::<_, M>::new(&block.ds[i * TILE..], TILE, keys);
                    add::<L, M, TWO>(&mut dq[(first + i) * width..], width, keys, &ds, k);
                }
                for j in (0..keys).step_by(M) {
                    let (p, ds) = (&block.p[j..], &block.ds[j..]);
                    let p = Transposed::<_, M> { a: p, stride: TILE };
                    let ds = Transposed::<_, M> { a: ds, stride: TILE };
                    add::<L, M, TWO>(&mut dv[j * width..], width, count, &p, block.dout);
                    add::<L, M, TWO>(&mut dk[j * width..], width, count, &ds, block.q);
                }
            }
        }
        for j in 0..keys {
            narrow(&dk[j * width..][..d], T::Acc::ONE, group.dk.row(start + j));
            narrow(&dv[j * width..][..d], T::Acc::ONE, group.dv.row(start + j));
        }
    }
    for i in 0..len {
        let row = group.dq.row(i);
        for head in 0..heads {
            let dq = &dq[(head * padded + i) * width..][..d];
            narrow(dq, T::Acc::of(scale), &mut row[head * d..][..d]);
        }
    }
}

/// One block of queries against one tile of keys.
struct Scores<'a, A> {
    /// Scaled queries, [QUERIES, width].
    q: &'a mut [A],
    /// Gradients of their results, [QUERIES, width].
    dout: &'a mut [A],
    /// [QUERIES], infinity for filler.
    lse: &'a mut [A],
    /// Transposed keys, [d, across].
    kt: &'a mut [A],
    /// Transposed values, [d, across].
    vt: &'a mut [A],
    /// Weights, [QUERIES, TILE].
    p: &'a mut [A],
    /// Gradients of the scores, [QUERIES, TILE].
    ds: &'a mut [A],
    d: usize,
    width: usize,
    across: usize,
}

impl<A: Float> Scores<'_, A> {
    /// Takes a block of queries of one head, filled up to a multiple of [`PAD`] with such as weigh nothing.
    #[inline(always)]
    fn take_queries<T: Real<Acc = A>>(
        &mut self,
        group: &Group<T>,
        head: usize,
        first: usize,
        count: usize,
        scale: A,
    ) {
        let (d, width) = (self.d, self.width);
        for i in 0..count.next_multiple_of(PAD) {
            let (q, dout) = (&mut self.q[i * width..][..width], &mut self.dout[i * width..][..width]);
            if i < count {
                widen(group.q.skip(head * d).row(first + i, d), q);
                for x in &mut q[..d] {
                    *x *= scale;
                }
                widen(group.dout.skip(head * d).row(first + i, d), dout);
                self.lse[i] = group.lse.skip(head).row(first + i, 1)[0];
            } else {
                q.fill(A::ZERO);
                dout.fill(A::ZERO);
                self.lse[i] = -A::NEG_INFINITY;
            }
        }
    }

    /// `p` and `ds` of the M queries from i on, of which query r sees the first `seen[r]` keys and `delta[r]` is its
    /// D = <dout, out>.
    #[inline(always)]
    fn compute<L: Lanes<Elem = A>, const M: usize, const TWO: bool>(
        &mut self,
        i: usize,
        keys: usize,
        seen: &[u32; M],
        delta: &[A],
    ) {
        let (d, width) = (self.d, self.width);
        let (p, ds) = (&mut self.p[i * TILE..][..M * TILE], &mut self.ds[i * TILE..][..M * TILE]);
        let q = Rows::<_, M>::new(&self.q[i * width..], width, d);
        let dout = Rows::<_, M>::new(&self.dout[i * width..], width, d);
        let filled = keys.next_multiple_of(PAD);
        for_blocks!(j in 0..filled, C of L if TWO, {
            let s = multiply::<L, M, C>(zeros::<L, M, C>(), d, &q, &self.kt[j..], self.across);
            store(&s, &mut p[j..], TILE);
            let dp = multiply::<L, M, C>(zeros::<L, M, C>(), d, &dout, &self.vt[j..], self.across);
            store(&dp, &mut ds[j..], TILE);
        });
        for r in 0..M {
            let (p, ds) = (&mut p[r * TILE..][..filled], &mut ds[r * TILE..][..filled]);
            let (lse, delta) = (self.lse[i + r], delta[r]);
            for p in p.iter_mut() {
                *p = (*p - lse).exp();
            }
            p[seen[r] as usize..].fill(A::ZERO);
            for (ds, &p) in ds.iter_mut().zip(p.iter()) {
                *ds = p * (*ds - delta);
            }
        }
    }
}

/// The first `count` rows, `width` apart, and zeros below them.
#[inline(always)]
fn fill<T: Real>(to: &mut [T::Acc], from: Columns<T>, count: usize, d: usize, width: usize) {
    for (i, row) in to.chunks_exact_mut(width).enumerate() {
        if i < count { widen(from.row(i, d), row) } else { row.fill(T::Acc::ZERO) }
    }
}

/// `to = scale * from`, rounded.
#[inline(always)]
fn narrow<T: Real>(from: &[T::Acc], scale: T::Acc, to: &mut [T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = T::from_acc(scale * from);
    }
}

/// `c += a b` for M rows of c; rows of b and c are `width` apart.
#[inline(always)]
fn add<L: Lanes, const M: usize, const TWO: bool>(
    c: &mut [L::Elem],
    width: usize,
    depth: usize,
    a: &impl Left<L::Elem>,
    b: &[L::Elem],
) {
    for_blocks!(j in 0..width, C of L if TWO, {
        let block = load::<L, M, C>(&c[j..], width);
        store(&multiply::<L, M, C>(block, depth, a, &b[j..], width), &mut c[j..], width);
    });
}
