//! AdamW on a GPU: launches the kernel of `adamw.cu`.

use super::{AdamW, SHARED};
use crate::device::gpu::{Gpu, KernelArg};
use crate::device::launch::entry;
use crate::device::program::Source;
use crate::device::tensors::Tensors;
use crate::op::Forward;
use crate::{Buffer, Result};

const NAME: &str = "adamw";
/// The program.
pub const SOURCE: Source = Source::new("adamw/adamw.cu", include_str!("adamw.cu"));

/// One step over all tensors. `outs` are the op's outputs, which hold their old values; the other inputs are in `io`.
pub fn update(gpu: &Gpu, op: &AdamW, io: &Forward, outs: &mut [Buffer]) -> Result<()> {
    let name = entry(NAME, "fwd", outs[op.outputs() - 1].dtype())?;
    let mut tensors = Tensors::new();
    for (t, tensor) in outs.chunks_mut(op.outputs()).enumerate() {
        let grad = io.input(SHARED + t * op.inputs() + 1);
        let [master, m, v, weight @ ..] = tensor else { unreachable!("chunks of three or four") };
        let args = [
            KernelArg::write(master),
            KernelArg::read(grad),
            KernelArg::write(m),
            KernelArg::write(v),
            KernelArg::write_or_null(weight.first_mut()),
        ];
        tensors.push(grad.spec().elements(), args);
    }
    if tensors.chunks() == 0 {
        return Ok(());
    }
    let (_table, [table, length], grid) = tensors.upload(NAME, io.device())?;
    let args = [
        table,
        length,
        KernelArg::read(io.input(0)),
        KernelArg::read(io.input(1)),
        KernelArg::F32(op.beta1 as f32),
        KernelArg::F32(op.beta2 as f32),
        KernelArg::F32((1.0 - op.beta1) as f32),
        KernelArg::F32((1.0 - op.beta2) as f32),
        KernelArg::F32(op.eps as f32),
        KernelArg::F32(op.weight_decay as f32),
        KernelArg::F32(op.clip as f32),
    ];
    // SAFETY: arguments as in the signature of adamw_fwd; the table has a record per tensor that is not empty, with the
    // addresses of as many elements as it says: `infer` made the five alike, f32 but for the weight, which is of the
    // entry's type or null; hyper has three elements and squares one; all lie on this device, those written held here
    // alone; the grid has a block per chunk.
    unsafe { gpu.launch(NAME, &SOURCE, &name, grid, &args) }
}
