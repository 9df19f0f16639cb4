//! The largest of each row on the CPU.

use crate::dtype::{Float, Real};
use crate::simd::vectorize;
use rayon::prelude::*;
use std::cmp::Ordering;

/// Values that are compared with the last of the best at a time, before any is looked at alone.
const CHUNK: usize = 128;

/// Which of two values comes first: the larger; NaN behind all others; +0 and -0 are equal.
pub fn order<F: PartialOrd>(a: F, b: F) -> Ordering {
    let number = |v: &F| v.partial_cmp(v).is_some();
    b.partial_cmp(&a).unwrap_or_else(|| number(&b).cmp(&number(&a)))
}

/// Writes, per row of `width` values, the `k` first of the first `columns` and where they are.
pub fn forward<T: Real>(x: &[T], [width, columns, k]: [usize; 3], values: &mut [T::Acc], ids: &mut [u32]) {
    let rows = x.par_chunks(width).zip(values.par_chunks_mut(k)).zip(ids.par_chunks_mut(k));
    rows.for_each(|((x, values), ids)| {
        let mut best: Vec<(T::Acc, u32)> = Vec::with_capacity(k + 1);
        for (chunk, x) in x[..columns].chunks(CHUNK).enumerate() {
            if best.len() == k && !any_above(x, best[k - 1].0) {
                continue;
            }
            for (i, value) in x.iter().enumerate() {
                // What is equal to others comes behind them: columns rise. Adding 0 makes 0 of -0.
                let value = value.to_acc() + T::Acc::ZERO;
                let place = best.partition_point(|(other, _)| order(*other, value).is_le());
                if place < k {
                    best.truncate(k - 1);
                    best.insert(place, (value, (chunk * CHUNK + i) as u32));
                }
            }
        }
        for (i, (value, id)) in best.into_iter().enumerate() {
            (values[i], ids[i]) = (value, id);
        }
    });
}

/// Whether one of these may come before a value of `least`. If that or one of them is NaN, each has to be looked at.
fn any_above<T: Real>(x: &[T], least: T::Acc) -> bool {
    vectorize(
        #[inline(always)]
        || x.iter().fold(false, |any, v| any | !v.to_acc().le(&least)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(x: &[f32], k: usize) -> (Vec<f32>, Vec<u32>) {
        let (mut values, mut ids) = (vec![0.0; k], vec![0; k]);
        forward(x, [x.len(), x.len(), k], &mut values, &mut ids);
        (values, ids)
    }

    #[test]
    fn equal_values_come_by_their_columns_and_nan_last() {
        let x = [f32::NAN, -0.0, 0.0, f32::NEG_INFINITY, 3.0, f32::INFINITY, 3.0, f32::NAN];
        let (values, ids) = best(&x, 8);
        assert_eq!(ids, [5, 4, 6, 1, 2, 3, 0, 7]);
        assert_eq!(values[..6], [f32::INFINITY, 3.0, 3.0, 0.0, 0.0, f32::NEG_INFINITY]);
        assert!(values[3].is_sign_positive() && values[6..].iter().all(|v| v.is_nan()));
        assert_eq!(best(&[f32::NAN; 3], 1).1, [0]);
    }

    #[test]
    fn what_comes_in_a_later_chunk_is_found_behind_numbers_and_behind_nan() {
        for first in [1.0, f32::NAN] {
            let mut x = vec![first; 5 * CHUNK];
            x[CHUNK + 7] = 2.0;
            x[4 * CHUNK] = 2.0;
            x[5 * CHUNK - 1] = 3.0;
            let (_, ids) = best(&x, 4);
            assert_eq!(ids, [5 * CHUNK as u32 - 1, CHUNK as u32 + 7, 4 * CHUNK as u32, 0]);
        }
        let rising: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        assert_eq!(best(&rising, 256).1, (744..1000).rev().collect::<Vec<u32>>());
    }
}
