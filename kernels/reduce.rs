//! Sums and maxima in an order that depends on the length alone, and how much work one task gets.
//!
//! The order is the same on every path and for every number of threads, so results are bit-equal between them.

use crate::dtype::Float;

/// Partial results per reduction: two zmm registers of f32.
const LANES: usize = 32;

/// Elements that one rayon task handles at least: below, handing the task out costs more than it does.
pub(crate) const GRAIN: usize = 16 * 1024;

/// How many rows of this width make a task; for `with_min_len`.
pub(crate) fn rows_per_task(width: usize) -> usize {
    GRAIN.div_ceil(width.max(1))
}

/// The sum of `f(i)` for i in 0..n, added in `LANES` interleaved chains that are then folded pairwise.
#[inline(always)]
pub(crate) fn lane_sum<A: Float>(n: usize, f: impl Fn(usize) -> A) -> A {
    lane_fold(n, A::ZERO, f, |a, b| a + b)
}

/// The largest `f(i)` for i in 0..n, negative infinity if there is none; NaN is passed over.
#[inline(always)]
pub(crate) fn lane_max<A: Float>(n: usize, f: impl Fn(usize) -> A) -> A {
    lane_fold(n, A::NEG_INFINITY, f, |a, b| if b > a { b } else { a })
}

#[inline(always)]
fn lane_fold<A: Float>(n: usize, start: A, f: impl Fn(usize) -> A, join: impl Fn(A, A) -> A) -> A {
    let mut lanes = [start; LANES];
    let whole = n / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane = join(*lane, f(i + l));
        }
    }
    for (l, lane) in lanes.iter_mut().enumerate().take(n - whole) {
        *lane = join(*lane, f(whole + l));
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] = join(lanes[l], lanes[l + width]);
        }
        width /= 2;
    }
    lanes[0]
}
