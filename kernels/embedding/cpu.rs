//! Embedding on the CPU.

use crate::dtype::{Float, Real};
use crate::reduce::{GRAIN, rows_per_task};
use crate::simd::vectorize;
use rayon::prelude::*;

/// Columns summed together, small enough for their sums to stay in registers.
const COLUMNS: usize = 64;

/// `y[t] = table[ids[t]]`; every id was checked.
pub fn forward<T: Real>(table: &[T], ids: &[u32], width: usize, y: &mut [T]) {
    let rows = y.par_chunks_mut(width.max(1)).zip(ids).with_min_len(rows_per_task(width));
    rows.for_each(|(y, &id)| y.copy_from_slice(&table[id as usize * width..][..width]));
}

/// Positions grouped by id: those of id v are `order[starts[v]..starts[v + 1]]`, ascending.
pub struct Buckets<'a> {
    /// One more than there are ids.
    pub starts: &'a [u32],
    /// As many as there are positions.
    pub order: &'a [u32],
}

/// A stable counting sort of positions by id.
pub fn bucket(ids: &[u32], starts: &mut [u32], order: &mut [u32]) {
    starts.fill(0);
    for &id in ids {
        starts[id as usize + 1] += 1;
    }
    for v in 1..starts.len() {
        starts[v] += starts[v - 1];
    }
    // Filling moves each start to its bucket's end, which is the next one's start; shifting puts them right again.
    for (t, &id) in ids.iter().enumerate() {
        order[starts[id as usize] as usize] = t as u32;
        starts[id as usize] += 1;
    }
    starts.copy_within(..starts.len() - 1, 1);
    starts[0] = 0;
}

/// `dtable[v] (+)= sum of dy[t] over the positions t of id v`, with `T::Acc` and `S::Acc` the same type.
pub fn backward<T: Real, S: Real>(buckets: &Buckets, dy: &[T], width: usize, add: bool, dtable: &mut [S]) {
    let rows = dtable.par_chunks_mut(width.max(1)).zip(buckets.starts.par_windows(2));
    rows.with_min_len(rows_per_task(width)).for_each(|(row, range)| {
        let positions = &buckets.order[range[0] as usize..range[1] as usize];
        if positions.is_empty() {
            if !add {
                row.fill(S::from_acc(S::Acc::ZERO));
            }
            return;
        }
        // A placeholder id may own most positions: then its columns are shared out too.
        let blocks = row.par_chunks_mut(COLUMNS).enumerate();
        blocks.with_min_len(GRAIN.div_ceil(COLUMNS * positions.len())).for_each(|(c, row)| {
            vectorize(
                #[inline(always)]
                || {
                    let mut sums = [S::Acc::ZERO; COLUMNS];
                    for &t in positions {
                        let dy = &dy[t as usize * width + c * COLUMNS..][..row.len()];
                        for (sum, d) in sums.iter_mut().zip(dy) {
                            *sum += S::Acc::of(d.to_acc().f64()); // exact: the types are the same
                        }
                    }
                    for (d, &sum) in row.iter_mut().zip(&sums) {
                        *d = S::from_acc(if add { d.to_acc() + sum } else { sum });
                    }
                },
            )
        });
    });
}
