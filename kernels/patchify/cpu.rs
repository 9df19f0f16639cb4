//! Patchify on the CPU: copies of runs of `patch` pixels.

use crate::dtype::{Float, Real};
use crate::reduce::rows_per_task;
use rayon::prelude::*;

/// How images are cut.
#[derive(Clone, Copy)]
pub struct Grid {
    /// Channels of an image.
    pub channels: usize,
    /// Lines of an image.
    pub height: usize,
    /// Pixels of a line.
    pub width: usize,
    /// Side of a patch.
    pub patch: usize,
}

impl Grid {
    /// Whole patches in a column.
    pub fn down(&self) -> usize {
        self.height / self.patch
    }
    /// Whole patches in a row.
    pub fn across(&self) -> usize {
        self.width / self.patch
    }
}

/// One task fills whole rows of y, that is patches.
pub fn forward<T: Real>(grid: Grid, pixels: &[T], y: &mut [T]) {
    let (p, c) = (grid.patch, grid.channels);
    let row = c * p * p;
    y.par_chunks_mut(row).with_min_len(rows_per_task(row)).enumerate().for_each(|(n, y)| {
        let (image, i, j) =
            (n / (grid.across() * grid.down()), n / grid.across() % grid.down(), n % grid.across());
        for (k, y) in y.chunks_exact_mut(p).enumerate() {
            let line = (image * c + k / p) * grid.height + i * p + k % p;
            y.copy_from_slice(&pixels[line * grid.width + j * p..][..p]);
        }
    });
}

/// One task fills whole lines of dx.
pub fn backward<T: Real>(grid: Grid, dy: &[T], dx: &mut [T]) {
    let (p, c) = (grid.patch, grid.channels);
    let lines = dx.par_chunks_mut(grid.width).with_min_len(rows_per_task(grid.width)).enumerate();
    lines.for_each(|(n, dx)| {
        let (image, channel, line) = (n / grid.height / c, n / grid.height % c, n % grid.height);
        dx.fill(T::from_acc(T::Acc::ZERO));
        if line / p < grid.down() {
            let first = (image * grid.down() + line / p) * grid.across();
            for (j, dx) in dx.chunks_exact_mut(p).enumerate() {
                let run = ((first + j) * c + channel) * p + line % p;
                dx.copy_from_slice(&dy[run * p..][..p]);
            }
        }
    });
}
