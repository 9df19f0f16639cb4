//! Patchify on a GPU: launches the kernels of `patchify.cu`.

use super::cpu::Grid as Cut;
use crate::device::gpu::{Gpu, Grid, KernelArg};
use crate::device::launch::{elements, entry};
use crate::device::program::Source;
use crate::{Buffer, Result, Spec};

const NAME: &str = "patchify";
/// The program of all its kernels.
pub const SOURCE: Source = Source::new("patchify/patchify.cu", include_str!("patchify.cu"));

/// The launch bound of both kernels.
const THREADS: u32 = 128;

/// Rows of patches from pixels.
pub fn forward(gpu: &Gpu, cut: Cut, pixels: &Buffer, y: &mut Buffer) -> Result<()> {
    let rows = y.spec().rows();
    let args = [KernelArg::read(pixels), KernelArg::write(y)];
    launch(gpu, &entry(NAME, "fwd", pixels.dtype())?, cut, args, pixels.spec(), rows)
}

/// The gradient of the pixels.
pub fn backward(gpu: &Gpu, cut: Cut, dy: &Buffer, dx: &mut Buffer) -> Result<()> {
    let (pixels, lines) = (dx.spec(), dx.spec().rows());
    let args = [KernelArg::read(dy), KernelArg::write(dx)];
    launch(gpu, &entry(NAME, "bwd", dy.dtype())?, cut, args, pixels, lines)
}

fn launch(gpu: &Gpu, name: &str, cut: Cut, copy: [KernelArg; 2], pixels: Spec, rows: usize) -> Result<()> {
    if rows == 0 {
        return Ok(());
    }
    elements(NAME, pixels.with_dims(&pixels.dims()[1..]))?; // of one image
    let [channels, height, width, patch] = [cut.channels, cut.height, cut.width, cut.patch].map(|n| n as u32);
    let [from, to] = copy;
    let args = [
        from,
        to,
        KernelArg::I64(rows as i64),
        KernelArg::U32(channels),
        KernelArg::U32(height),
        KernelArg::U32(width),
        KernelArg::U32(patch),
    ];
    let grid = Grid::linear(rows.min(i32::MAX as usize) as u32, THREADS);
    // SAFETY: arguments as in the signatures of patchify_fwd and _bwd, whose rows are the rows of y or the lines of
    // the images; `infer` derived y from pixels of these dimensions, at least a patch large, and dy and dx are like
    // them, all on this device; the kernels stride over all rows whatever the grid.
    unsafe { gpu.launch(NAME, &SOURCE, name, grid, &args) }
}
