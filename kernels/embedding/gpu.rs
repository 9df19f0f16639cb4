//! Embedding on a GPU: launches the kernels of `embedding.cu`.

use crate::device::gpu::{Gpu, Grid, KernelArg};
use crate::device::launch::{elements, entry, over_copied_rows, width};
use crate::device::program::Source;
use crate::op::Backward;
use crate::{Buffer, DType, Result};

const NAME: &str = "embedding";
/// The program of all its kernels.
pub const SOURCE: Source = Source::new("embedding/embedding.cu", include_str!("embedding.cu"));

/// Threads of a block in backward, and positions that make an id's bucket long: THREADS and MANY of the source.
const THREADS: u32 = 256;
const MANY: u32 = 32;
/// Columns that a block of `many` sums: one vector of 16 bytes of the table's type per lane.
const CHUNK_BYTES: usize = 32 * 16;
/// The most blocks of a grid in y.
const MAX_Y: usize = 65535;

/// `y[t] = table[ids[t]]`, NaN where that is no row.
pub fn forward(gpu: &Gpu, table: &Buffer, ids: &Buffer, y: &mut Buffer) -> Result<()> {
    let (spec, tokens) = (table.spec(), ids.spec().elements());
    let name = entry(NAME, "fwd", spec.dtype)?;
    if y.spec().elements() == 0 {
        return Ok(());
    }
    let grid = over_copied_rows(y.spec(), spec.last());
    let args = [
        KernelArg::read(table),
        KernelArg::read(ids),
        KernelArg::write(y),
        KernelArg::I64(tokens as i64),
        KernelArg::U64(spec.dims()[0] as u64),
        KernelArg::U32(width(NAME, spec)?),
    ];
    // SAFETY: arguments as in the signature of embedding_fwd; `infer` made y one row of the table's width per id, all
    // on this device; the kernel strides over all ids whatever the grid, and compares each with the table's size.
    unsafe { gpu.launch(NAME, &SOURCE, &name, grid, &args) }
}

/// Gives the gradient of the table.
pub fn backward(gpu: &Gpu, io: &mut Backward) -> Result<()> {
    let dtype = io.dy().dtype();
    entry(NAME, "bwd", dtype)?;
    let (mut dtable, add) = io.accumulator(0)?;
    if !add {
        dtable.fill_zero()?; // most rows of a vocabulary have no token
    }
    let (ids, dy) = (io.saved(0), io.dy());
    if dy.spec().elements() > 0 {
        let (mut order, mut sorted) = (io.temp(ids.spec())?, io.temp(ids.spec())?);
        let (size, tokens, columns) =
            (dtable.dims()[0], elements(NAME, ids.spec())?, width(NAME, dy.spec())?);
        let args = [
            KernelArg::read(ids),
            KernelArg::write(&mut order),
            KernelArg::write(&mut sorted),
            KernelArg::U32(tokens),
        ];
        let grid = Grid::linear(tokens.div_ceil(32), THREADS);
        // SAFETY: arguments as in the signature of embedding_bwd_order; the three buffers have one u32 per position;
        // a block places 32 positions, each at a place of its own below their number.
        unsafe { gpu.launch(NAME, &SOURCE, "embedding_bwd_order_u32", grid, &args) }?;

        let types = match (dtype, dtable.dtype()) {
            (DType::Bf16, DType::F32) => "bf16_f32".to_string(),
            (same, _) => same.to_string(),
        };
        let args = [
            KernelArg::read(dy),
            KernelArg::read(&order),
            KernelArg::read(&sorted),
            KernelArg::write(&mut dtable),
            KernelArg::U32(tokens),
            KernelArg::U64(size as u64),
            KernelArg::U32(columns),
            KernelArg::U32(add.into()),
        ];
        let row = dy.spec().with_dtype(dtable.dtype());
        let chunks = (row.last() * row.dtype.size()).div_ceil(CHUNK_BYTES).min(MAX_Y) as u32;
        let places = [tokens.div_ceil(MANY), chunks, 1];
        for (part, grid) in [
            ("few", over_copied_rows(row, row.last())),
            ("many", Grid { blocks: places, ..Grid::linear(1, THREADS) }),
        ] {
            // SAFETY: arguments as in the signatures of embedding_bwd_few and _many; dy has a row per position, as
            // wide as the table's; a block per sorted place, or per MANY of them and 32 vectors of columns; ids
            // are compared with the table's size.
            unsafe { gpu.launch(NAME, &SOURCE, &format!("{NAME}_bwd_{part}_{types}"), grid, &args) }?;
        }
    }
    io.give(0, dtable)
}
