//! Conversion on the CPU.

use crate::dtype::{Float, Real};
use crate::reduce::GRAIN;
use crate::simd::vectorize;
use rayon::prelude::*;

/// `y[i] = x[i]`, rounded once.
pub fn forward<A: Real, B: Real>(x: &[A], y: &mut [B]) {
    y.par_chunks_mut(GRAIN).zip(x.par_chunks(GRAIN)).for_each(|(y, x)| {
        vectorize(
            #[inline(always)]
            || {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = B::from_acc(<B::Acc as Float>::of(x.to_acc().f64()));
                }
            },
        )
    });
}
