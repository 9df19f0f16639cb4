//! Sums on the CPU.

use crate::dtype::{Float, Real};
use crate::simd::vectorize;
use rayon::prelude::*;

/// Elements per task: enough work to pay for handing it out.
const CHUNK: usize = 16 * 1024;

/// `a[i] += b[i mod |b|]`.
pub fn forward<T: Real>(a: &mut [T], b: &[T]) {
    if a.len() == b.len() {
        return accumulate::<T, T>(a, b);
    }
    a.par_chunks_mut(b.len()).for_each(|a| add_row(a, b));
}

/// `sum[i] += b[i]`, for sums of the same or a wider type.
pub fn accumulate<S: Real, T: Real>(sum: &mut [S], b: &[T]) {
    sum.par_chunks_mut(CHUNK).zip(b.par_chunks(CHUNK)).for_each(|(sum, b)| add_row(sum, b));
}

fn add_row<S: Real, T: Real>(sum: &mut [S], b: &[T]) {
    vectorize(
        #[inline(always)]
        || {
            for (s, b) in sum.iter_mut().zip(b) {
                // T::Acc and S::Acc are the same type whenever S is T or T::Acc; going through f64 is exact.
                *s = S::from_acc(s.to_acc() + <S::Acc as Float>::of(b.to_acc().f64()));
            }
        },
    )
}

/// `db[i] = sum over repetitions of dy`, in order.
pub fn backward<T: Real>(dy: &[T], db: &mut [T::Acc]) {
    let width = db.len();
    let chunk = 256.min(width.max(1));
    db.par_chunks_mut(chunk).enumerate().for_each(|(c, db)| {
        vectorize(
            #[inline(always)]
            || {
                db.fill(T::Acc::ZERO);
                for row in dy.chunks_exact(width) {
                    for (d, v) in db.iter_mut().zip(&row[c * chunk..]) {
                        *d += v.to_acc();
                    }
                }
            },
        )
    });
}
