//! Elementwise sum: `y = a + b`, where `b` may repeat.
//!
//! `b` has as many elements as `a` (residual connections) or as its last dimensions (a position embedding added to
//! every image, a bias): then element i of `a` meets element i mod |b|.
//! Backward: `da = dy`, handed on without a copy; `db = dy`, or its sum over the repetitions.
//!
//! | | shape | type |
//! |---|---|---|
//! | a | any | T |
//! | b | any, elements dividing those of a | T |
//! | y | as a | T |
//!
//! Numerics: one rounding per element; the sum over repetitions is in `T::Acc`, in a fixed order.

mod cpu;
mod gpu;

use crate::check::{Case, Entry, Input};
use crate::column_sum::{self, column_sum};
use crate::device::Kind;
use crate::op::{Backward, Cost, Forward, Made, Op, Run, Shapes, check, float, take};
use crate::{Buffer, Result, Spec, on_cpu, real};

/// See the module.
#[derive(Debug, Clone)]
pub struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [a, b] = take(self.name(), ins)?;
        float(self.name(), a)?;
        let fits = a.dtype == b.dtype && b.elements() > 0 && a.elements() % b.elements() == 0;
        check(self.name(), fits || a == b, || format!("{b} does not repeat into {a}"))?;
        Ok(Shapes::new([a]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let device = io.device().clone();
        let mut y = io.reuse(0)?;
        let b = io.input(1);
        if let Kind::Gpu(gpu) = device.kind() {
            gpu::forward(gpu, &mut y, b)?;
            return Ok(Made::outs([y]));
        }
        on_cpu!(device, self.name(), y.dtype(), T => cpu::forward::<T>(y.slice_mut(), b.slice()));
        Ok(Made::outs([y]))
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        let (a, b) = (io.spec(0), io.spec(1));
        if io.wants(1) {
            if a.elements() == b.elements() {
                let dy = io.dy().clone();
                io.give(1, dy)?;
            } else {
                let mut db = io.alloc(b.with_dtype(b.dtype.acc()))?;
                column_sum(io.dy(), &mut db)?;
                io.give(1, db)?;
            }
        }
        if io.wants(0) {
            let dy = io.take_dout(0).expect("backward runs with its gradient");
            io.give(0, dy)?;
        }
        Ok(())
    }

    fn cost(&self, ins: &[Spec], run: Run) -> Cost {
        let (a, b) = (ins[0], ins[1]);
        match run {
            Run::Forward => Cost { flops: a.elements() as u64, bytes: (2 * a.bytes() + b.bytes()) as u64 },
            Run::Backward(needs) if needs.has(1) && a.elements() != b.elements() => {
                Cost { flops: a.elements() as u64, bytes: (a.bytes() + b.bytes()) as u64 }
            }
            Run::Backward(_) => Cost::default(),
        }
    }
}

/// Adds `gradient` to `sum`, which may be of the wider type `T::Acc`.
pub fn accumulate(sum: &mut Buffer, gradient: &Buffer) -> Result<()> {
    let device = sum.device().clone();
    assert_eq!(sum.spec().elements(), gradient.spec().elements(), "{gradient:?} onto {sum:?}");
    if let Kind::Gpu(gpu) = device.kind() {
        return gpu::accumulate(gpu, sum, gradient);
    }
    on_cpu!(device, "add", gradient.dtype(), T => {
        if sum.dtype() == gradient.dtype() {
            cpu::forward::<T>(sum.slice_mut(), gradient.slice());
        } else {
            real!(sum.dtype(), S => cpu::accumulate::<S, T>(sum.slice_mut(), gradient.slice()));
        }
    });
    Ok(())
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "add",
    summary: "y = a + b, b may repeat",
    passes: "forward, backward",
    programs: &[gpu::SOURCE, column_sum::gpu::SOURCE],
    cases: || {
        vec![
            Case::check("same shape", Add, [Input::normal([3, 5]), Input::normal([3, 5])]),
            Case::check("repeats per image", Add, [Input::normal([6, 4]), Input::normal([3, 4])]),
            Case::check("one row", Add, [Input::normal([1, 7]), Input::normal([7])]),
            Case::parity("bias of 700 rows", Add, [Input::normal([700, 131]), Input::normal([131])]),
            Case::parity("bias of whole vectors", Add, [Input::normal([700, 136]), Input::normal([136])]),
            Case::parity(
                "several turns of a block",
                Add,
                [Input::normal([600, 481]), Input::normal([600, 481])],
            ),
            Case::parity("several tasks", Add, [Input::normal([700, 131]), Input::normal([700, 131])]),
            Case::bench(
                "residual 2048x4096",
                Add,
                [Input::normal([2048, 4096]), Input::normal([2048, 4096])],
            ),
        ]
    },
};
