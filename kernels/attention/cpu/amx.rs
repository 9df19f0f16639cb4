//! Attention of bf16 in AMX's tiles, on the same units of work as the other paths.
//!
//! Scores lie keys down and queries across, forward and backward: a register holds sixteen queries, so maxima and sums
//! of a query are vertical, and what the next product takes, weights in rows or in pairs of keys, needs no transposition.
//! What depends on the width of a head is computed transposed where queries are across: `out^T = v^T p^T`, `dq^T = k^T ds^T`.
//!
//! Weights and gradients of scores are rounded to bf16 for the products, as on a GPU; sums, maxima and what they
//! correct are in f32. A tile of keys is always whole: keys that a query does not see weigh 0. So here a key that is
//! not finite spoils earlier queries too whose block of keys it is in.

use super::backward::Group;
use super::forward::{Queries, Sees};
use super::tiles::{
    Lanes, TILE, Two, WIDE, beside, copy_rows, exp, lanes, load, multiply, narrow, numbers, pair_rows,
    paired, put_lanes, rows_of_columns, store, turn_pairs, turn_rows,
};
use crate::amx::{ROWS, Tiles};
use crate::dtype::{Float, Real, bf16};
use bytemuck::cast_slice_mut;
use std::arch::x86_64::*;

/// Keys that share one maximum in forward.
const KEYS: usize = 64;

/// Cuts the first `len` elements off.
fn cut<'a, T>(rest: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (first, others) = std::mem::take(rest).split_at_mut(len);
    *rest = others;
    first
}

/// Scratch of [`forward`] in f32, for at most `queries` queries.
pub fn forward_scratch(queries: usize, d: usize) -> usize {
    let (queries, width) = (queries.next_multiple_of(ROWS), d.next_multiple_of(WIDE));
    queries * width / 2 + queries * width + KEYS * width + KEYS * ROWS + KEYS * ROWS / 2 + 2 * queries
}

/// Computes `out` and `lse` of one block of queries.
///
/// # Safety
/// The path is [`crate::simd::Path::Amx`], and no [`Tiles`] live on this thread.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn forward(block: Queries<bf16>, d: usize, scale: f32, mut scratch: &mut [f32]) {
    // SAFETY: the caller's promise.
    let tiles = &unsafe { Tiles::configure() };
    let Queries { q, k: keys_of, v: values_of, count, sees, out: mut to, lse: mut to_lse } = block;
    let (steps, width) = (d.div_ceil(WIDE), d.next_multiple_of(WIDE));
    let padded = count.next_multiple_of(ROWS);
    let qt: &mut [u32] = cast_slice_mut(cut(&mut scratch, padded * width / 2));
    let out = cut(&mut scratch, padded * width);
    let k: &mut [bf16] = cast_slice_mut(cut(&mut scratch, KEYS * width / 2));
    let vt: &mut [u32] = cast_slice_mut(cut(&mut scratch, KEYS * width / 2));
    let s = cut(&mut scratch, KEYS * ROWS);
    let p: &mut [u32] = cast_slice_mut(cut(&mut scratch, KEYS * ROWS / 2));
    let top = cut(&mut scratch, padded);
    let sum = cut(&mut scratch, padded);

    turn_rows(q, count, d, qt);
    out.fill(0.0);
    top.fill(f32::NEG_INFINITY);
    sum.fill(0.0);
    // A filler query sees what the last real one sees.
    let sees = |i: usize| sees.of(i.min(count - 1));
    for start in (0..sees(count - 1)).step_by(KEYS) {
        let keys = KEYS.min(sees(count - 1) - start);
        copy_rows(keys_of.from(start), keys, d, width, k);
        turn_pairs(values_of.from(start), keys, d, vt);
        let states = top.as_chunks_mut::<ROWS>().0.iter_mut().zip(sum.as_chunks_mut::<ROWS>().0);
        let blocks = qt.chunks_exact(ROWS * width / 2).zip(out.chunks_exact_mut(ROWS * width));
        for (t, ((qt, out), (top, sum))) in blocks.zip(states).enumerate() {
            let mut seen = [0i32; ROWS];
            for (i, n) in seen.iter_mut().enumerate() {
                *n = sees(t * ROWS + i).saturating_sub(start).min(keys) as i32;
            }
            let most = seen[ROWS - 1] as usize;
            if most > 0 {
                scores(tiles, k, qt, (steps, width), most, s);
                let shrink = soften(s, &seen, scale, top, sum, p);
                if let Some(shrink) = shrink {
                    for row in out.as_chunks_mut::<ROWS>().0 {
                        put_lanes(_mm512_mul_ps(lanes(row), lanes(&shrink)), row);
                    }
                }
                weigh(tiles, vt, p, most.div_ceil(WIDE), (steps, out));
            }
        }
    }
    for (t, out) in out.chunks_exact(ROWS * width).enumerate() {
        let first = t * ROWS;
        let mut inverse: Lanes = [0.0; ROWS];
        put_lanes(
            _mm512_div_ps(_mm512_set1_ps(1.0), lanes(sum[first..].first_chunk().expect("whole tiles"))),
            &mut inverse,
        );
        rows_of_columns(out, d, &inverse, ROWS.min(count - first), |i, column, put| {
            put(&mut to.row(first + i)[column..]);
        });
    }
    if let Some(lse) = &mut to_lse {
        for i in 0..count {
            lse.row(i)[0] = top[i] + Float::ln(sum[i]);
        }
    }
}

/// Scores [key, query] of the first `most` keys, up to a whole number of tiles, and sixteen queries.
#[inline(always)]
fn scores(tiles: &Tiles, k: &[bf16], qt: &[u32], (steps, width): (usize, usize), most: usize, s: &mut [f32]) {
    let half = ROWS * width;
    let two = most <= 2 * ROWS;
    tiles.zero::<0>();
    tiles.zero::<1>();
    tiles.zero::<2>();
    tiles.zero::<3>();
    for step in 0..steps {
        let k = &k[step * WIDE..];
        load::<6, _>(tiles, &qt[step * TILE..], ROWS);
        load::<4, _>(tiles, k, width);
        tiles.multiply::<0, 4, 6>();
        load::<5, _>(tiles, &k[half..], width);
        tiles.multiply::<1, 5, 6>();
        if !two {
            load::<4, _>(tiles, &k[2 * half..], width);
            tiles.multiply::<2, 4, 6>();
            load::<5, _>(tiles, &k[3 * half..], width);
            tiles.multiply::<3, 5, 6>();
        }
    }
    store::<0>(tiles, s, ROWS);
    store::<1>(tiles, &mut s[TILE..], ROWS);
    if !two {
        store::<2>(tiles, &mut s[2 * TILE..], ROWS);
        store::<3>(tiles, &mut s[3 * TILE..], ROWS);
    }
}

/// Makes weights of scores, in pairs of keys, and corrects the maxima and sums so far. Query i sees the first `seen[i]`
/// keys, the last one the most. Returns what to multiply earlier weights by, unless it is 1 for every query.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn soften(
    s: &mut [f32],
    seen: &[i32; ROWS],
    scale: f32,
    top: &mut Lanes,
    sum: &mut Lanes,
    p: &mut [u32],
) -> Option<Lanes> {
    let most = seen[ROWS - 1] as usize;
    let fewest = seen.iter().fold(most as i32, |a, &b| a.min(b)) as usize;
    let seen = numbers(seen);
    let sees =
        |j: usize| if j < fewest { !0 } else { _mm512_cmpgt_epi32_mask(seen, _mm512_set1_epi32(j as i32)) };
    let scale = _mm512_set1_ps(scale);
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    let rows = s.as_chunks_mut::<ROWS>().0;
    let mut tops = [lowest; 4];
    for (j, row) in rows[..most].iter().enumerate() {
        tops[j % 4] = _mm512_mask_max_ps(tops[j % 4], sees(j), tops[j % 4], lanes(row));
    }
    let highest = _mm512_max_ps(_mm512_max_ps(tops[0], tops[1]), _mm512_max_ps(tops[2], tops[3]));
    let before = lanes(top);
    let now = _mm512_max_ps(before, _mm512_mul_ps(highest, scale));
    let shrink = exp(_mm512_sub_ps(before, now));
    let mut sums = [_mm512_setzero_ps(); 4];
    for (k, to) in p.as_chunks_mut::<ROWS>().0.iter_mut().enumerate().take(most.next_multiple_of(WIDE) / 2) {
        let mut pair = [_mm512_setzero_ps(); 2];
        for (i, weight) in pair.iter_mut().enumerate() {
            let j = 2 * k + i;
            if j < most {
                *weight = _mm512_maskz_mov_ps(sees(j), exp(_mm512_fmsub_ps(lanes(&rows[j]), scale, now)));
                sums[j % 4] = _mm512_add_ps(sums[j % 4], *weight);
            }
        }
        paired(pair[0], pair[1], to);
    }
    let total = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
    put_lanes(_mm512_fmadd_ps(lanes(sum), shrink, total), sum);
    put_lanes(now, top);
    let changes = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(shrink, _mm512_set1_ps(1.0)) != 0;
    changes.then(|| {
        let mut factors = [0.0; ROWS];
        put_lanes(shrink, &mut factors);
        factors
    })
}

/// `out^T += v^T p^T` for `depth` tiles of keys and sixteen queries.
#[inline(always)]
fn weigh(tiles: &Tiles, vt: &[u32], p: &[u32], depth: usize, (steps, out): (usize, &mut [f32])) {
    // From one tile of 32 keys to the next.
    let next = 2 * steps * TILE;
    for (pair, out) in out.chunks_exact_mut(2 * TILE).enumerate() {
        load::<0, _>(tiles, out, ROWS);
        load::<1, _>(tiles, &out[TILE..], ROWS);
        for k in 0..depth {
            let vt = &vt[k * next + 2 * pair * TILE..];
            load::<6, _>(tiles, &p[k * TILE..], ROWS);
            load::<4, _>(tiles, vt, ROWS);
            tiles.multiply::<0, 4, 6>();
            load::<5, _>(tiles, &vt[TILE..], ROWS);
            tiles.multiply::<1, 5, 6>();
        }
        store::<0>(tiles, out, ROWS);
        store::<1>(tiles, &mut out[TILE..], ROWS);
    }
}

/// Scratch of [`backward`] in f32: for one head of queries its factors and dq, for keys and values their gradients.
pub fn backward_scratch(max_len: usize, d: usize) -> usize {
    let (len, width) = (max_len.next_multiple_of(WIDE), d.next_multiple_of(WIDE));
    5 * len * width + 2 * len + 3 * WIDE * width / 2 + 2 * WIDE * WIDE + 3 * WIDE * WIDE / 2
}

/// Computes dq, dk and dv of one group with `heads` heads of queries.
///
/// # Safety
/// As for [`forward`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn backward(mut group: Group<bf16>, heads: usize, d: usize, scale: f32, mut scratch: &mut [f32]) {
    // SAFETY: the caller's promise.
    let tiles = &unsafe { Tiles::configure() };
    let (steps, width) = (d.div_ceil(WIDE), d.next_multiple_of(WIDE));
    let (len, padded) = (group.len, group.len.next_multiple_of(WIDE));
    let mut factor = || -> &mut [u32] { cast_slice_mut(cut(&mut scratch, padded * width / 2)) };
    let (q, dout, q_pairs, dout_pairs) = (factor(), factor(), factor(), factor());
    let dq = cut(&mut scratch, padded * width);
    let dk = cut(&mut scratch, padded * width);
    let dv = cut(&mut scratch, padded * width);
    let lse = cut(&mut scratch, padded);
    let delta = cut(&mut scratch, padded);
    let mut factor = || cut(&mut scratch, WIDE * width / 2);
    let (k, v, kt) = (cast_slice_mut(factor()), cast_slice_mut(factor()), cast_slice_mut(factor()));
    let mut inner = Inner {
        s: cut(&mut scratch, WIDE * WIDE),
        dp: cut(&mut scratch, WIDE * WIDE),
        p: cast_slice_mut(cut(&mut scratch, WIDE * WIDE / 2)),
        ds: cast_slice_mut(cut(&mut scratch, WIDE * WIDE / 2)),
        ds_pairs: cast_slice_mut(cut(&mut scratch, WIDE * WIDE / 2)),
    };
    dk.fill(0.0);
    dv.fill(0.0);
    for head in 0..heads {
        let [of_q, of_out, of_dout] = [group.q, group.out, group.dout].map(|matrix| matrix.skip(head * d));
        turn_rows(of_q, len, d, q);
        turn_rows(of_dout, len, d, dout);
        pair_rows(of_q, len, d, q_pairs);
        pair_rows(of_dout, len, d, dout_pairs);
        dq.fill(0.0);
        lse.fill(0.0);
        delta.fill(0.0);
        for i in 0..len {
            lse[i] = group.lse.skip(head).row(i, 1)[0];
            delta[i] = dot(of_out.row(i, d), of_dout.row(i, d));
        }
        for start in (0..len).step_by(WIDE) {
            let keys = WIDE.min(len - start);
            copy_rows(group.k.from(start), keys, d, width, k);
            copy_rows(group.v.from(start), keys, d, width, v);
            turn_pairs(group.k.from(start), keys, d, kt);
            let (dk, dv) =
                (&mut dk[start * width..][..WIDE * width], &mut dv[start * width..][..WIDE * width]);
            // The first block with a query that sees a key of this tile.
            let begin = if group.sees.step == 1 { start } else { 0 };
            for first in (begin..len).step_by(WIDE) {
                let at = first / ROWS * steps * TILE;
                let queries = Two { data: &q[at..], next: steps * TILE, stride: ROWS };
                let douts = Two { data: &dout[at..], ..queries };
                let rows = |data| Two { data, next: ROWS * width, stride: width };
                let across = [ROWS * WIDE, ROWS];
                let into = |to| (to, WIDE, across, true);
                multiply(tiles, into(&mut *inner.s), steps, (rows(&*k), queries), [WIDE, TILE]);
                multiply(tiles, into(&mut *inner.dp), steps, (rows(&*v), douts), [WIDE, TILE]);
                let seen = Seen { sees: group.sees, len, first, start, keys };
                inner.weights(&seen, scale, &lse[first..][..WIDE], &delta[first..][..WIDE]);

                let left = |data| Two { data, next: TILE, stride: ROWS };
                let at = first / WIDE * 2 * steps * TILE;
                for c in 0..steps {
                    let onto = |to| (to, width, [ROWS * width, ROWS], false);
                    let right = |data| left(data).from(at + 2 * c * TILE);
                    multiply(
                        tiles,
                        onto(&mut dv[c * WIDE..]),
                        1,
                        (left(&*inner.p), right(&*dout_pairs)),
                        [0; 2],
                    );
                    multiply(
                        tiles,
                        onto(&mut dk[c * WIDE..]),
                        1,
                        (left(&*inner.ds), right(&*q_pairs)),
                        [0; 2],
                    );
                    let dq = &mut dq[first * width + 2 * c * TILE..];
                    let onto = (dq, ROWS, [TILE, ROWS * width], false);
                    multiply(tiles, onto, 1, (left(&kt[2 * c * TILE..]), left(&*inner.ds_pairs)), [0; 2]);
                }
            }
        }
        for (t, dq) in dq.chunks_exact(ROWS * width).enumerate().take(len.div_ceil(ROWS)) {
            let first = t * ROWS;
            rows_of_columns(dq, d, &[scale; ROWS], ROWS.min(len - first), |i, column, put| {
                put(&mut group.dq.row(first + i)[head * d..][..d][column..]);
            });
        }
    }
    for i in 0..len {
        for (to, from, scale) in [(group.dk.row(i), &*dk, scale), (group.dv.row(i), &*dv, 1.0)] {
            let from = &from[i * width..][..width];
            for (to, from) in to.chunks_mut(ROWS).zip(from.as_chunks().0) {
                narrow(_mm512_mul_ps(lanes(from), _mm512_set1_ps(scale)), to);
            }
        }
    }
}

/// The product of two rows, in sixteen chains that are then folded.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn dot(a: &[bf16], b: &[bf16]) -> f32 {
    let mut sums = [0.0f32; ROWS];
    for (a, b) in a.chunks(ROWS).zip(b.chunks(ROWS)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a.to_acc() * b.to_acc();
        }
    }
    sums.iter().sum()
}

/// Which of 32 keys each of 32 queries sees.
struct Seen {
    sees: Sees,
    len: usize,
    first: usize,
    start: usize,
    keys: usize,
}

impl Seen {
    /// How many, of sixteen queries; filler sees none.
    fn of(&self, half: usize) -> [i32; ROWS] {
        std::array::from_fn(|i| {
            let i = self.first + half * ROWS + i;
            if i < self.len { self.sees.of(i).saturating_sub(self.start).min(self.keys) as i32 } else { 0 }
        })
    }
}

/// A block of 32 keys down and 32 queries across.
struct Inner<'a> {
    /// Scores, [WIDE, WIDE].
    s: &'a mut [f32],
    /// Gradients of weights, [WIDE, WIDE].
    dp: &'a mut [f32],
    /// Weights: a left factor.
    p: &'a mut [u32],
    /// Gradients of scores: a left factor.
    ds: &'a mut [u32],
    /// Gradients of scores: a right factor, pairs of keys.
    ds_pairs: &'a mut [u32],
}

impl Inner<'_> {
    /// Makes `p` and `ds` of `s` and `dp`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn weights(&mut self, seen: &Seen, scale: f32, lse: &[f32], delta: &[f32]) {
        let scale = _mm512_set1_ps(scale);
        let halves = |from: &[f32]| [0, 1].map(|half| lanes(&from.as_chunks().0[half]));
        let (lse, delta) = (halves(lse), halves(delta));
        let counts = [0, 1].map(|half| numbers(&seen.of(half)));
        let rows = self.s.as_chunks::<{ 2 * WIDE }>().0.iter().zip(self.dp.as_chunks::<{ 2 * WIDE }>().0);
        let lefts = self.p.as_chunks_mut::<WIDE>().0.iter_mut().zip(self.ds.as_chunks_mut::<WIDE>().0);
        let (low, high) = self.ds_pairs.split_at_mut(TILE);
        let pairs = low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0);
        for (j, (((s, dp), (p_to, ds_to)), (low, high))) in rows.zip(lefts).zip(pairs).enumerate() {
            let mut p = [[_mm512_setzero_ps(); 2]; 2];
            let mut ds = p;
            for i in 0..2 {
                for half in 0..2 {
                    let at = i * WIDE + half * ROWS;
                    let key = _mm512_set1_epi32((2 * j + i) as i32);
                    let sees = _mm512_cmpgt_epi32_mask(counts[half], key);
                    let [s, dp] = [s, dp].map(|from| lanes(from[at..].first_chunk().expect("sixteen of 64")));
                    let weight = exp(_mm512_fmsub_ps(s, scale, lse[half]));
                    p[i][half] = _mm512_maskz_mov_ps(sees, weight);
                    ds[i][half] = _mm512_mul_ps(p[i][half], _mm512_sub_ps(dp, delta[half]));
                }
            }
            for (i, to) in p_to.as_chunks_mut().0.iter_mut().enumerate() {
                beside(p[i][0], p[i][1], to);
            }
            for (i, to) in ds_to.as_chunks_mut().0.iter_mut().enumerate() {
                beside(ds[i][0], ds[i][1], to);
            }
            paired(ds[0][0], ds[1][0], low);
            paired(ds[0][1], ds[1][1], high);
        }
    }
}
