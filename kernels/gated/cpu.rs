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
                    for ((gate, up), dy) in gate.iter_mut().zip(up).zip(dy) {
                        let (value, slope) = C::at(gate.to_acc());
                        let dy = dy.to_acc();
                        *gate = T::from_acc(dy * up.to_acc() * slope);
                        *up = T::from_acc(dy * value);
                    }
                }
            },
        )
    });
}
