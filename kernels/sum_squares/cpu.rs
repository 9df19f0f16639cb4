//! Sum of squares on the CPU.

use crate::dtype::Real;
use crate::reduce::{GRAIN, lane_sum};
use crate::simd::vectorize;
use rayon::prelude::*;

/// `y[0] = sum of x^2` over all tensors, by way of `partial`, one element per `GRAIN` of each.
pub fn forward<T: Real>(tensors: &[&[T]], partial: &mut [f64], y: &mut [T::Acc]) {
    let blocks: Vec<&[T]> = tensors.iter().flat_map(|x| x.chunks(GRAIN)).collect();
    partial.par_iter_mut().zip(blocks).for_each(|(sum, x)| {
        *sum = vectorize(
            #[inline(always)]
            || lane_sum([x], |[x]| x.to_f64() * x.to_f64()),
        )
    });
    y[0] = T::Acc::from_f64(partial.iter().sum());
}
