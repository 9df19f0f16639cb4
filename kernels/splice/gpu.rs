//! Splice on a GPU: launches the kernels of `splice.cu`.

use crate::device::gpu::{Gpu, KernelArg};
use crate::device::launch::{entry, over_copied_rows, width};
use crate::device::program::Source;
use crate::op::Backward;
use crate::{Buffer, Result};

const NAME: &str = "splice";
/// The program of all its kernels.
pub const SOURCE: Source = Source::new("splice/splice.cu", include_str!("splice.cu"));

/// `y[rows[f]] = features[f]`.
pub fn forward(gpu: &Gpu, features: &Buffer, rows: &Buffer, y: &mut Buffer) -> Result<()> {
    let (spec, name) = (features.spec(), entry(NAME, "fwd", y.dtype())?);
    if spec.elements() == 0 {
        return Ok(());
    }
    let tokens = y.dims()[0] as u64;
    let args = [
        KernelArg::read(features),
        KernelArg::read(rows),
        KernelArg::write(y),
        KernelArg::I64(spec.rows() as i64),
        KernelArg::U64(tokens),
        KernelArg::U32(width(NAME, spec)?),
    ];
    let grid = over_copied_rows(spec, spec.last());
    // SAFETY: arguments as in the signature of splice_fwd; `infer` made rows one u32 per feature, and features as wide
    // as y, all on this device; the kernel strides over all features whatever the grid, and compares each row with
    // the number of y's.
    unsafe { gpu.launch(NAME, &SOURCE, &name, grid, &args) }
}

/// Gives dx and dfeatures, whichever is wanted, from one reading of the replaced rows.
pub fn backward(gpu: &Gpu, io: &mut Backward) -> Result<()> {
    let (x, spec) = (io.spec(0), io.spec(1));
    let name = entry(NAME, "bwd", x.dtype)?;
    let mut dfeatures = io.wants(1).then(|| io.alloc(spec)).transpose()?;
    let mut dx = if io.wants(0) { io.reuse_dout(0)? } else { None };
    if spec.elements() > 0 {
        let dy = KernelArg::read(dx.as_ref().unwrap_or_else(|| io.dy()));
        let args = [
            dy,
            KernelArg::read(io.saved(0)),
            KernelArg::write_or_null(dx.as_mut()),
            KernelArg::write_or_null(dfeatures.as_mut()),
            KernelArg::I64(spec.rows() as i64),
            KernelArg::U64(x.rows() as u64),
            KernelArg::U32(width(NAME, spec)?),
        ];
        let grid = over_copied_rows(spec, spec.last());
        // SAFETY: arguments as in the signature of splice_bwd; dy is like x, and dx is null or dy, held here alone;
        // rows has one u32 per feature and dfeatures, if wanted, a row as wide as x, all on this device; the kernel
        // strides over all features whatever the grid, and compares each row with the number of x's.
        unsafe { gpu.launch(NAME, &SOURCE, &name, grid, &args) }?;
    }
    for (i, gradient) in [dx, dfeatures].into_iter().enumerate() {
        if let Some(gradient) = gradient {
            io.give(i, gradient)?;
        }
    }
    Ok(())
}
