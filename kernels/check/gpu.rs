//! Launches the kernels of the conformance suite.

use super::conformance::Launch;
use crate::device::gpu::{Gpu, KernelArg};
use crate::{Buffer, Result};

/// Runs one of them: a map if it takes one, its operands, its results if it leaves any.
pub(super) fn launch(gpu: &Gpu, what: &Launch, input: &Buffer, output: Option<&mut Buffer>) -> Result<()> {
    let mut args = vec![];
    args.extend(what.map.map(KernelArg::TensorMap));
    args.push(KernelArg::read(input));
    args.extend(output.map(KernelArg::write));
    // SAFETY: every kernel of the suite takes these arguments in this order; the functions beside each give it the
    // operands and the room that its signature names, and the grid these are for.
    unsafe { gpu.launch("conformance", what.source, what.entry, what.grid, &args) }
}
