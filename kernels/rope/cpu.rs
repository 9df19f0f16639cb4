//! Rotary embedding on the CPU.

use super::Rope;
use crate::dtype::Real;
use crate::reduce::{elements_per_task, rows_per_task};
use crate::simd::vectorize;
use rayon::prelude::*;

/// Rotates every q and k head of the rows of `x` in place: by the angles of `table`, or by minus these if `back`.
pub fn rotate<T: Real>(rope: &Rope, x: &mut [T], table: &[T::Acc], back: bool) {
    let (width, half) = (rope.width(), rope.rotary_dim / 2);
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
                        for (((low, high), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                            let (a, b) = (low.to_acc(), high.to_acc());
                            let sin = if back { -sin } else { sin };
                            *low = T::from_acc(a * cos - b * sin);
                            *high = T::from_acc(b * cos + a * sin);
                        }
                    }
                }
            },
        )
    });
}
