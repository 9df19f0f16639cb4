//! Conversion on a GPU: launches the kernels of `cast.cu`.

use crate::device::gpu::{Gpu, KernelArg};
use crate::device::launch::{entry, over_elements};
use crate::device::program::Source;
use crate::{Buffer, DType, Error, Result};

const NAME: &str = "cast";
pub(super) const SOURCE: Source = Source::new("cast/cast.cu", include_str!("cast.cu"));

/// `y = x`, of the other of the types f32 and bf16, rounded once.
pub fn cast(gpu: &Gpu, x: &Buffer, y: &mut Buffer) -> Result<()> {
    let (spec, part) = (x.spec(), format!("fwd_to_{}", y.dtype()));
    let name = entry(NAME, &part, x.dtype())?;
    if !matches!(y.dtype(), DType::F32 | DType::Bf16) {
        return Err(Error::DType { op: NAME, expected: "f32 or bf16 on a GPU", got: y.dtype() });
    }
    assert_ne!(x.dtype(), y.dtype(), "a cast to the same type is a copy");
    if spec.elements() == 0 {
        return Ok(());
    }
    let args = [KernelArg::read(x), KernelArg::write(y), KernelArg::I64(spec.elements() as i64)];
    let grid = over_elements(gpu, spec.elements(), DType::F32);
    // SAFETY: arguments as in the signature of the entry, whose types are those of x and y; y has as many elements as
    // x, both on this device; the kernel strides over them whatever the grid.
    unsafe { gpu.launch(NAME, &SOURCE, &name, grid, &args) }
}
