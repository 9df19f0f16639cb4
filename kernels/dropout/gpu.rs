//! Dropout on a GPU: launches the kernels of `dropout.cu`.

use super::Dropout;
use crate::device::gpu::{Gpu, KernelArg};
use crate::device::launch::{entry, over_rows, width};
use crate::device::program::Source;
use crate::{Buffer, Result};

const NAME: &str = "dropout";
pub(super) const SOURCE: Source = Source::new("dropout/dropout.cu", include_str!("dropout.cu"));

/// Vectors of a row that a thread takes at once.
const COLUMNS: usize = 2;

/// `x *= keep / (1 - p)` in place, where `keep` is 0 or 1: 0 if the element's random word is below `threshold`.
pub fn apply(gpu: &Gpu, op: &Dropout, threshold: u32, x: &mut Buffer, keys: &Buffer) -> Result<()> {
    let (spec, name) = (x.spec(), entry(NAME, "fwd", x.dtype())?);
    if spec.elements() == 0 {
        return Ok(());
    }
    let args = [
        KernelArg::write(x),
        KernelArg::read(keys),
        KernelArg::I64(spec.rows() as i64),
        KernelArg::U32(width(NAME, spec)?),
        KernelArg::U32(threshold),
        KernelArg::F32((1.0 / (1.0 - op.p)) as f32),
        KernelArg::U64(op.seed),
    ];
    // SAFETY: arguments as in the signature of dropout_fwd; `infer` made keys one u32 per row of x, both on this device,
    // and x is nobody else's; the kernel strides over all rows and columns whatever the grid.
    unsafe { gpu.launch(NAME, &SOURCE, &name, over_rows(gpu, spec, COLUMNS, 1), &args) }
}
