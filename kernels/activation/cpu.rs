//! Activation functions on the CPU.

use super::curve::Curve;
use crate::dtype::Real;
use crate::reduce::GRAIN;
use crate::simd::vectorize;
use rayon::prelude::*;

/// `y = f(x)`.
pub fn forward<T: Real, C: Curve>(x: &[T], y: &mut [T]) {
    x.par_chunks(GRAIN).zip(y.par_chunks_mut(GRAIN)).for_each(|(x, y)| {
        vectorize(
            #[inline(always)]
            || {
                for (x, y) in x.iter().zip(y) {
                    *y = T::from_acc(C::at(x.to_acc()).0);
                }
            },
        )
    });
}

/// `d = d * f'(x)`.
pub fn backward<T: Real, C: Curve>(x: &[T], d: &mut [T]) {
    x.par_chunks(GRAIN).zip(d.par_chunks_mut(GRAIN)).for_each(|(x, d)| {
        vectorize(
            #[inline(always)]
            || {
                for (x, d) in x.iter().zip(d) {
                    *d = T::from_acc(d.to_acc() * C::at(x.to_acc()).1);
                }
            },
        )
    });
}
