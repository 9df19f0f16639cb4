//! Sums and maxima in an order that depends on the length alone, and how much work one task gets.
//!
//! The order is the same on every path and for every number of threads, so results are bit-equal between them.

use crate::Spec;
use crate::dtype::Float;
use crate::simd::vectorize;
use rayon::prelude::*;

/// Partial results per reduction: two zmm registers of f32.
const LANES: usize = 32;

/// Elements that one rayon task handles at least: below, handing the task out costs more than it does.
pub(crate) const GRAIN: usize = 16 * 1024;

/// How many rows of this width make a task; for `with_min_len`.
pub(crate) fn rows_per_task(width: usize) -> usize {
    GRAIN.div_ceil(width.max(1))
}

/// How many elements the rows of one task have; for `par_chunks`. A whole number of rows, never 0.
pub(crate) fn elements_per_task(width: usize) -> usize {
    rows_per_task(width) * width.max(1)
}

/// Rows that [`sum_rows`] adds one after another before it starts the next partial sum.
const SUM_ROWS: usize = 256;

/// The scratch that [`sum_rows`] takes for rows like those of `x`: one partial sum per `SUM_ROWS` rows.
pub(crate) fn partial_sums(x: Spec) -> Spec {
    Spec::new(x.dtype.acc(), [x.rows().div_ceil(SUM_ROWS), x.last()])
}

/// Columns that [`sum_rows`] hands out together: their sums stay in the first-level cache.
const SUM_COLUMNS: usize = 256;

/// Sums something over rows: `add(r, c, sum)` adds its row r, from column c on, to `sum`. The gradients of norm
/// weights are such sums.
///
/// Blocks of rows are summed into `partial`, then the blocks in their order: the result does not depend on threads.
pub(crate) fn sum_rows<A: Float>(
    rows: usize,
    partial: &mut [A],
    sum: &mut [A],
    add: impl Fn(usize, usize, &mut [A]) + Sync,
) {
    let width = sum.len().max(1);
    let tasks = partial.par_chunks_mut(width).enumerate().flat_map(|(block, partial)| {
        partial.par_chunks_mut(SUM_COLUMNS).enumerate().map(move |(c, partial)| (block, c, partial))
    });
    tasks.for_each(|(block, c, partial)| {
        vectorize(
            #[inline(always)]
            || {
                partial.fill(A::ZERO);
                for r in block * SUM_ROWS..rows.min((block + 1) * SUM_ROWS) {
                    add(r, c * SUM_COLUMNS, partial);
                }
            },
        )
    });
    vectorize(
        #[inline(always)]
        || {
            sum.fill(A::ZERO);
            for partial in partial.chunks_exact(width) {
                for (s, p) in sum.iter_mut().zip(partial) {
                    *s += *p;
                }
            }
        },
    );
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
