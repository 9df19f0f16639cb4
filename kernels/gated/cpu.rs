//! Gated activation on the CPU.

use crate::activation::curve::Curve;
use crate::dtype::{Float, Real};
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
                    let blocks = gate.chunks_mut(BLOCK).zip(up.chunks_mut(BLOCK)).zip(dy.chunks(BLOCK));
                    for ((gate, up), dy) in blocks {
                        backward_block::<T, C>(gate, up, dy);
                    }
                }
            },
        )
    });
}

/// Elements that are computed before any is written: the compiler cannot know that gate and up, two parts of one
/// row, do not overlap, and vectorises only what it writes to an array of its own.
const BLOCK: usize = 64;

#[inline(always)]
fn backward_block<T: Real, C: Curve>(gate: &mut [T], up: &mut [T], dy: &[T]) {
    let n = dy.len();
    let (mut g, mut u, mut d) = ([T::Acc::ZERO; BLOCK], [T::Acc::ZERO; BLOCK], [T::Acc::ZERO; BLOCK]);
    for i in 0..n {
        (g[i], u[i], d[i]) = (gate[i].to_acc(), up[i].to_acc(), dy[i].to_acc());
    }
    for ((g, u), d) in g.iter_mut().zip(&mut u).zip(&d) {
        let (value, slope) = C::at(*g);
        (*g, *u) = (*d * *u * slope, *d * value);
    }
    for i in 0..n {
        (gate[i], up[i]) = (T::from_acc(g[i]), T::from_acc(u[i]));
    }
}
