//! Column sums on the CPU.

use crate::dtype::{Float, Real};
use crate::reduce::{GRAIN, rows_per_task};
use crate::simd::vectorize;
use rayon::prelude::*;

/// Rows whose sum is one partial result. Fixed, since it decides the order of the additions.
pub const BLOCK: usize = 256;

/// Columns summed together: their sums stay in the first-level cache.
const COLUMNS: usize = 256;

/// `y = sum of x's rows`, by way of `partial`, one row per block of rows.
pub fn forward<T: Real>(x: &[T], partial: &mut [T::Acc], y: &mut [T::Acc]) {
    let width = y.len();
    if width == 0 {
        return;
    }
    partial.par_chunks_mut(width).zip(x.par_chunks(BLOCK * width)).for_each(|(sums, x)| add_rows(x, sums));
    add_rows(partial, y);
}

/// `sums = sum of x's rows`, in order.
fn add_rows<T: Real>(x: &[T], sums: &mut [T::Acc]) {
    let width = sums.len();
    let work = COLUMNS * (x.len() / width).max(1);
    sums.par_chunks_mut(COLUMNS).with_min_len(GRAIN.div_ceil(work)).enumerate().for_each(|(c, sums)| {
        vectorize(
            #[inline(always)]
            || {
                sums.fill(T::Acc::ZERO);
                for row in x.chunks_exact(width) {
                    for (sum, v) in sums.iter_mut().zip(&row[c * COLUMNS..]) {
                        *sum += v.to_acc();
                    }
                }
            },
        )
    });
}

/// `dx[i] = dy` for every row i.
pub fn broadcast<T: Real>(dy: &[T::Acc], dx: &mut [T]) {
    let width = dy.len().max(1);
    dx.par_chunks_mut(width).with_min_len(rows_per_task(width)).for_each(|dx| {
        for (d, g) in dx.iter_mut().zip(dy) {
            *d = T::from_acc(*g);
        }
    });
}
