//! Sum of squares on a GPU: launches the kernels of `sum_squares.cu`.

use crate::device::gpu::{Gpu, Grid, KernelArg};
use crate::device::launch::entry;
use crate::device::program::Source;
use crate::device::tensors::Tensors;
use crate::op::Forward;
use crate::{Buffer, DType, Result, Spec};

const NAME: &str = "sum_squares";
/// The program.
pub const SOURCE: Source = Source::new("sum_squares/sum_squares.cu", include_str!("sum_squares.cu"));

/// `y` = the sum of squares over all inputs.
pub fn forward(gpu: &Gpu, io: &Forward, y: &mut Buffer) -> Result<()> {
    let name = entry(NAME, "fwd", io.input(0).dtype())?;
    let mut tensors = Tensors::new();
    for x in (0..io.inputs()).map(|i| io.input(i)) {
        tensors.push(x.spec().elements(), [KernelArg::read(x)]);
    }
    if tensors.chunks() == 0 {
        return y.fill_zero();
    }
    let mut partial = io.temp(Spec::new(DType::F64, [tensors.chunks()]))?;
    let (_table, [table, length], grid) = tensors.upload(NAME, io.device())?;
    let args = [table, length, KernelArg::write(&mut partial)];
    // SAFETY: arguments as in the signature of sum_squares_fwd; the table has a record per tensor that is not empty,
    // with the address of as many elements as it says, of the entry's type (`infer` checked), on this device; the
    // grid has a block per chunk and partial an element.
    unsafe { gpu.launch(NAME, &SOURCE, &name, grid, &args) }?;

    let args = [KernelArg::read(&partial), KernelArg::write(y), KernelArg::U32(tensors.chunks() as u32)];
    let grid = Grid::linear(1, grid.threads);
    // SAFETY: arguments as in the signature of sum_squares_fwd_total: partial has `chunks` elements and y one.
    unsafe { gpu.launch(NAME, &SOURCE, "sum_squares_fwd_total_f32", grid, &args) }
}
