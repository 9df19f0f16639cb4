//! Sums on the CPU.

use crate::dtype::{Float, Real};
use crate::reduce::{GRAIN, elements_per_task};
use crate::simd::vectorize;
use rayon::prelude::*;

/// `a[i] += b[i mod |b|]`.
pub fn forward<T: Real>(a: &mut [T], b: &[T]) {
    if a.len() == b.len() {
        return accumulate::<T, T>(a, b);
    }
    a.par_chunks_mut(elements_per_task(b.len())).for_each(|a| {
        vectorize(
            #[inline(always)]
            || a.chunks_exact_mut(b.len()).for_each(|a| add_row(a, b)),
        )
    });
}

/// `sum[i] += b[i]`, for sums of the same or a wider type.
pub fn accumulate<S: Real, T: Real>(sum: &mut [S], b: &[T]) {
    sum.par_chunks_mut(GRAIN).zip(b.par_chunks(GRAIN)).for_each(|(sum, b)| {
        vectorize(
            #[inline(always)]
            || add_row(sum, b),
        )
    });
}

#[inline(always)]
fn add_row<S: Real, T: Real>(sum: &mut [S], b: &[T]) {
    for (s, b) in sum.iter_mut().zip(b) {
        // T::Acc and S::Acc are the same type whenever S is T or T::Acc; going through f64 is exact.
        *s = S::from_acc(s.to_acc() + <S::Acc as Float>::of(b.to_acc().f64()));
    }
}
