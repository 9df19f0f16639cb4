//! Root mean square normalisation: `y = x * rstd * w`, `rstd = 1 / sqrt(mean(x^2) + eps)` over each row.
//!
//! Zhang and Sennrich, *Root Mean Square Layer Normalization* (2019), equation 4. With xhat = x * rstd and
//! g = dy * w, per row of width H:
//!
//! ```text
//! dx = rstd * (g - xhat * mean(g * xhat))        dw = sum over rows of dy * xhat
//! ```
//!
//! | | shape | type | kept for backward |
//! |---|---|---|---|
//! | x | [rows.., H] | T | yes |
//! | w | `[H]` | T | yes |
//! | y | as x | T | |
//! | rstd | `[rows]` | T::Acc | yes |
//!
//! Numerics: the row is squared, summed and scaled in `T::Acc`; eps is added to the mean, inside the root; y is
//! rounded once, after the weight. Cost: 4 flops per element and one read and one write of x forward.
//! Errors: w is not as wide as a row of x; types differ.

pub(crate) mod cpu;
mod gpu;

use crate::check::{Case, CaseKind, Entry, Input};
use crate::device::Kind;
use crate::op::{Backward, Cost, Forward, Made, Needs, Op, Run, Shapes, Slot, check, float, take};
use crate::reduce::partial_sums;
use crate::{Result, Spec, on_cpu};

/// See the module.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// Added to the mean of squares.
    pub eps: f64,
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x, w] = take(self.name(), ins)?;
        float(self.name(), x)?;
        let fits = w.dims() == [x.last()] && w.dtype == x.dtype;
        check(self.name(), fits, || format!("weight {w} does not match x {x}"))?;
        Ok(Shapes::new([x]).stat(Spec::new(x.dtype.acc(), [x.rows()])))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let (x, w) = (io.input(0), io.input(1));
        let mut y = io.output(0)?;
        let mut rstd = io.stat(0)?;
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::forward(gpu, x, w, self.eps, &mut y, rstd.as_mut())?;
            return Ok(Made::with_stats([y], [rstd]));
        }
        on_cpu!(io.device(), self.name(), x.dtype(), T => {
            let rstd = rstd.as_mut().map(|r| r.slice_mut());
            cpu::forward::<T>(x.slice(), w.slice(), self.eps, y.slice_mut(), rstd)
        });
        Ok(Made::with_stats([y], [rstd]))
    }

    fn saves(&self, _needs: Needs) -> &'static [Slot] {
        &[Slot::In(0), Slot::In(1), Slot::Stat(0)]
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        if let Kind::Gpu(gpu) = io.device().clone().kind() {
            return gpu::backward(gpu, io);
        }
        let (x, w, rstd, dy) = (io.saved(0), io.saved(1), io.saved(2), io.dy());
        if io.wants(0) {
            let mut dx = io.alloc(x.spec())?;
            on_cpu!(io.device(), self.name(), x.dtype(), T => {
                cpu::backward_x::<T>(x.slice(), w.slice(), rstd.slice(), dy.slice(), dx.slice_mut())
            });
            io.give(0, dx)?;
        }
        if io.wants(1) {
            let (x, w, rstd, dy) = (io.saved(0), io.saved(1), io.saved(2), io.dy());
            let mut dw = io.alloc(w.spec().with_dtype(w.dtype().acc()))?;
            let mut partial = io.temp(partial_sums(x.spec()))?;
            on_cpu!(io.device(), self.name(), x.dtype(), T => {
                cpu::backward_w::<T>(x.slice(), rstd.slice(), dy.slice(), partial.slice_mut(), dw.slice_mut())
            });
            io.give(1, dw)?;
        }
        Ok(())
    }

    fn cost(&self, ins: &[Spec], run: Run) -> Cost {
        let x = ins[0];
        match run {
            Run::Forward => Cost { flops: 4 * x.elements() as u64, bytes: 2 * x.bytes() as u64 },
            Run::Backward(_) => Cost { flops: 8 * x.elements() as u64, bytes: 3 * x.bytes() as u64 },
        }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "rms_norm",
    summary: "y = x / rms(x) * w per row",
    passes: "forward, backward",
    programs: &gpu::PROGRAMS,
    cases: || {
        let case = |name: &str, rows: usize, width: usize| {
            Case::check(name, RmsNorm { eps: 1e-5 }, [Input::normal([rows, width]), Input::normal([width])])
        };
        let parity = |name: &str, rows: usize, width: usize| Case {
            kind: CaseKind::Parity,
            ..case(name, rows, width)
        };
        vec![
            case("one row", 1, 8),
            case("257 rows", 257, 3),
            case("odd width", 5, 67),
            parity("700x131", 700, 131),
            parity("vectors, several warps", 19, 640),
            parity("several vectors per thread", 19, 2560),
            parity("odd width, several warps", 11, 1001),
            parity("wider than the registers, vectors", 9, 8192 + 512),
            parity("wider than the registers, odd", 9, 4099),
            Case::bench(
                "2048x4096",
                RmsNorm { eps: 1e-5 },
                [Input::normal([2048, 4096]), Input::normal([4096])],
            ),
        ]
    },
};
