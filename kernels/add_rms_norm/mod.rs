//! The step between two blocks of a decoder: `r = x + residual`, `y = r * rstd * w`, with rstd as in
//! [`crate::rms_norm`].
//!
//! Both outputs go on: y into the next block, r to the next residual sum. Fused, x and the residual are read once and
//! r is not read back to be normed. With xhat = r * rstd and g = dy * w:
//!
//! ```text
//! dx = dresidual = dr + rstd * (g - xhat * mean(g * xhat))        dw = sum over rows of dy * xhat
//! ```
//!
//! | | shape | type | kept for backward |
//! |---|---|---|---|
//! | x | [rows.., H] | T | |
//! | residual | as x | T | |
//! | w | `[H]` | T | yes |
//! | y | as x | T | |
//! | r | as x | T | yes |
//! | rstd | `[rows]` | T::Acc | yes |
//!
//! Numerics: r is rounded to T first and the norm reads the rounded r, so that y can be made again from r, bit for
//! bit, by rms_norm; otherwise as rms_norm. Either output may have no gradient. dx and dresidual are one buffer.
//! Memory: r takes the place of x if nobody else holds x; the gradient that of dr.
//! Errors: residual differs from x; w is not as wide as a row of x; types differ.

mod cpu;
mod gpu;

use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::op::{Backward, Cost, Forward, Made, Needs, Op, Run, Shapes, Slot, check, float, take};
use crate::reduce::partial_sums;
use crate::rms_norm::cpu::{backward_w, backward_x};
use crate::{Result, Spec, on_cpu};

/// See the module.
#[derive(Debug, Clone)]
pub struct AddRmsNorm {
    /// Added to the mean of squares.
    pub eps: f64,
}

impl Op for AddRmsNorm {
    fn name(&self) -> &'static str {
        "add_rms_norm"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x, residual, w] = take(self.name(), ins)?;
        float(self.name(), x)?;
        check(self.name(), residual == x, || format!("residual {residual} does not match x {x}"))?;
        let fits = w.dims() == [x.last()] && w.dtype == x.dtype;
        check(self.name(), fits, || format!("weight {w} does not match x {x}"))?;
        Ok(Shapes::new([x, x]).stat(Spec::new(x.dtype.acc(), [x.rows()])))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let mut r = io.reuse(0)?;
        let (residual, w) = (io.input(1), io.input(2));
        let mut y = io.output(0)?;
        let mut rstd = io.stat(0)?;
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::forward(gpu, &mut r, residual, w, self.eps, &mut y, rstd.as_mut())?;
            return Ok(Made::with_stats([y, r], [rstd]));
        }
        on_cpu!(io.device(), self.name(), r.dtype(), T => {
            let rstd = rstd.as_mut().map(|r| r.slice_mut());
            cpu::forward::<T>(r.slice_mut(), residual.slice(), w.slice(), self.eps, y.slice_mut(), rstd)
        });
        Ok(Made::with_stats([y, r], [rstd]))
    }

    fn saves(&self, _needs: Needs) -> &'static [Slot] {
        &[Slot::Out(1), Slot::In(2), Slot::Stat(0)]
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        if let Kind::Gpu(gpu) = io.device().clone().kind() {
            return gpu::backward(gpu, io);
        }
        if io.wants(0) || io.wants(1) {
            let dr = io.reuse_dout(1)?;
            let (r, w, rstd) = (io.saved(0), io.saved(1), io.saved(2));
            let dr = match (io.dout(0), dr) {
                (None, dr) => dr.expect("backward runs with the gradient of an output"),
                (Some(dy), None) => {
                    let mut dr = io.alloc(r.spec())?;
                    on_cpu!(io.device(), self.name(), r.dtype(), T => {
                        backward_x::<T>(r.slice(), w.slice(), rstd.slice(), dy.slice(), dr.slice_mut())
                    });
                    dr
                }
                (Some(dy), Some(mut dr)) => {
                    on_cpu!(io.device(), self.name(), r.dtype(), T => {
                        cpu::backward_r::<T>(r.slice(), w.slice(), rstd.slice(), dy.slice(), dr.slice_mut())
                    });
                    dr
                }
            };
            for i in [0, 1] {
                if io.wants(i) {
                    io.give(i, dr.clone())?;
                }
            }
        }
        if io.wants(2) {
            let (r, rstd) = (io.saved(0), io.saved(2));
            let mut dw = io.alloc(io.spec(2).with_dtype(r.dtype().acc()))?;
            match io.dout(0) {
                None => dw.fill_zero()?,
                Some(dy) => {
                    let mut partial = io.temp(partial_sums(r.spec()))?;
                    on_cpu!(io.device(), self.name(), r.dtype(), T => {
                        let (partial, dw) = (partial.slice_mut(), dw.slice_mut());
                        backward_w::<T>(r.slice(), rstd.slice(), dy.slice(), partial, dw)
                    });
                }
            }
            io.give(2, dw)?;
        }
        Ok(())
    }

    fn cost(&self, ins: &[Spec], run: Run) -> Cost {
        let (elements, bytes) = (ins[0].elements() as u64, ins[0].bytes() as u64);
        match run {
            Run::Forward => Cost { flops: 5 * elements, bytes: 4 * bytes },
            Run::Backward(_) => Cost { flops: 9 * elements, bytes: 4 * bytes },
        }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "add_rms_norm",
    summary: "r = x + residual, y = r / rms(r) * w per row",
    passes: "forward, backward",
    programs: &gpu::PROGRAMS,
    cases: || {
        let ins = |rows: usize, width: usize| {
            [Input::normal([rows, width]), Input::normal([rows, width]), Input::normal([width])]
        };
        vec![
            Case::check("one row", AddRmsNorm { eps: 1e-5 }, ins(1, 8)),
            Case::check("257 rows", AddRmsNorm { eps: 1e-5 }, ins(257, 2)),
            Case::check("odd width", AddRmsNorm { eps: 1e-5 }, ins(3, 67)),
            Case::parity("700x131", AddRmsNorm { eps: 1e-5 }, ins(700, 131)),
            Case::parity("whole vectors", AddRmsNorm { eps: 1e-5 }, ins(19, 640)),
            Case::parity("several vectors per thread", AddRmsNorm { eps: 1e-5 }, ins(19, 2560)),
            Case::parity("wider than the registers, vectors", AddRmsNorm { eps: 1e-5 }, ins(9, 8192 + 512)),
            Case::parity("wider than the registers, odd", AddRmsNorm { eps: 1e-5 }, ins(9, 4099)),
            Case::bench("2048x4096", AddRmsNorm { eps: 1e-5 }, ins(2048, 4096)),
        ]
    },
};
