//! Splice on the CPU. `source` tells for each row of x which feature replaces it, so that rows have one writer each.

use crate::dtype::{Float, Real};
use crate::reduce::rows_per_task;
use rayon::prelude::*;

/// A row that no feature replaces.
const NONE: u32 = u32::MAX;

/// `source[rows[f]] = f`, elsewhere none. The error is the first f whose row is outside or was taken already.
pub fn invert(rows: &[u32], source: &mut [u32]) -> Result<(), usize> {
    source.fill(NONE);
    for (f, &row) in rows.iter().enumerate() {
        match source.get_mut(row as usize) {
            Some(place) if *place == NONE => *place = f as u32,
            _ => return Err(f),
        }
    }
    Ok(())
}

/// Overwrites the replaced rows of y with their features.
pub fn forward<T: Real>(features: &[T], source: &[u32], width: usize, y: &mut [T]) {
    let rows = y.par_chunks_mut(width.max(1)).zip(source).with_min_len(rows_per_task(width));
    rows.filter(|(_, f)| **f != NONE)
        .for_each(|(y, &f)| y.copy_from_slice(&features[f as usize * width..][..width]));
}

/// `dfeatures[f] = dy[rows[f]]`.
pub fn gather<T: Real>(dy: &[T], rows: &[u32], width: usize, dfeatures: &mut [T]) {
    let rows = dfeatures.par_chunks_mut(width.max(1)).zip(rows).with_min_len(rows_per_task(width));
    rows.for_each(|(d, &row)| d.copy_from_slice(&dy[row as usize * width..][..width]));
}

/// Zeroes the replaced rows of dx.
pub fn clear<T: Real>(source: &[u32], width: usize, dx: &mut [T]) {
    let rows = dx.par_chunks_mut(width.max(1)).zip(source).with_min_len(rows_per_task(width));
    rows.filter(|(_, f)| **f != NONE).for_each(|(dx, _)| dx.fill(T::from_acc(T::Acc::ZERO)));
}
