//! Cross entropy on a GPU: launches the kernels of `cross_entropy.cu`.

use crate::device::gpu::{Gpu, Grid, KernelArg};
use crate::device::launch::{entry, over_elements, width};
use crate::device::program::Source;
use crate::{Buffer, Result, Spec};

const NAME: &str = "cross_entropy";
/// The program of all its kernels.
pub const SOURCE: Source = Source::new("cross_entropy/cross_entropy.cu", include_str!("cross_entropy.cu"));

/// The launch bound of the kernels that go over rows.
const MAX_THREADS: usize = 512;
/// Vectors of a row that a thread keeps in registers.
const KEEP: usize = 8;

/// Threads for one row: as few as keep all of it in registers, but at least two vectors each; up to the bound.
fn threads(x: Spec) -> u32 {
    let vectors = x.last() * x.dtype.size() / 16;
    vectors.div_ceil(KEEP / 4).next_multiple_of(32).clamp(32, MAX_THREADS) as u32
}

/// The logits.
pub enum Logits<'a> {
    /// To be read: only the loss is wanted.
    Read(&'a Buffer),
    /// To become their gradient.
    Rewrite(&'a mut Buffer),
}

/// Writes the loss, by way of `terms`, one f32 per row.
pub fn forward(
    gpu: &Gpu,
    logits: Logits,
    labels: &Buffer,
    w: &Buffer,
    terms: &mut Buffer,
    loss: &mut Buffer,
) -> Result<()> {
    let (spec, x, dx) = match logits {
        Logits::Read(x) => (x.spec(), KernelArg::read(x), KernelArg::Ptr(0)),
        Logits::Rewrite(x) => (x.spec(), KernelArg::read(x), KernelArg::write(x)),
    };
    let name = entry(NAME, "fwd", spec.dtype)?;
    if spec.rows() == 0 {
        return loss.fill_zero();
    }
    let args = [
        x,
        KernelArg::read(labels),
        KernelArg::read(w),
        KernelArg::write(terms),
        dx,
        KernelArg::I64(spec.rows() as i64),
        KernelArg::U32(width(NAME, spec)?),
    ];
    let grid = Grid::linear(spec.rows().min(i32::MAX as usize) as u32, threads(spec));
    // SAFETY: arguments as in the signature of cross_entropy_fwd; labels, w and terms have an element per row of the
    // logits, all on this device; dx is null or the logits, held here alone; the kernel strides over all rows
    // whatever the grid, and compares each label with the width.
    unsafe { gpu.launch(NAME, &SOURCE, &name, grid, &args) }?;

    let args = [KernelArg::read(terms), KernelArg::write(loss), KernelArg::I64(spec.rows() as i64)];
    let grid = Grid::linear(1, MAX_THREADS as u32);
    // SAFETY: arguments as in the signature of cross_entropy_fwd_total: a term per row, and one loss.
    unsafe { gpu.launch(NAME, &SOURCE, "cross_entropy_fwd_total_f32", grid, &args) }
}

/// `dx *= dloss`, without touching it if dloss is 1.
pub fn backward(gpu: &Gpu, dx: &mut Buffer, dloss: &Buffer) -> Result<()> {
    let (spec, name) = (dx.spec(), entry(NAME, "bwd", dx.dtype())?);
    if spec.elements() == 0 {
        return Ok(());
    }
    let args = [KernelArg::write(dx), KernelArg::read(dloss), KernelArg::I64(spec.elements() as i64)];
    let grid = over_elements(gpu, spec.elements(), spec.dtype);
    // SAFETY: arguments as in the signature of cross_entropy_bwd: dx has `elements` elements and dloss one, on this
    // device; the kernel strides over all elements whatever the grid.
    unsafe { gpu.launch(NAME, &SOURCE, &name, grid, &args) }
}
