//! Column sums on a GPU: launches the kernels of `column_sum.cu`.

use crate::device::gpu::{Gpu, Grid, KernelArg};
use crate::device::launch::{entry, over_rows, vectors, width};
use crate::device::program::Source;
use crate::{Buffer, DType, Error, Result, Role, Spec};

const NAME: &str = "column_sum";
pub(crate) const SOURCE: Source = Source::new("column_sum/column_sum.cu", include_str!("column_sum.cu"));

/// The launch bound of forward.
const THREADS: u32 = 512;
/// Rows that one block adds, where there are many.
const CHUNK: usize = 256;
/// The most rows that one block adds: with no more, their sum is the result. Above the number of persistent blocks
/// that kernels make partial sums with, so that these take one launch more.
const LAST: usize = 1024;
/// The most chunks: blocks of a grid in y.
const MAX_CHUNKS: usize = 65_535;
/// Rows that a thread of backward writes, about.
const ROWS: usize = 16;

/// `y` (f32) = the sum over the rows of `x`, which are as wide as `y`.
pub fn forward(gpu: &Gpu, x: &Buffer, y: &mut Buffer) -> Result<()> {
    entry(NAME, "fwd", x.dtype())?; // refuses what has other sums than f32
    let columns = y.spec().elements();
    let x_rows = x.spec().with_dims([x.spec().elements() / columns.max(1), columns]);
    assert_eq!(y.dtype(), DType::F32, "sums of {} are f32", x.spec());
    if x_rows.elements() == 0 {
        return y.fill_zero(); // the sum over no rows
    }
    if x_rows.rows() <= LAST {
        return chunks(gpu, x, x_rows, LAST, y);
    }
    let partial_spec = Spec::new(DType::F32, [x_rows.rows().div_ceil(CHUNK), columns]);
    let mut partial = x.device().alloc(partial_spec, Role::Workspace)?;
    chunks(gpu, x, x_rows, CHUNK, &mut partial)?;
    forward(gpu, &partial, y)
}

/// Row c of `y` = the sum over rows c * chunk .. (c + 1) * chunk of `x`, seen as `rows`.
fn chunks(gpu: &Gpu, x: &Buffer, rows: Spec, chunk: usize, y: &mut Buffer) -> Result<()> {
    let name = entry(NAME, "fwd", x.dtype())?;
    let (across, down) = (vectors(rows.last(), rows.dtype).div_ceil(32), rows.rows().div_ceil(chunk));
    if down > MAX_CHUNKS {
        let message = format!("{rows} has too many rows, at most {}", MAX_CHUNKS * chunk);
        return Err(Error::shape(NAME, message));
    }
    let args = [
        KernelArg::read(x),
        KernelArg::write(y),
        KernelArg::I64(rows.rows() as i64),
        KernelArg::U32(width(NAME, rows)?),
        KernelArg::U32(chunk as u32),
    ];
    let grid = Grid { blocks: [across as u32, down as u32, 1], threads: THREADS, shared_bytes: 0 };
    // SAFETY: arguments as in the signature of column_sum_fwd; x has the elements of `rows` and y one row of that width,
    // in f32, per chunk, both on this device; the grid has a row of
    // blocks for each chunk, and the kernel strides over the columns.
    unsafe { gpu.launch(NAME, &SOURCE, &name, grid, &args) }
}

/// `dx[i] = dy` for every row i.
pub fn broadcast(gpu: &Gpu, dy: &Buffer, dx: &mut Buffer) -> Result<()> {
    let (spec, name) = (dx.spec(), entry(NAME, "bwd", dx.dtype())?);
    if spec.elements() == 0 {
        return Ok(());
    }
    let args = [
        KernelArg::read(dy),
        KernelArg::write(dx),
        KernelArg::I64(spec.rows() as i64),
        KernelArg::U32(width(NAME, spec)?),
    ];
    // SAFETY: arguments as in the signature of column_sum_bwd; `infer` made dy, in f32, as wide as a row of dx, both on
    // this device; the kernel strides over all rows and columns whatever the grid.
    unsafe { gpu.launch(NAME, &SOURCE, &name, over_rows(gpu, spec, 1, ROWS), &args) }
}
