//! Conversion on the CPU.

use crate::dtype::{Float, Real};
use crate::simd::vectorize;
use rayon::prelude::*;

const CHUNK: usize = 16 * 1024;

/// `y[i] = x[i]`, rounded once.
pub fn forward<A: Real, B: Real>(x: &[A], y: &mut [B]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
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
