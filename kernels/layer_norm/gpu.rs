//! LayerNorm on a GPU: launches the kernels of `layer_norm.cu`.

use super::LayerNorm;
use crate::column_sum;
use crate::device::gpu::{Gpu, KernelArg};
use crate::device::launch::{KEPT, RowLayout, entry, partial_rows, width};
use crate::device::program::Source;
use crate::op::Backward;
use crate::{Buffer, DType, Result};

const NAME: &str = "layer_norm";
/// The programs for rows of up to 256, 512 and more vectors, and the one that sums what backward's blocks leave.
pub(super) const PROGRAMS: [Source; 4] = [program(0), program(1), program(2), column_sum::gpu::SOURCE];

const fn program(i: usize) -> Source {
    Source { defines: KEPT[i], ..Source::new("layer_norm/layer_norm.cu", include_str!("layer_norm.cu")) }
}

/// How many of backward's blocks of 256 threads a multiprocessor's registers allow at once, per program.
const BLOCKS_PER_MULTIPROCESSOR: [usize; 3] = [3, 2, 1];

/// `y = xhat * (offset + w) + b`; writes mean and rstd if asked.
pub fn forward(
    gpu: &Gpu,
    op: &LayerNorm,
    [x, w, b]: [&Buffer; 3],
    y: &mut Buffer,
    mean: Option<&mut Buffer>,
    rstd: Option<&mut Buffer>,
) -> Result<()> {
    let (spec, name) = (x.spec(), entry(NAME, "fwd", x.dtype())?);
    let layout = RowLayout::of(spec);
    if spec.elements() == 0 {
        return Ok(());
    }
    let args = [
        KernelArg::read(x),
        KernelArg::read(w),
        KernelArg::read(b),
        KernelArg::write(y),
        KernelArg::write_or_null(mean),
        KernelArg::write_or_null(rstd),
        KernelArg::I64(spec.rows() as i64),
        KernelArg::U32(width(NAME, spec)?),
        KernelArg::F32(op.eps as f32),
        KernelArg::F32(op.offset()),
    ];
    // SAFETY: arguments as in the signature of layer_norm_fwd; `infer` made w and b as wide as a row of x, y like x, and
    // mean and rstd, both there or neither, one f32 per row, all on this device; the kernel strides over all rows
    // whatever the grid and the program.
    unsafe { gpu.launch(NAME, &program(layout.program), &name, layout.block_per_row(spec), &args) }
}

/// Gives dx, dw and db, whichever are wanted, from one pass over x and dy.
pub fn backward(gpu: &Gpu, op: &LayerNorm, io: &mut Backward) -> Result<()> {
    let (x, w, mean, rstd, dy) = (io.saved(0), io.saved(1), io.saved(2), io.saved(3), io.dy());
    let (spec, name) = (x.spec(), entry(NAME, "bwd", x.dtype())?);
    let layout = RowLayout::of(spec);
    let mut dx = io.wants(0).then(|| io.alloc(spec)).transpose()?;
    let weight = |i: usize| io.wants(i).then(|| io.alloc(w.spec().with_dtype(DType::F32))).transpose();
    let (mut dw, mut db) = (weight(1)?, weight(2)?);
    if spec.elements() == 0 {
        for sum in [&mut dw, &mut db].into_iter().flatten() {
            sum.fill_zero()?; // over no rows
        }
    } else {
        let grid = layout.walking(gpu, spec, BLOCKS_PER_MULTIPROCESSOR);
        let partial = |wanted: bool| wanted.then(|| io.temp(partial_rows(grid, spec))).transpose();
        let (mut partial_w, mut partial_b) = (partial(dw.is_some())?, partial(db.is_some())?);
        let args = [
            KernelArg::read(x),
            KernelArg::read(w),
            KernelArg::read(mean),
            KernelArg::read(rstd),
            KernelArg::read(dy),
            KernelArg::write_or_null(dx.as_mut()),
            KernelArg::write_or_null(partial_w.as_mut()),
            KernelArg::write_or_null(partial_b.as_mut()),
            KernelArg::I64(spec.rows() as i64),
            KernelArg::U32(width(NAME, spec)?),
            KernelArg::F32(op.offset()),
        ];
        // SAFETY: arguments as in the signature of layer_norm_bwd; x, w, mean and rstd are what forward saw and made, dy is
        // like x, dx too, and each partial has one row per block, all on this device.
        unsafe { gpu.launch(NAME, &program(layout.program), &name, grid, &args) }?;
        for (sum, partial) in [(&mut dw, &partial_w), (&mut db, &partial_b)] {
            if let (Some(sum), Some(partial)) = (sum, partial) {
                column_sum::gpu::forward(gpu, partial, sum)?;
            }
        }
    }
    for (i, gradient) in [dx, dw, db].into_iter().enumerate() {
        if let Some(gradient) = gradient {
            io.give(i, gradient)?;
        }
    }
    Ok(())
}
