//! Column sums on the CPU.

use crate::dtype::Real;
use crate::reduce::{elements_per_task, sum_rows};
use crate::simd::vectorize;
use rayon::prelude::*;

/// `y = sum of x's rows`.
pub fn forward<T: Real>(x: &[T], partial: &mut [T::Acc], y: &mut [T::Acc]) {
    let width = y.len();
    sum_rows(
        x.len() / width.max(1),
        partial,
        y,
        #[inline(always)]
        |r, c, y| {
            for (y, x) in y.iter_mut().zip(&x[r * width + c..]) {
                *y += x.to_acc();
            }
        },
    );
}

/// `dx[i] = dy` for every row i.
pub fn broadcast<T: Real>(dy: &[T::Acc], dx: &mut [T]) {
    let width = dy.len().max(1);
    dx.par_chunks_mut(elements_per_task(width)).for_each(|dx| {
        vectorize(
            #[inline(always)]
            || {
                for dx in dx.chunks_exact_mut(width) {
                    for (d, g) in dx.iter_mut().zip(dy) {
                        *d = T::from_acc(*g);
                    }
                }
            },
        )
    });
}
