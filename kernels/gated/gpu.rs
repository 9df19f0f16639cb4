//! Gated activation on a GPU: launches the kernels of `gated.cu`.

use crate::activation::Act;
use crate::device::gpu::{Gpu, KernelArg};
use crate::device::launch::{entry, over_rows, width};
use crate::device::program::Source;
use crate::{Buffer, Result};

const NAME: &str = "gated";

/// Vectors of each half that a thread takes at once.
const COLUMNS: usize = 2;

/// The kernels of one activation function.
const fn source(act: Act) -> Source {
    Source { defines: act.defines(), ..Source::new("gated/gated.cu", include_str!("gated.cu")) }
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

/// `y = f(gate) * up`.
pub fn forward(gpu: &Gpu, act: Act, x: &Buffer, y: &mut Buffer) -> Result<()> {
    let (spec, name) = (y.spec(), entry(NAME, "fwd", x.dtype())?);
    if spec.elements() == 0 {
        return Ok(());
    }
    let args = [
        KernelArg::read(x),
        KernelArg::write(y),
        KernelArg::I64(spec.rows() as i64),
        KernelArg::U32(width(NAME, spec)?),
    ];
    // SAFETY: arguments as in the signature of gated_fwd; `infer` made y half as wide as x, both on this device; the
    // kernel strides over all rows and columns whatever the grid.
    unsafe { gpu.launch(NAME, &source(act), &name, over_rows(gpu, spec, COLUMNS, 1), &args) }
}

/// `[gate | up] = [dy * up * f'(gate) | dy * f(gate)]`.
pub fn backward(gpu: &Gpu, act: Act, x: &mut Buffer, dy: &Buffer) -> Result<()> {
    let (spec, name) = (dy.spec(), entry(NAME, "bwd", x.dtype())?);
    if spec.elements() == 0 {
        return Ok(());
    }
    let args = [
        KernelArg::write(x),
        KernelArg::read(dy),
        KernelArg::I64(spec.rows() as i64),
        KernelArg::U32(width(NAME, spec)?),
    ];
    // SAFETY: arguments as in the signature of gated_bwd; x is what forward saw and nobody else's, dy is like y, half
    // as wide, both on this device; the kernel strides over all rows and columns whatever the grid.
    unsafe { gpu.launch(NAME, &source(act), &name, over_rows(gpu, spec, COLUMNS, 1), &args) }
}
