//! AdamW on the CPU: elementwise.

use super::AdamW;
use crate::dtype::{Float, Real};
use crate::reduce::GRAIN;
use crate::simd::vectorize;
use rayon::prelude::*;

/// The scalars of one step.
pub struct Step<A> {
    beta1: A,
    beta2: A,
    eps: A,
    /// 1 - lr * weight_decay.
    keep: A,
    /// lr / (1 - beta1^t).
    rate: A,
    /// sqrt(1 - beta2^t).
    correction: A,
    clip: A,
    /// 1 - beta1 and 1 - beta2, rounded once.
    rest: [A; 2],
}

impl<A: Float> Step<A> {
    /// From the op and the contents of its buffers `hyper` and `clip`.
    pub fn new(op: &AdamW, hyper: &[A], clip: &[A]) -> Self {
        Step {
            beta1: A::of(op.beta1),
            beta2: A::of(op.beta2),
            eps: A::of(op.eps),
            keep: A::ONE - hyper[0] * A::of(op.weight_decay),
            rate: hyper[1],
            correction: hyper[2],
            clip: clip[0],
            rest: [A::of(1.0 - op.beta1), A::of(1.0 - op.beta2)],
        }
    }
}

/// One step over all elements; `weight`, if there is one, becomes the rounded master.
pub fn update<T: Real>(
    step: &Step<T::Acc>,
    master: &mut [T::Acc],
    grad: &[T::Acc],
    m: &mut [T::Acc],
    v: &mut [T::Acc],
    weight: Option<&mut [T]>,
) {
    let state = master.par_chunks_mut(GRAIN).zip(grad.par_chunks(GRAIN));
    let state = state.zip(m.par_chunks_mut(GRAIN)).zip(v.par_chunks_mut(GRAIN));
    match weight {
        None => state.for_each(|(((master, grad), m), v)| {
            vectorize(
                #[inline(always)]
                || chunk(step, master, grad, m, v),
            )
        }),
        Some(weight) => {
            state.zip(weight.par_chunks_mut(GRAIN)).for_each(|((((master, grad), m), v), weight)| {
                vectorize(
                    #[inline(always)]
                    || {
                        chunk(step, master, grad, m, v);
                        // The chunk of the master is in cache still.
                        for (w, x) in weight.iter_mut().zip(master) {
                            *w = T::from_acc(*x);
                        }
                    },
                )
            })
        }
    }
}

#[inline(always)]
fn chunk<A: Float>(step: &Step<A>, master: &mut [A], grad: &[A], m: &mut [A], v: &mut [A]) {
    for (((x, g), m), v) in master.iter_mut().zip(grad).zip(m).zip(v) {
        let g = *g * step.clip;
        *m = step.beta1 * *m + step.rest[0] * g;
        *v = step.beta2 * *v + step.rest[1] * g * g;
        *x = *x * step.keep - step.rate * *m / (v.sqrt() / step.correction + step.eps);
    }
}
