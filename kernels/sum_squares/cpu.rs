//! Sum of squares on the CPU.

use crate::dtype::Real;
use crate::reduce::{GRAIN, lane_sum};
use crate::simd::vectorize;
use rayon::prelude::*;

/// `y[0] = sum of x^2`, by way of `partial`, one element per `GRAIN` of x.
pub fn forward<T: Real>(x: &[T], partial: &mut [f64], y: &mut [T::Acc]) {
    partial.par_iter_mut().zip(x.par_chunks(GRAIN)).for_each(|(sum, x)| {
        *sum = vectorize(
            #[inline(always)]
            || lane_sum([x], |[x]| x.to_f64() * x.to_f64()),
        )
    });
    y[0] = T::Acc::from_f64(partial.iter().sum());
}
