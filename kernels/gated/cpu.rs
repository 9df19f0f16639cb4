//! Gated activation on the CPU.

use crate::activation::curve::Curve;
use crate::dtype::Real;
use crate::reduce::rows_per_task;
use crate::simd::vectorize;
use rayon::prelude::*;

/// `y = f(gate) * up` for packed rows `x = [gate | up]`, each `width` wide.
pub fn forward<T: Real, C: Curve>(width: usize, x: &[T], y: &mut [T]) {
    let rows = rows_per_task(2 * width);
    let tasks = x.par_chunks(2 * width.max(1) * rows).zip(y.par_chunks_mut(width.max(1) * rows));
    tasks.for_each(|(x, y)| {
        vectorize(
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
                    let (gate, up) = x.split_at(width);
                    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                        *y = T::from_acc(C::at(gate.to_acc()).0 * up.to_acc());
                    }
                }
            },
        )
    });
}

/// `[gate | up] = [dy * up * f'(gate) | dy * f(gate)]`.
pub fn backward<T: Real, C: Curve>(width: usize, x: &mut [T], dy: &[T]) {
    let rows = rows_per_task(2 * width);
    let tasks = x.par_chunks_mut(2 * width.max(1) * rows).zip(dy.par_chunks(width.max(1) * rows));
    tasks.for_each(|(x, dy)| {
        vectorize(
            #[inline(always)]
            || {
                for (x, dy) in x.chunks_exact_mut(2 * width).zip(dy.chunks_exact(width)) {
                    let (gate, up) = x.split_at_mut(width);
                    let ((gates, gate), (ups, up)) =
                        (gate.as_chunks_mut::<BLOCK>(), up.as_chunks_mut::<BLOCK>());
                    let (dys, dy) = dy.as_chunks::<BLOCK>();
                    for ((gate, up), dy) in gates.iter_mut().zip(ups).zip(dys) {
                        backward_block::<T, C, BLOCK>(gate, up, dy);
                    }
                    let rest = gate.as_chunks_mut().0.iter_mut().zip(up.as_chunks_mut().0);
                    for ((gate, up), dy) in rest.zip(dy.as_chunks().0) {
                        backward_block::<T, C, 1>(gate, up, dy);
                    }
                }
            },
        )
    });
}

/// Elements that are computed before any is written: the compiler cannot know that gate and up, two parts of one
/// row, do not overlap, and vectorises only what it writes to arrays of its own.
const BLOCK: usize = 32;

#[inline(always)]
fn backward_block<T: Real, C: Curve, const N: usize>(gate: &mut [T; N], up: &mut [T; N], dy: &[T; N]) {
    let (mut dgate, mut dup) = (*gate, *up);
    for i in 0..N {
        let (value, slope) = C::at(gate[i].to_acc());
        let dy = dy[i].to_acc();
        dgate[i] = T::from_acc(dy * up[i].to_acc() * slope);
        dup[i] = T::from_acc(dy * value);
    }
    (*gate, *up) = (dgate, dup);
}
