//! Sum of squares: `y = sum over all elements of all tensors of x^2`. The square of the gradients' global norm.
//!
//! | | shape | type |
//! |---|---|---|
//! | x, one or more | any | T, the same for all |
//! | y | `[1]` | T::Acc |
//!
//! Numerics: squares and sums in f64, in blocks of a fixed size that are then added in order, so the result does not
//! depend on the number of threads; rounded once. A GPU squares in f32 and adds up to eight squares before it goes on
//! in f64. Above 1.8e19 the norm's square is infinite in f32.
//! Cost: 2 flops and one read per element; on a GPU two launches, however many tensors there are. No gradient.
//! Errors: tensors of different types, or none.

mod cpu;
mod gpu;

use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::op::{Cost, Forward, Made, Op, Run, Shapes, check, float};
use crate::reduce::GRAIN;
use crate::{DType, Error, Result, Spec, on_cpu};

/// See the module.
#[derive(Debug, Clone)]
pub struct SumSquares;

impl Op for SumSquares {
    fn name(&self) -> &'static str {
        "sum_squares"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let &[x, ..] = ins else { return Err(Error::Arity { op: self.name(), expected: 1, got: 0 }) };
        float(self.name(), x)?;
        if let Some(other) = ins.iter().find(|other| other.dtype != x.dtype) {
            check(self.name(), false, || format!("takes tensors of one type, got {x} and {other}"))?;
        }
        Ok(Shapes::new([Spec::new(x.dtype.acc(), [1])]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let mut y = io.output(0)?;
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::forward(gpu, io, &mut y)?;
            return Ok(Made::outs([y]));
        }
        let tensors: Vec<_> = (0..io.inputs()).map(|i| io.input(i)).collect();
        let blocks = tensors.iter().map(|x| x.spec().elements().div_ceil(GRAIN)).sum();
        let mut partial = io.temp(Spec::new(DType::F64, [blocks]))?;
        on_cpu!(io.device(), self.name(), tensors[0].dtype(), T => {
            let tensors: Vec<&[T]> = tensors.iter().map(|x| x.slice()).collect();
            cpu::forward::<T>(&tensors, partial.slice_mut(), y.slice_mut())
        });
        Ok(Made::outs([y]))
    }

    fn differentiable(&self, _input: usize) -> bool {
        false
    }

    fn cost(&self, ins: &[Spec], _run: Run) -> Cost {
        let sum = |of: fn(&Spec) -> usize| ins.iter().map(of).sum::<usize>() as u64;
        Cost { flops: 2 * sum(Spec::elements), bytes: sum(Spec::bytes) }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "sum_squares",
    summary: "y = sum of x^2 over all elements of some tensors",
    passes: "forward",
    programs: &[gpu::SOURCE],
    cases: || {
        let many = |sizes: &[usize]| sizes.iter().map(|n| Input::normal([*n])).collect::<Vec<_>>();
        vec![
            Case::check("odd length", SumSquares, [Input::normal([3, 67])]),
            Case::check("several tensors", SumSquares, many(&[1, 64, 0, 7, 130])),
            Case::parity("several blocks", SumSquares, [Input::normal([2 * GRAIN + 5])]),
            Case::parity(
                "several tensors of several blocks",
                SumSquares,
                many(&[GRAIN, 3, GRAIN + 1, 0, 4099]),
            ),
            Case::check("empty", SumSquares, [Input::normal([0])]),
            Case::bench("16 M", SumSquares, [Input::normal([1 << 24])]),
            Case::bench("300 of 64 K", SumSquares, many(&[1 << 16; 300])),
        ]
    },
};
