//! Products with a constant on a GPU: launches the kernels of `scale.cu`.

use crate::device::gpu::{Gpu, KernelArg};
use crate::device::launch::{entry, over_elements};
use crate::device::program::Source;
use crate::{Buffer, Result};

const NAME: &str = "scale";
pub(super) const SOURCE: Source = Source::new("scale/scale.cu", include_str!("scale.cu"));

/// `x *= factor`.
pub fn scale(gpu: &Gpu, x: &mut Buffer, factor: f64) -> Result<()> {
    let (spec, name) = (x.spec(), entry(NAME, "fwd", x.dtype())?);
    if spec.elements() == 0 {
        return Ok(());
    }
    let args = [KernelArg::write(x), KernelArg::I64(spec.elements() as i64), KernelArg::F32(factor as f32)];
    let grid = over_elements(gpu, spec.elements(), spec.dtype);
    // SAFETY: arguments as in the signature of scale_fwd; x is on this device and nobody else's; the kernel strides
    // over its elements whatever the grid.
    unsafe { gpu.launch(NAME, &SOURCE, &name, grid, &args) }
}
