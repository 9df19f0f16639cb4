//! What the launches of many ops share: the names of entries, and grids over elements and rows.

use super::gpu::{Gpu, Grid};
use crate::{DType, Error, Result, Spec};

/// Threads per block of the kernels built on `elementwise.cuh`, their launch bound.
const THREADS: usize = 128;

/// Vectors of one tensor that such a thread has on their way at once.
const IN_FLIGHT: usize = 4;

/// Bytes of a vector.
const VECTOR: usize = 16;

/// Beyond this many blocks per multiprocessor, two rounds of as many as run side by side, blocks take several turns:
/// starting more of them costs, and evens out nothing.
const BLOCKS_PER_MULTIPROCESSOR: usize = 32;

/// The most blocks a grid has in y.
const MAX_Y: usize = 65_535;

/// The kernel of `op` for this pass, part and type: `gated_bwd_bf16`.
///
/// Errors: a type that kernels do not compute in.
pub(crate) fn entry(op: &'static str, part: &str, dtype: DType) -> Result<String> {
    match dtype {
        DType::F32 | DType::Bf16 => Ok(format!("{op}_{part}_{dtype}")),
        got => Err(Error::DType { op, expected: "f32 or bf16 on a GPU", got }),
    }
}

/// The row width of `x` as kernels take it. They count columns in 32 bits.
pub(crate) fn width(op: &'static str, x: Spec) -> Result<u32> {
    let too_wide = |_| Error::shape(op, format!("rows of {x} are too wide, at most {} values", i32::MAX));
    i32::try_from(x.last()).map(|w| w as u32).map_err(too_wide)
}

/// The number of elements of `x` for a kernel that counts them in 32 bits.
pub(crate) fn elements(op: &'static str, x: Spec) -> Result<u32> {
    let too_many = |_| Error::shape(op, format!("{x} is too large, at most {} elements", i32::MAX));
    i32::try_from(x.elements()).map(|n| n as u32).map_err(too_many)
}

/// How many vectors of type `dtype` a row takes: one per value if vectors do not divide it.
pub(crate) fn vectors(width: usize, dtype: DType) -> usize {
    let values = VECTOR / dtype.size();
    if width.is_multiple_of(values) { width / values } else { width }
}

/// A grid for an element-wise kernel over tensors of `elements` elements, the widest of them of type `widest`.
pub(crate) fn over_elements(gpu: &Gpu, elements: usize, widest: DType) -> Grid {
    let vectors = elements.div_ceil(VECTOR / widest.size());
    let most = BLOCKS_PER_MULTIPROCESSOR * gpu.multiprocessors() as usize;
    Grid::linear(vectors.div_ceil(IN_FLIGHT * THREADS).clamp(1, most) as u32, THREADS as u32)
}

/// A grid whose x covers the columns of rows, `columns` vectors of a row to a thread, and whose y covers the rows,
/// `rows` of them to a thread; blocks stride over what is left.
pub(crate) fn over_rows(gpu: &Gpu, x: Spec, columns: usize, rows: usize) -> Grid {
    let most = BLOCKS_PER_MULTIPROCESSOR * gpu.multiprocessors() as usize;
    let across = vectors(x.last(), x.dtype).div_ceil(columns * THREADS).clamp(1, most);
    let down = x.rows().div_ceil(rows).clamp(1, (most / across).clamp(1, MAX_Y));
    Grid { blocks: [across as u32, down as u32, 1], threads: THREADS as u32, shared_bytes: 0 }
}

/// The launch bound of the kernels built on `rows.cuh`, and the vectors of a row that one thread keeps.
const NORM_THREADS: usize = 256;
const KEEP: usize = 4;

/// A grid of one block per row of `x`, of as few threads as keep a row whole: blocks that wait for their slowest warp
/// are small then, and many run side by side.
pub(crate) fn block_per_row(x: Spec) -> Grid {
    let threads = vectors(x.last(), x.dtype).div_ceil(KEEP).next_multiple_of(32).clamp(32, NORM_THREADS);
    Grid::linear(x.rows().clamp(1, i32::MAX as usize) as u32, threads as u32)
}

/// A grid of blocks that walk over the rows of `x`, as many as run side by side, `per_multiprocessor` at least. Each
/// leaves a row of partial sums, so they are few, of as many threads as are of use.
pub(crate) fn walking_rows(gpu: &Gpu, x: Spec, per_multiprocessor: usize) -> Grid {
    let threads = vectors(x.last(), x.dtype).next_multiple_of(32).clamp(32, NORM_THREADS);
    let blocks = x.rows().clamp(1, per_multiprocessor * gpu.multiprocessors() as usize);
    Grid::linear(blocks as u32, threads as u32)
}

/// The partial sums that the blocks of such a grid leave for rows like those of `x`.
pub(crate) fn partial_rows(grid: Grid, x: Spec) -> Spec {
    Spec::new(DType::F32, [grid.blocks[0] as usize, x.last()])
}

/// A grid of one block per row (or per `columns` values of it) of `x`, for `copy_row`: a thread has about four vectors,
/// which it copies together. Rows beyond the grid are strided over.
pub(crate) fn over_copied_rows(x: Spec, columns: usize) -> Grid {
    let vectors = (columns * x.dtype.size()).div_ceil(VECTOR);
    let threads = vectors.div_ceil(4).next_multiple_of(32).clamp(32, 256);
    Grid::linear(x.rows().min(i32::MAX as usize) as u32, threads as u32)
}
