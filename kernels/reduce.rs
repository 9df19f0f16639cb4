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

/// The sum of `f([a[i], b[i], ..])` over the elements of equally long slices, added in `LANES` interleaved chains that
/// are then folded pairwise.
#[inline(always)]
pub(crate) fn lane_sum<T: Copy, A: Float, const K: usize>(slices: [&[T]; K], f: impl Fn([T; K]) -> A) -> A {
    lane_fold(slices, A::ZERO, f, |a, b| a + b)
}

/// The largest `f([a[i], b[i], ..])`, negative infinity if there is none; NaN is passed over.
#[inline(always)]
pub(crate) fn lane_max<T: Copy, A: Float, const K: usize>(slices: [&[T]; K], f: impl Fn([T; K]) -> A) -> A {
    lane_fold(slices, A::NEG_INFINITY, f, |a, b| if b > a { b } else { a })
}

/// The body of both. Its form decides whether the compiler makes vector instructions of it, a factor of 2 to 4:
/// slices rather than an index, so that no bounds check lies inside a chunk; and the lanes in memory behind an opaque
/// pointer, stored chunk by chunk, because lanes that it may keep in registers it takes apart into scalars to suit the
/// final fold.
#[inline(always)]
fn lane_fold<T: Copy, A: Float, const K: usize>(
    slices: [&[T]; K],
    start: A,
    f: impl Fn([T; K]) -> A,
    join: impl Fn(A, A) -> A,
) -> A {
    let n = slices[0].len();
    let parts = slices.map(|s| s[..n].as_chunks::<LANES>());
    let mut lanes = [start; LANES];
    let lanes = std::hint::black_box(&mut lanes);
    for c in 0..n / LANES {
        let chunk = parts.map(|(chunks, _)| &chunks[c]);
        let mut values = [start; LANES];
        for l in 0..LANES {
            values[l] = f(chunk.map(|s| s[l]));
        }
        for l in 0..LANES {
            lanes[l] = join(lanes[l], values[l]);
        }
    }
    let rest = parts.map(|(_, rest)| rest);
    for l in 0..n % LANES {
        lanes[l] = join(lanes[l], f(rest.map(|s| s[l])));
    }
    let mut width = LANES / 2;
    while width > 0 {
        let (low, high) = lanes.split_at_mut(width);
        for (a, b) in low.iter_mut().zip(high) {
            *a = join(*a, *b);
        }
        width /= 2;
    }
    lanes[0]
}
