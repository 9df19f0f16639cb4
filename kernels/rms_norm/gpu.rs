//! RMSNorm on a GPU: launches the kernels of `rms_norm.cu`.

use crate::column_sum;
use crate::device::gpu::{Gpu, KernelArg};
use crate::device::launch::{KEPT, RowLayout, entry, partial_rows, width};
use crate::device::program::Source;
use crate::op::Backward;
use crate::{Buffer, DType, Result};

const NAME: &str = "rms_norm";
/// The programs for rows of up to 256, 512 and more vectors, and the one that sums what backward's blocks leave.
pub(super) const PROGRAMS: [Source; 4] = [program(0), program(1), program(2), column_sum::gpu::SOURCE];

const fn program(i: usize) -> Source {
    Source { defines: KEPT[i], ..Source::new("rms_norm/rms_norm.cu", include_str!("rms_norm.cu")) }
}

/// How many of backward's blocks of 256 threads a multiprocessor's registers allow at once, per program.
const BLOCKS_PER_MULTIPROCESSOR: [usize; 3] = [4, 3, 2];

/// `y = x * rstd * w`; writes rstd if asked.
pub fn forward(
    gpu: &Gpu,
    x: &Buffer,
    w: &Buffer,
    eps: f64,
    y: &mut Buffer,
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
        KernelArg::write(y),
        KernelArg::write_or_null(rstd),
        KernelArg::I64(spec.rows() as i64),
        KernelArg::U32(width(NAME, spec)?),
        KernelArg::F32(eps as f32),
    ];
    // SAFETY: arguments as in the signature of rms_norm_fwd; `infer` made w as wide as a row of x, y like x and
    // rstd one f32 per row, all on this device; the kernel strides over all rows whatever the grid and the program.
    unsafe { gpu.launch(NAME, &program(layout.program), &name, layout.block_per_row(spec), &args) }
}

/// Gives dx and dw, whichever is wanted, from one pass over x and dy.
pub fn backward(gpu: &Gpu, io: &mut Backward) -> Result<()> {
    let (x, w, rstd, dy) = (io.saved(0), io.saved(1), io.saved(2), io.dy());
    let (spec, name) = (x.spec(), entry(NAME, "bwd", x.dtype())?);
    let layout = RowLayout::of(spec);
    let grid = layout.walking(gpu, spec, BLOCKS_PER_MULTIPROCESSOR);
    let mut dx = io.wants(0).then(|| io.alloc(spec)).transpose()?;
    let mut dw = io.wants(1).then(|| io.alloc(w.spec().with_dtype(DType::F32))).transpose()?;
    if spec.elements() > 0 {
        let mut partial = dw.is_some().then(|| io.temp(partial_rows(grid, spec))).transpose()?;
        let args = [
            KernelArg::read(x),
            KernelArg::read(w),
            KernelArg::read(rstd),
            KernelArg::read(dy),
            KernelArg::write_or_null(dx.as_mut()),
            KernelArg::write_or_null(partial.as_mut()),
            KernelArg::I64(spec.rows() as i64),
            KernelArg::U32(width(NAME, spec)?),
        ];
        // SAFETY: arguments as in the signature of rms_norm_bwd; x, w and rstd are what forward saw and made, dy
        // is like x, dx too, and partial has one row per block, all on this device.
        unsafe { gpu.launch(NAME, &program(layout.program), &name, grid, &args) }?;
        if let (Some(dw), Some(partial)) = (&mut dw, &partial) {
            column_sum::gpu::forward(gpu, partial, dw)?;
        }
    } else if let Some(dw) = &mut dw {
        dw.fill_zero()?; // the sum over no rows
    }
    for (i, gradient) in [dx, dw].into_iter().enumerate() {
        if let Some(gradient) = gradient {
            io.give(i, gradient)?;
        }
    }
    Ok(())
}
