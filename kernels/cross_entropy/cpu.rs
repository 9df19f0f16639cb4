//! Cross entropy on the CPU: rows in parallel, each in a fixed order.

use super::IGNORED;
use crate::dtype::{Float, Real};
use crate::reduce::{GRAIN, lane_max, lane_sum, rows_per_task};
use crate::simd::vectorize;
use rayon::prelude::*;

/// The largest element of a row, and the sum of e^(x - largest).
#[inline(always)]
fn statistics<T: Real>(x: &[T]) -> (T::Acc, T::Acc) {
    let largest = lane_max([x], |[x]| x.to_acc());
    let sum = lane_sum([x], |[x]| (x.to_acc() - largest).exp());
    (largest, sum)
}

/// `terms[i] = w[i] * (lse(x[i]) - x[i][label[i]])`, 0 where ignored. There is one weight per row.
pub fn forward<T: Real>(x: &[T], labels: &[u32], w: &[T::Acc], terms: &mut [T::Acc]) {
    let vocabulary = x.len() / labels.len().max(1);
    let rows = x.par_chunks(vocabulary.max(1)).zip(labels).zip(w).zip(terms);
    rows.with_min_len(rows_per_task(vocabulary)).for_each(|(((x, &label), &w), term)| {
        *term = T::Acc::ZERO;
        if label != IGNORED {
            let (largest, sum) = vectorize(
                #[inline(always)]
                || statistics(x),
            );
            *term = w * (sum.ln() - (x[label as usize].to_acc() - largest));
        }
    });
}

/// As [`forward`], and overwrites x by the gradient of the sum of the terms.
pub fn forward_and_gradient<T: Real>(x: &mut [T], labels: &[u32], w: &[T::Acc], terms: &mut [T::Acc]) {
    let vocabulary = x.len() / labels.len().max(1);
    let rows = x.par_chunks_mut(vocabulary.max(1)).zip(labels).zip(w).zip(terms);
    rows.with_min_len(rows_per_task(vocabulary)).for_each(|(((x, &label), &w), term)| {
        if label == IGNORED {
            *term = T::Acc::ZERO;
            return x.fill(T::from_acc(T::Acc::ZERO));
        }
        let target = x[label as usize].to_acc();
        let (largest, sum) = vectorize(
            #[inline(always)]
            || {
                let (largest, sum) = statistics(x);
                let scale = w / sum;
                for v in x.iter_mut() {
                    *v = T::from_acc((v.to_acc() - largest).exp() * scale);
                }
                (largest, sum)
            },
        );
        *term = w * (sum.ln() - (target - largest));
        x[label as usize] = T::from_acc(w * ((target - largest).exp() / sum - T::Acc::ONE));
    });
}

/// The terms added in order.
pub fn total<A: Float>(terms: &[A]) -> A {
    A::of(terms.iter().map(|t| t.f64()).sum())
}

/// `dx *= dloss`, without touching it if dloss is 1.
pub fn scale<T: Real>(dx: &mut [T], dloss: T::Acc) {
    if dloss == T::Acc::ONE {
        return;
    }
    dx.par_chunks_mut(GRAIN).for_each(|dx| {
        vectorize(
            #[inline(always)]
            || {
                for d in dx {
                    *d = T::from_acc(d.to_acc() * dloss);
                }
            },
        )
    });
}
