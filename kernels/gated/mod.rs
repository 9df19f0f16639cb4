//! Gated activation: `y = f(gate) * up` on packed rows `x = [gate | up]`.
//!
//! Shazeer, *GLU Variants Improve Transformer* (2020): SwiGLU with silu (equation 6, NeMo's fast-swiglu), GEGLU with
//! gelu (fast-geglu), ReGLU with relu (fast-reglu). Gate and up come packed from one matrix product. Backward:
//!
//! ```text
//! dgate = dy * up * f'(gate)        dup = dy * f(gate)        dx = [dgate | dup]
//! ```
//!
//! | | shape | type | kept for backward |
//! |---|---|---|---|
//! | x | [rows.., 2 F] | T | yes |
//! | y | [rows.., F] | T | |
//!
//! Numerics: in `T::Acc`, rounded once. f(gate) is not kept but computed again. Memory: dx takes the place of x if
//! nobody else holds x. Cost: counted as 11 flops per output forward, 14 backward.
//! Errors: the width of x is odd.

mod cpu;
mod gpu;

use crate::activation::Act;
use crate::activation::curve::curve;
use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::op::{Backward, Cost, Forward, Made, Needs, Op, Run, Shapes, Slot, check, float, take};
use crate::{Result, Spec, on_cpu};

/// See the module.
#[derive(Debug, Clone)]
pub struct Gated {
    /// The function of the gate.
    pub act: Act,
}

impl Op for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x] = take(self.name(), ins)?;
        float(self.name(), x)?;
        check(self.name(), x.last().is_multiple_of(2), || {
            format!("{x} is not [gate | up]: its width is odd")
        })?;
        Ok(Shapes::new([x.with_last(x.last() / 2)]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let x = io.input(0);
        let mut y = io.output(0)?;
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::forward(gpu, self.act, x, &mut y)?;
            return Ok(Made::outs([y]));
        }
        let width = y.spec().last();
        on_cpu!(io.device(), self.name(), x.dtype(), T => {
            curve!(self.act, C => cpu::forward::<T, C>(width, x.slice(), y.slice_mut()))
        });
        Ok(Made::outs([y]))
    }

    fn saves(&self, _needs: Needs) -> &'static [Slot] {
        &[Slot::In(0)]
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        let mut x = io.take_saved(0)?;
        let dy = io.dy();
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::backward(gpu, self.act, &mut x, dy)?;
            return io.give(0, x);
        }
        let width = dy.spec().last();
        on_cpu!(io.device(), self.name(), x.dtype(), T => {
            curve!(self.act, C => cpu::backward::<T, C>(width, x.slice_mut(), dy.slice()))
        });
        io.give(0, x)
    }

    fn cost(&self, ins: &[Spec], run: Run) -> Cost {
        let (outputs, bytes) = (ins[0].elements() as u64 / 2, ins[0].bytes() as u64);
        match run {
            Run::Forward => Cost { flops: 11 * outputs, bytes: bytes + bytes / 2 },
            Run::Backward(_) => Cost { flops: 14 * outputs, bytes: 2 * bytes + bytes / 2 },
        }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "gated",
    summary: "y = f(gate) * up on packed [gate | up]: SwiGLU, GEGLU, ReGLU",
    passes: "forward, backward",
    programs: &gpu::PROGRAMS,
    cases: || {
        let case = |name: &str, act, rows: usize, width: usize| {
            Case::check(name, Gated { act }, [Input::no_kink([rows, 2 * width])])
        };
        vec![
            case("swiglu, one row", Act::Silu, 1, 35),
            case("swiglu, 257 rows", Act::Silu, 257, 1),
            case("geglu", Act::GeluErf, 3, 17),
            case("geglu tanh", Act::GeluTanh, 3, 17),
            case("reglu", Act::Relu, 3, 17),
            case("swiglu, whole vectors", Act::Silu, 3, 40),
            case("quick gelu", Act::QuickGelu, 3, 17),
            case("squared relu", Act::SquaredRelu, 3, 17),
            Case::parity("one long row", Gated { act: Act::Silu }, [Input::no_kink([1, 2 * 40_001])]),
            Case::parity("swiglu 700x131", Gated { act: Act::Silu }, [Input::no_kink([700, 2 * 131])]),
            Case::bench("swiglu 2048x11008", Gated { act: Act::Silu }, [Input::normal([2048, 2 * 11008])]),
        ]
    },
};
