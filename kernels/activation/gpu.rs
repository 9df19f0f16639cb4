//! Activation functions on a GPU: launches the kernels of `activation.cu`.

use super::Act;
use crate::device::gpu::{Gpu, KernelArg};
use crate::device::launch::{entry, over_elements};
use crate::device::program::Source;
use crate::{Buffer, Result};

const NAME: &str = "activation";

/// The kernels of one function.
const fn source(act: Act) -> Source {
    Source {
        defines: act.defines(),
        ..Source::new("activation/activation.cu", include_str!("activation.cu"))
    }
}

/// Those of every function.
pub(super) const PROGRAMS: [Source; 6] = [
    source(Act::GeluErf),
    source(Act::GeluTanh),
    source(Act::QuickGelu),
    source(Act::SquaredRelu),
    source(Act::Relu),
    source(Act::Silu),
];

/// `y = f(x)`.
pub fn forward(gpu: &Gpu, act: Act, x: &Buffer, y: &mut Buffer) -> Result<()> {
    let (spec, name) = (x.spec(), entry(NAME, "fwd", x.dtype())?);
    if spec.elements() == 0 {
        return Ok(());
    }
    let args = [KernelArg::read(x), KernelArg::write(y), KernelArg::I64(spec.elements() as i64)];
    let grid = over_elements(gpu, spec.elements(), spec.dtype);
    // SAFETY: arguments as in the signature of activation_fwd; `infer` made y like x, both on this device; the kernel
    // strides over the elements whatever the grid.
    unsafe { gpu.launch(NAME, &source(act), &name, grid, &args) }
}

/// `d = d * f'(x)`.
pub fn backward(gpu: &Gpu, act: Act, x: &Buffer, d: &mut Buffer) -> Result<()> {
    let (spec, name) = (x.spec(), entry(NAME, "bwd", x.dtype())?);
    if spec.elements() == 0 {
        return Ok(());
    }
    let args = [KernelArg::read(x), KernelArg::write(d), KernelArg::I64(spec.elements() as i64)];
    let grid = over_elements(gpu, spec.elements(), spec.dtype);
    // SAFETY: arguments as in the signature of activation_bwd; x is what forward saw and d like it, both on this device,
    // d nobody else's; the kernel strides over the elements whatever the grid.
    unsafe { gpu.launch(NAME, &source(act), &name, grid, &args) }
}
