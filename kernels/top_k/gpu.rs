//! The largest of each row on a GPU: launches the kernels of `top_k.cu`.

use crate::device::gpu::{Gpu, Grid, KernelArg};
use crate::device::launch::{entry, width};
use crate::device::program::Source;
use crate::{Buffer, Error, Result};

const NAME: &str = "top_k";
/// The program of both kernels.
pub const SOURCE: Source = Source::new("top_k/top_k.cu", include_str!("top_k.cu"));

/// Threads of a block, of which there is one per row.
const THREADS: u32 = 1024;

/// Writes the k largest of the first `columns` of each row, and their columns.
pub fn forward(
    gpu: &Gpu,
    x: &Buffer,
    columns: usize,
    k: usize,
    values: &mut Buffer,
    ids: &mut Buffer,
) -> Result<()> {
    let spec = x.spec();
    let name = entry(NAME, if k == 1 { "fwd_one" } else { "fwd_some" }, spec.dtype)?;
    if spec.rows() == 0 {
        return Ok(());
    }
    let width = width(NAME, spec)?;
    let mut args = vec![
        KernelArg::read(x),
        KernelArg::write(values),
        KernelArg::write(ids),
        KernelArg::U32(width),
        KernelArg::U32(columns as u32),
    ];
    if k > 1 {
        args.push(KernelArg::U32(k as u32));
    }
    let too_many = |_| Error::shape(NAME, format!("{spec} has too many rows, at most {}", i32::MAX));
    let grid = Grid::linear(i32::try_from(spec.rows()).map_err(too_many)? as u32, THREADS);
    // SAFETY: arguments as in the signatures of top_k_fwd_one and, with k, top_k_fwd_some; `infer` made values and ids
    // [rows, k] and saw to 1 <= k <= 256 and k <= columns <= width; all lie on this device; the grid has a block per
    // row.
    unsafe { gpu.launch(NAME, &SOURCE, &name, grid, &args) }
}
