//! Sum over rows: `y[j] = sum over i of x[i][j]`. Also the gradient of anything that repeats over rows, as a bias does.
//!
//! Backward: `dx[i][j] = dy[j]`.
//!
//! | | shape | type |
//! |---|---|---|
//! | x | [rows.., N] | T |
//! | y | `[N]` | T::Acc |
//!
//! Numerics: in `T::Acc`; rows are added in order within blocks of a fixed number of rows, then the blocks in order,
//! so the result does not depend on the number of threads. Cost: one add and one read per element.

mod cpu;
pub(crate) mod gpu;

use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::op::{Backward, Cost, Forward, Made, Op, Run, Shapes, float, take};
use crate::reduce::partial_sums;
use crate::{Buffer, Result, Role, Spec, on_cpu};

/// See the module.
#[derive(Debug, Clone)]
pub struct ColumnSum;

impl Op for ColumnSum {
    fn name(&self) -> &'static str {
        "column_sum"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x] = take(self.name(), ins)?;
        float(self.name(), x)?;
        Ok(Shapes::new([Spec::new(x.dtype.acc(), [x.last()])]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let mut y = io.output(0)?;
        column_sum(io.input(0), &mut y)?;
        Ok(Made::outs([y]))
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        let x = io.spec(0);
        let mut dx = io.alloc(x)?;
        let dy = io.dy();
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::broadcast(gpu, dy, &mut dx)?;
            return io.give(0, dx);
        }
        on_cpu!(io.device(), self.name(), x.dtype, T => cpu::broadcast::<T>(dy.slice(), dx.slice_mut()));
        io.give(0, dx)
    }

    fn cost(&self, ins: &[Spec], run: Run) -> Cost {
        let x = ins[0];
        let flops = if run == Run::Forward { x.elements() as u64 } else { 0 };
        Cost { flops, bytes: (x.bytes() + x.last() * x.dtype.acc().size()) as u64 }
    }
}

/// Overwrites `y`, N elements of type `T::Acc`, by the sum over the rows of `x`, which are N wide.
pub fn column_sum(x: &Buffer, y: &mut Buffer) -> Result<()> {
    let width = y.spec().elements();
    let rows = x.spec().elements() / width.max(1);
    assert_eq!(x.spec().elements(), rows * width, "{x:?} has whole rows as wide as {y:?}");
    if let Kind::Gpu(gpu) = x.device().kind() {
        return gpu::forward(gpu, x, y);
    }
    let mut partial = x.device().alloc(partial_sums(x.spec().with_dims([rows, width])), Role::Workspace)?;
    on_cpu!(x.device(), "column_sum", x.dtype(), T => {
        cpu::forward::<T>(x.slice(), partial.slice_mut(), y.slice_mut())
    });
    Ok(())
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "column_sum",
    summary: "y = sum over the rows of x",
    passes: "forward, backward",
    programs: &[gpu::SOURCE],
    cases: || {
        let case = |name: &str, rows: usize, width: usize| {
            Case::check(name, ColumnSum, [Input::normal([rows, width])])
        };
        vec![
            case("one row", 1, 5),
            case("several blocks", 577, 3),
            case("odd width", 3, 67),
            case("no row", 0, 4),
            Case::parity("whole vectors, several chunks", ColumnSum, [Input::normal([1300, 72])]),
            Case::parity("1000x301", ColumnSum, [Input::normal([1000, 301])]),
            // The grid counts in vectors, of which there are four times as many here: a block has several tiles.
            Case::parity("off a boundary", ColumnSum, [Input::normal([40, 392])]).off_boundary(),
            Case::bench("2048x4096", ColumnSum, [Input::normal([2048, 4096])]),
        ]
    },
};
