//! Layer normalisation: `y = xhat * w + b`, `xhat = (x - mean) * rstd`, `rstd = 1 / sqrt(var + eps)` over each row.
//!
//! Ba, Kiros and Hinton, *Layer Normalization* (2016), section 3. With `one_plus` it is NeMo's layernorm1p: the
//! stored weight w means 1 + w, so that weight decay pulls the scale to 1. With g = dy * w (or dy * (1 + w)), per row
//! of width H:
//!
//! ```text
//! dx = rstd * (g - mean(g) - xhat * mean(g * xhat))     dw = sum over rows of dy * xhat     db = sum over rows of dy
//! ```
//!
//! | | shape | type | kept for backward |
//! |---|---|---|---|
//! | x | [rows.., H] | T | yes |
//! | w | `[H]` | T | yes |
//! | b | `[H]` | T | |
//! | y | as x | T | |
//! | mean, rstd | `[rows]` | T::Acc | yes |
//!
//! Numerics: all in `T::Acc`, 1 + w too; the variance is that of the centred row (two passes), divided by H; eps is
//! added to it, inside the root; y is rounded once. Cost: 8 flops per element and one read and one write of x forward.
//! Errors: w or b is not as wide as a row of x; types differ.

mod cpu;
mod gpu;

use crate::check::{Case, Entry, Input};
use crate::column_sum::column_sum;
use crate::device::Kind;
use crate::dtype::Float;
use crate::op::{Backward, Cost, Forward, Made, Needs, Op, Run, Shapes, Slot, check, float, take};
use crate::reduce::partial_sums;
use crate::{Result, Spec, on_cpu};

/// See the module.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f64,
    /// Whether the weight means 1 + w.
    pub one_plus: bool,
}

impl LayerNorm {
    /// What is added to the stored weight.
    fn offset<A: Float>(&self) -> A {
        if self.one_plus { A::ONE } else { A::ZERO }
    }
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x, w, b] = take(self.name(), ins)?;
        float(self.name(), x)?;
        for (what, v) in [("weight", w), ("bias", b)] {
            let fits = v.dims() == [x.last()] && v.dtype == x.dtype;
            check(self.name(), fits, || format!("{what} {v} does not match x {x}"))?;
        }
        let per_row = Spec::new(x.dtype.acc(), [x.rows()]);
        Ok(Shapes::new([x]).stat(per_row).stat(per_row))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let (x, w, b) = (io.input(0), io.input(1), io.input(2));
        let mut y = io.output(0)?;
        let (mut mean, mut rstd) = (io.stat(0)?, io.stat(1)?);
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::forward(gpu, self, [x, w, b], &mut y, mean.as_mut(), rstd.as_mut())?;
            return Ok(Made::with_stats([y], [mean, rstd]));
        }
        on_cpu!(io.device(), self.name(), x.dtype(), T => {
            let stats = mean.as_mut().zip(rstd.as_mut()).map(|(m, r)| (m.slice_mut(), r.slice_mut()));
            let scale = (w.slice(), self.offset(), b.slice());
            cpu::forward::<T>(x.slice(), scale, self.eps, y.slice_mut(), stats)
        });
        Ok(Made::with_stats([y], [mean, rstd]))
    }

    fn saves(&self, _needs: Needs) -> &'static [Slot] {
        &[Slot::In(0), Slot::In(1), Slot::Stat(0), Slot::Stat(1)]
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        if let Kind::Gpu(gpu) = io.device().clone().kind() {
            return gpu::backward(gpu, self, io);
        }
        if io.wants(0) {
            let (x, w, mean, rstd, dy) = (io.saved(0), io.saved(1), io.saved(2), io.saved(3), io.dy());
            let mut dx = io.alloc(x.spec())?;
            on_cpu!(io.device(), self.name(), x.dtype(), T => {
                let (scale, stats) = ((w.slice(), self.offset()), (mean.slice(), rstd.slice()));
                cpu::backward_x::<T>(x.slice(), scale, stats, dy.slice(), dx.slice_mut())
            });
            io.give(0, dx)?;
        }
        if io.wants(1) {
            let (x, mean, rstd, dy) = (io.saved(0), io.saved(2), io.saved(3), io.dy());
            let mut dw = io.alloc(io.spec(1).with_dtype(x.dtype().acc()))?;
            let mut partial = io.temp(partial_sums(x.spec()))?;
            on_cpu!(io.device(), self.name(), x.dtype(), T => {
                let stats = (mean.slice(), rstd.slice());
                cpu::backward_w::<T>(x.slice(), stats, dy.slice(), partial.slice_mut(), dw.slice_mut())
            });
            io.give(1, dw)?;
        }
        if io.wants(2) {
            let mut db = io.alloc(io.spec(2).with_dtype(io.dy().dtype().acc()))?;
            column_sum(io.dy(), &mut db)?;
            io.give(2, db)?;
        }
        Ok(())
    }

    fn cost(&self, ins: &[Spec], run: Run) -> Cost {
        let (elements, bytes) = (ins[0].elements() as u64, ins[0].bytes() as u64);
        match run {
            Run::Forward => Cost { flops: 8 * elements, bytes: 2 * bytes },
            Run::Backward(_) => Cost { flops: 14 * elements, bytes: 3 * bytes },
        }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "layer_norm",
    summary: "y = (x - mean) / std * w + b per row; w may mean 1 + w",
    passes: "forward, backward",
    programs: &gpu::PROGRAMS,
    cases: || {
        let op = |one_plus| LayerNorm { eps: 1e-5, one_plus };
        let ins = |rows: usize, width: usize| {
            [Input::normal([rows, width]), Input::normal([width]), Input::normal([width])]
        };
        vec![
            Case::check("one row", op(false), ins(1, 8)),
            Case::check("257 rows", op(false), ins(257, 3)),
            Case::check("odd width", op(false), ins(5, 67)),
            Case::check("one plus", op(true), ins(4, 33)),
            Case::parity("700x131", op(true), ins(700, 131)),
            Case::parity("whole vectors", op(false), ins(19, 640)),
            Case::parity("several vectors per thread", op(false), ins(19, 2560)),
            Case::parity("wider than the registers, vectors", op(false), ins(9, 8192 + 512)),
            Case::parity("wider than the registers, odd", op(true), ins(9, 4099)),
            Case::bench("18464x1024", op(false), ins(32 * 577, 1024)),
            Case::bench("one plus 4096x2048", op(true), ins(4096, 2048)),
        ]
    },
};
