//! Product with a constant: `y = x * factor`, in the place of x.
//!
//! Backward: `dx = dy * factor`, in the place of dy. Nothing is kept.
//!
//! | | shape | type |
//! |---|---|---|
//! | x | any | T |
//! | y | as x | T |
//!
//! Numerics: the factor is rounded to `T::Acc`, the product to T. Cost: one flop per element, one read, one write.

mod cpu;
mod gpu;

use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::op::{Backward, Cost, Forward, Made, Op, Run, Shapes, float, take};
use crate::{Buffer, Result, Spec, on_cpu};

/// See the module.
#[derive(Debug, Clone)]
pub struct Scale {
    /// What to multiply by.
    pub factor: f64,
}

impl Scale {
    fn apply(&self, x: &mut Buffer) -> Result<()> {
        let device = x.device().clone();
        if let Kind::Gpu(gpu) = device.kind() {
            return gpu::scale(gpu, x, self.factor);
        }
        on_cpu!(device, self.name(), x.dtype(), T => cpu::scale::<T>(x.slice_mut(), self.factor));
        Ok(())
    }
}

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x] = take(self.name(), ins)?;
        float(self.name(), x)?;
        Ok(Shapes::new([x]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let mut y = io.reuse(0)?;
        self.apply(&mut y)?;
        Ok(Made::outs([y]))
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        let mut d = io.reuse_dout(0)?.expect("backward runs with its gradient");
        self.apply(&mut d)?;
        io.give(0, d)
    }

    fn cost(&self, ins: &[Spec], _run: Run) -> Cost {
        Cost { flops: ins[0].elements() as u64, bytes: 2 * ins[0].bytes() as u64 }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "scale",
    summary: "y = x * constant",
    passes: "forward, backward",
    programs: &[gpu::SOURCE],
    cases: || {
        vec![
            Case::check("by 0.3", Scale { factor: 0.3 }, [Input::normal([3, 7])]),
            Case::parity("700x131", Scale { factor: 0.3 }, [Input::normal([700, 131])]),
            Case::bench("2048x4096", Scale { factor: 0.5 }, [Input::normal([2048, 4096])]),
        ]
    },
};
