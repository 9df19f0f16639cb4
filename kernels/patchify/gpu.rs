//! Patchify on a GPU: launches the kernels of `patchify.cu`.

use super::cpu::Grid as Cut;
use crate::device::gpu::{Gpu, Grid, KernelArg};
use crate::device::program::Source;
use crate::launch::{blocks, count, entry};
use crate::{Buffer, Result};

const NAME: &str = "patchify";
/// The program of all its kernels.
pub const SOURCE: Source = Source::new("patchify/patchify.cu", include_str!("patchify.cu"));

/// The launch bound of both kernels.
const THREADS: u32 = 128;

/// Rows of patches from pixels.
pub fn forward(gpu: &Gpu, cut: Cut, pixels: &Buffer, y: &mut Buffer) -> Result<()> {
    let rows = y.spec().rows();
    let args = (KernelArg::read(pixels), KernelArg::write(y));
    launch(gpu, &entry(NAME, "fwd", pixels.dtype())?, cut, args, rows)
}

/// The gradient of the pixels.
pub fn backward(gpu: &Gpu, cut: Cut, dy: &Buffer, dx: &mut Buffer) -> Result<()> {
    let lines = dx.spec().rows();
    let args = (KernelArg::read(dy), KernelArg::write(dx));
    launch(gpu, &entry(NAME, "bwd", dy.dtype())?, cut, args, lines)
}

fn launch(gpu: &Gpu, name: &str, cut: Cut, (from, to): (KernelArg, KernelArg), rows: usize) -> Result<()> {
    if rows == 0 {
        return Ok(());
    }
    count(NAME, cut.channels.saturating_mul(cut.height).saturating_mul(cut.width))?; // places within an image
    let [channels, height, width, patch] = [cut.channels, cut.height, cut.width, cut.patch].map(|n| n as u32);
    let args = [
        from,
        to,
        KernelArg::I64(rows as i64),
        KernelArg::U32(channels),
        KernelArg::U32(height),
        KernelArg::U32(width),
        KernelArg::U32(patch),
    ];
    // SAFETY: arguments as in the signatures of patchify_fwd and _bwd, whose rows are the rows of y or the lines of
    // the images; `infer` derived y from pixels of these dimensions, at least a patch large, and dy and dx are like
    // them, all on this device; the kernels stride over all rows whatever the grid.
    unsafe { gpu.launch(NAME, &SOURCE, name, Grid::linear(blocks(rows), THREADS), &args) }
}
