//! Rotary embedding on the CPU.

use super::Rope;
use crate::dtype::{Float, Real};
use crate::reduce::{elements_per_task, rows_per_task};
use crate::simd::vectorize;
use rayon::prelude::*;

/// Pairs that are computed before any is written: the compiler cannot know that the halves of a head, two parts of one
/// row, do not overlap, and vectorises only what it writes to arrays of its own.
const BLOCK: usize = 16;

/// Rotates every q and k head of the rows of `x` in place: by the angles of `table`, or by minus these if `back`.
pub fn rotate<T: Real>(rope: &Rope, x: &mut [T], table: &[T::Acc], back: bool) {
    let (width, half) = (rope.width(), rope.rotary_dim / 2);
    let sign = if back { -T::Acc::ONE } else { T::Acc::ONE };
    let tasks = x.par_chunks_mut(elements_per_task(width));
    let tasks = tasks.zip(table.par_chunks(rows_per_task(width) * rope.rotary_dim));
    tasks.for_each(|(x, table)| {
        vectorize(
            #[inline(always)]
            || {
                for (x, angles) in x.chunks_exact_mut(width).zip(table.chunks_exact(rope.rotary_dim)) {
                    let (cos, sin) = angles.split_at(half);
                    for head in x.chunks_exact_mut(rope.head_dim).take(rope.heads + rope.kv_heads) {
                        let (low, high) = head[..rope.rotary_dim].split_at_mut(half);
                        let (lows, low) = low.as_chunks_mut::<BLOCK>();
                        let (highs, high) = high.as_chunks_mut::<BLOCK>();
                        let ((coss, cos), (sins, sin)) = (cos.as_chunks(), sin.as_chunks());
                        for (((low, high), cos), sin) in lows.iter_mut().zip(highs).zip(coss).zip(sins) {
                            pairs::<T, BLOCK>(low, high, cos, sin, sign);
                        }
                        let rest = low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0);
                        for (((low, high), cos), sin) in rest.zip(cos.as_chunks().0).zip(sin.as_chunks().0) {
                            pairs::<T, 1>(low, high, cos, sin, sign);
                        }
                    }
                }
            },
        )
    });
}

/// Rotates N pairs (low, high).
#[inline(always)]
fn pairs<T: Real, const N: usize>(
    low: &mut [T; N],
    high: &mut [T; N],
    cos: &[T::Acc; N],
    sin: &[T::Acc; N],
    sign: T::Acc,
) {
    let (mut a, mut b) = (*low, *high);
    for i in 0..N {
        let (x, y, sin) = (low[i].to_acc(), high[i].to_acc(), sign * sin[i]);
        a[i] = T::from_acc(x * cos[i] - y * sin);
        b[i] = T::from_acc(y * cos[i] + x * sin);
    }
    (*low, *high) = (a, b);
}
