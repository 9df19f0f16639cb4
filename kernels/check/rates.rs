//! What one core, and the memory behind some, can do at best: what times on the CPU are put beside.

use crate::attention::{Kernel, Lanes, OnPath};
use crate::dtype::Float;
use crate::simd::vectorize;
use rayon::prelude::*;
use std::hint::black_box;
use std::time::Instant;

/// Operations per second of multiply-adds in f32 that touch registers only, on one thread: the best of some
/// attempts. A fused multiply-add counts two.
pub fn multiply_add() -> f64 {
    (0..20).map(|_| attempt()).fold(0.0, f64::max)
}

fn attempt() -> f64 {
    let mut operations = 0;
    let start = Instant::now();
    f32::on_path(Chains { steps: 100_000, operations: &mut operations });
    operations as f64 / start.elapsed().as_secs_f64()
}

/// As many independent chains as hide the latency of each.
struct Chains<'a> {
    steps: usize,
    operations: &'a mut usize,
}

impl<A: Float> Kernel<A> for Chains<'_> {
    #[inline(always)]
    fn run<L: Lanes<Elem = A>, const M: usize, const TWO: bool>(self) {
        let factor = black_box(A::of(0.999));
        let mut sums = [[L::zero(); 2]; M];
        for _ in 0..self.steps {
            for sums in &mut sums {
                for sum in sums {
                    *sum = sum.madd(factor, L::zero());
                }
            }
        }
        let mut out = [A::ZERO; 16];
        for sum in sums.iter().flatten() {
            sum.store(&mut out);
            black_box(&out);
        }
        *self.operations = self.steps * 2 * M * 2 * L::WIDTH;
    }
}

/// Bytes per second that all threads of the current pool read together from `bytes` of memory, more than the caches
/// hold: the best of some passes.
pub fn read(bytes: usize) -> f64 {
    /// What one task reads at a time.
    const PART: usize = 1 << 18;
    let data = vec![1u64; bytes / 8];
    let pass = || {
        let start = Instant::now();
        let parts = data.par_chunks(PART).map(|part| {
            vectorize(
                #[inline(always)]
                || {
                    let mut lanes = [0u64; 64];
                    for chunk in part.as_chunks::<64>().0 {
                        for (lane, x) in lanes.iter_mut().zip(chunk) {
                            *lane |= x;
                        }
                    }
                    lanes.iter().fold(0, |a, b| a | b)
                },
            )
        });
        black_box(parts.reduce(|| 0, |a, b| a | b));
        (data.len() * 8) as f64 / start.elapsed().as_secs_f64()
    };
    (0..32).map(|_| pass()).fold(0.0, f64::max)
}
