//! Elementwise activation function: `y = f(x)`, one of [`Act`].
//!
//! Backward: `dx = dy * f'(x)`, in the place of dy. At the kink of the relus the slope is 0.
//!
//! | | shape | type | kept for backward |
//! |---|---|---|---|
//! | x | any | T | yes |
//! | y | as x | T | |
//!
//! Numerics: f and f' in `T::Acc`, rounded once; in f32 they go through the functions of [`crate::math`].
//! Cost: counted as 10 flops per element (an exponential is 12 instructions); one read and one write.

mod cpu;
pub(crate) mod curve;
mod gpu;

pub use curve::Act;

use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::op::{Backward, Cost, Forward, Made, Needs, Op, Run, Shapes, Slot, float, take};
use crate::{Result, Spec, on_cpu};
use curve::curve;

/// See the module.
#[derive(Debug, Clone)]
pub struct Activation {
    /// The function.
    pub kind: Act,
}

impl Op for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x] = take(self.name(), ins)?;
        float(self.name(), x)?;
        Ok(Shapes::new([x]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let x = io.input(0);
        let mut y = io.output(0)?;
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::forward(gpu, self.kind, x, &mut y)?;
            return Ok(Made::outs([y]));
        }
        on_cpu!(io.device(), self.name(), x.dtype(), T => {
            curve!(self.kind, C => cpu::forward::<T, C>(x.slice(), y.slice_mut()))
        });
        Ok(Made::outs([y]))
    }

    fn saves(&self, _needs: Needs) -> &'static [Slot] {
        &[Slot::In(0)]
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        let mut d = io.reuse_dout(0)?.expect("backward runs with its gradient");
        let x = io.saved(0);
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::backward(gpu, self.kind, x, &mut d)?;
            return io.give(0, d);
        }
        on_cpu!(io.device(), self.name(), x.dtype(), T => {
            curve!(self.kind, C => cpu::backward::<T, C>(x.slice(), d.slice_mut()))
        });
        io.give(0, d)
    }

    fn cost(&self, ins: &[Spec], run: Run) -> Cost {
        let (elements, bytes) = (ins[0].elements() as u64, ins[0].bytes() as u64);
        match run {
            Run::Forward => Cost { flops: 10 * elements, bytes: 2 * bytes },
            Run::Backward(_) => Cost { flops: 10 * elements, bytes: 3 * bytes },
        }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "activation",
    summary: "y = gelu, quick_gelu, relu, squared relu or silu of x",
    passes: "forward, backward",
    programs: &gpu::PROGRAMS,
    cases: || {
        let case = |name: &str, kind| Case::check(name, Activation { kind }, [Input::no_kink([5, 37])]);
        vec![
            case("gelu", Act::GeluErf),
            case("gelu tanh", Act::GeluTanh),
            case("quick gelu", Act::QuickGelu),
            case("squared relu", Act::SquaredRelu),
            case("relu", Act::Relu),
            case("silu", Act::Silu),
            Case::parity("gelu 700x131", Activation { kind: Act::GeluErf }, [Input::no_kink([700, 131])]),
            Case::parity(
                "gelu tanh 700x131",
                Activation { kind: Act::GeluTanh },
                [Input::no_kink([700, 131])],
            ),
            Case::bench("gelu 2048x4096", Activation { kind: Act::GeluErf }, [Input::normal([2048, 4096])]),
            Case::bench(
                "quick gelu 2048x4096",
                Activation { kind: Act::QuickGelu },
                [Input::normal([2048, 4096])],
            ),
        ]
    },
};
