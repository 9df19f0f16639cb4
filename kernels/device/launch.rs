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

/// The launch bound of the kernels built on `rows.cuh`.
const NORM_THREADS: usize = 256;

/// How a row lies over the threads of a block, for programs built on `rows.cuh`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowLayout {
    /// Which of the programs: they keep 1, 2 or 4 vectors of a row per thread.
    pub program: usize,
    /// As many threads as it takes to keep the row, up to the launch bound.
    threads: u32,
}

/// The macros of these programs.
pub(crate) const KEPT: [&[(&str, &str)]; 3] = [&[("KEPT", "1")], &[("KEPT", "2")], &[("KEPT", "4")]];

impl RowLayout {
    /// The layout of the rows of `x`.
    pub(crate) fn of(x: Spec) -> Self {
        let vectors = vectors(x.last(), x.dtype);
        let program = [1, 2].iter().filter(|kept| vectors > *kept * NORM_THREADS).count();
        let threads = vectors.div_ceil(1 << program).next_multiple_of(32).clamp(32, NORM_THREADS);
        RowLayout { program, threads: threads as u32 }
    }

    /// A block for each row of `x`.
    pub(crate) fn block_per_row(self, x: Spec) -> Grid {
        Grid::linear(x.rows().clamp(1, i32::MAX as usize) as u32, self.threads)
    }

    /// Blocks that walk over the rows of `x`: as many as are at home on all multiprocessors at once, of which `at_once`
    /// says how many one of them has room for, per program. Each leaves a row of partial sums.
    pub(crate) fn walking(self, gpu: &Gpu, x: Spec, at_once: [usize; 3]) -> Grid {
        let blocks = at_once[self.program] * gpu.multiprocessors() as usize;
        Grid::linear(x.rows().clamp(1, blocks) as u32, self.threads)
    }
}

/// The partial sums that the blocks of a walking grid leave for rows like those of `x`.
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
