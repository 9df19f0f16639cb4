//! Residual sum and RMSNorm on a GPU: launches the kernels of `add_rms_norm.cu`.

use crate::column_sum;
use crate::device::gpu::{Gpu, KernelArg};
use crate::device::launch::{KEPT, RowLayout, entry, partial_rows, width};
use crate::device::program::Source;
use crate::op::Backward;
use crate::{Buffer, DType, Result};

const NAME: &str = "add_rms_norm";
/// The programs for rows of up to 256, 512 and more vectors, and the one that sums what backward's blocks leave.
pub(super) const PROGRAMS: [Source; 4] = [program(0), program(1), program(2), column_sum::gpu::SOURCE];

const fn program(i: usize) -> Source {
    Source {
        defines: KEPT[i],
        ..Source::new("add_rms_norm/add_rms_norm.cu", include_str!("add_rms_norm.cu"))
    }
}

/// How many of backward's blocks of 256 threads a multiprocessor's registers allow at once, per program.
const BLOCKS_PER_MULTIPROCESSOR: [usize; 3] = [4, 3, 2];

/// `r = r + residual`, rounded, and `y = r * rstd * w`; `r` holds x before. Writes rstd if asked.
pub fn forward(
    gpu: &Gpu,
    r: &mut Buffer,
    residual: &Buffer,
    w: &Buffer,
    eps: f64,
    y: &mut Buffer,
    rstd: Option<&mut Buffer>,
) -> Result<()> {
    let (spec, name) = (r.spec(), entry(NAME, "fwd", r.dtype())?);
    let layout = RowLayout::of(spec);
    if spec.elements() == 0 {
        return Ok(());
    }
    let args = [
        KernelArg::write(r),
        KernelArg::read(residual),
        KernelArg::read(w),
        KernelArg::write(y),
        KernelArg::write_or_null(rstd),
        KernelArg::I64(spec.rows() as i64),
        KernelArg::U32(width(NAME, spec)?),
        KernelArg::F32(eps as f32),
    ];
    // SAFETY: arguments as in the signature of add_rms_norm_fwd; `infer` made residual and y like r, w as wide as a row
    // and rstd one f32 per row, all on this device, and r is nobody else's; the kernel strides over all rows whatever
    // the grid and the program.
    unsafe { gpu.launch(NAME, &program(layout.program), &name, layout.block_per_row(spec), &args) }
}

/// Gives dx, dresidual and dw, whichever are wanted, from one pass over r, dy and dr.
pub fn backward(gpu: &Gpu, io: &mut Backward) -> Result<()> {
    let wants_sum = io.wants(0) || io.wants(1);
    let dr = if wants_sum { io.reuse_dout(1)? } else { None };
    let (r, w, rstd) = (io.saved(0), io.saved(1), io.saved(2));
    let (spec, name) = (r.spec(), entry(NAME, "bwd", r.dtype())?);
    let layout = RowLayout::of(spec);
    let mut dw = io.wants(2).then(|| io.alloc(w.spec().with_dtype(DType::F32))).transpose()?;
    let sum = match io.dout(0).filter(|_| spec.elements() > 0) {
        // y has no gradient, or no elements: that of r goes through, and w has none.
        None => {
            if let Some(dw) = &mut dw {
                dw.fill_zero()?;
            }
            match dr {
                None if wants_sum => Some(io.alloc(spec)?),
                dr => dr,
            }
        }
        Some(dy) => {
            let grid = layout.walking(gpu, spec, BLOCKS_PER_MULTIPROCESSOR);
            let mut partial = dw.is_some().then(|| io.temp(partial_rows(grid, spec))).transpose()?;
            let dr_ptr = dr.as_ref().map_or(KernelArg::Ptr(0), KernelArg::read);
            let mut sum = match dr {
                None if wants_sum => Some(io.alloc(spec)?),
                dr => dr, // rewritten in place
            };
            let args = [
                KernelArg::read(r),
                KernelArg::read(w),
                KernelArg::read(rstd),
                KernelArg::read(dy),
                dr_ptr,
                KernelArg::write_or_null(sum.as_mut()),
                KernelArg::write_or_null(partial.as_mut()),
                KernelArg::I64(spec.rows() as i64),
                KernelArg::U32(width(NAME, spec)?),
            ];
            // SAFETY: arguments as in the signature of add_rms_norm_bwd; r, w and rstd are what forward saw and made;
            // dy, dr and the sum, which is dr if there is one, are like r, and partial has one row per block, all on
            // this device; the sum is nobody else's.
            unsafe { gpu.launch(NAME, &program(layout.program), &name, grid, &args) }?;
            if let (Some(dw), Some(partial)) = (&mut dw, &partial) {
                column_sum::gpu::forward(gpu, partial, dw)?;
            }
            sum
        }
    };
    if let Some(sum) = sum {
        for i in [0, 1] {
            if io.wants(i) {
                io.give(i, sum.clone())?;
            }
        }
    }
    dw.map_or(Ok(()), |dw| io.give(2, dw))
}
