//! Products with a constant on the CPU.

use crate::dtype::{Float, Real};
use crate::reduce::GRAIN;
use crate::simd::vectorize;
use rayon::prelude::*;

/// `x *= factor`.
pub fn scale<T: Real>(x: &mut [T], factor: f64) {
    let factor = T::Acc::of(factor);
    x.par_chunks_mut(GRAIN).for_each(|x| {
        vectorize(
            #[inline(always)]
            || {
                for x in x {
                    *x = T::from_acc(x.to_acc() * factor);
                }
            },
        )
    });
}
