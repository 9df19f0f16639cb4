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
    /// What gradients are multiplied by.
    clip: A,
    /// 1 - beta1 and 1 - beta2, rounded once.
    rest: [A; 2],
}

impl<A: Float> Step<A> {
    /// From the op and the contents of its buffers `hyper` and `squares`; None if the norm is not finite.
    pub fn new(op: &AdamW, hyper: &[A], squares: &[A]) -> Option<Self> {
        let norm = squares[0].f64().sqrt();
        let clips = op.clip > 0.0 && norm > op.clip;
        let factor = if clips { op.clip / (norm + 1e-6) } else { 1.0 };
        norm.is_finite().then(|| Step {
            beta1: A::of(op.beta1),
            beta2: A::of(op.beta2),
            eps: A::of(op.eps),
            keep: A::ONE - hyper[0] * A::of(op.weight_decay),
            rate: hyper[1],
            correction: hyper[2],
            clip: A::of(factor),
            rest: [A::of(1.0 - op.beta1), A::of(1.0 - op.beta2)],
        })
    }
}

/// One step over all elements of a tensor with its two moments; `weight`, if there is one, becomes the rounded master.
pub fn update<T: Real>(
    step: &Step<T::Acc>,
    master: &mut [T::Acc],
    grad: &[T::Acc],
    [m, v]: [&mut [T::Acc]; 2],
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
