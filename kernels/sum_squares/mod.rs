//! Sum of squares: `y = sum over i of x[i]^2`. The square of a gradient's norm, for clipping by the global norm.
//!
//! | | shape | type |
//! |---|---|---|
//! | x | any | T |
//! | y | `[1]` | T::Acc |
//!
//! Numerics: squares and sums in f64, in blocks of a fixed size that are then added in order, so the result does not
//! depend on the number of threads; rounded once. Above 1.8e19 the norm's square is infinite in f32.
//! Cost: 2 flops and one read per element. No gradient.

mod cpu;

use crate::check::{Case, Entry, Input};
use crate::op::{Cost, Forward, Made, Op, Run, Shapes, float, take};
use crate::reduce::GRAIN;
use crate::{DType, Result, Spec, on_cpu};

/// See the module.
#[derive(Debug, Clone)]
pub struct SumSquares;

impl Op for SumSquares {
    fn name(&self) -> &'static str {
        "sum_squares"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x] = take(self.name(), ins)?;
        float(self.name(), x)?;
        Ok(Shapes::new([Spec::new(x.dtype.acc(), [1])]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let x = io.input(0);
        let mut y = io.output(0)?;
        let mut partial = io.temp(Spec::new(DType::F64, [x.spec().elements().div_ceil(GRAIN)]))?;
        on_cpu!(io.device(), self.name(), x.dtype(), T => {
            cpu::forward::<T>(x.slice(), partial.slice_mut(), y.slice_mut())
        });
        Ok(Made::outs([y]))
    }

    fn differentiable(&self, _input: usize) -> bool {
        false
    }

    fn cost(&self, ins: &[Spec], _run: Run) -> Cost {
        Cost { flops: 2 * ins[0].elements() as u64, bytes: ins[0].bytes() as u64 }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "sum_squares",
    summary: "y = sum of x^2 over all elements",
    passes: "forward",
    programs: &[],
    cases: || {
        vec![
            Case::check("odd length", SumSquares, [Input::normal([3, 67])]),
            Case::parity("several blocks", SumSquares, [Input::normal([2 * GRAIN + 5])]),
            Case::check("empty", SumSquares, [Input::normal([0])]),
            Case::bench("16 M", SumSquares, [Input::normal([1 << 24])]),
        ]
    },
};
