//! Softmax and negative log-likelihood in one: `loss = sum over i of w[i] * (lse(x[i]) - x[i][label[i]])`.
//!
//! Backward: `dx[i][j] = dloss * w[i] * (softmax(x[i])[j] - [j = label[i]])`. A row with the label
//! [`IGNORED`] adds nothing and gets a zero gradient. The caller puts its normalisation, such as one over the
//! number of supervised tokens, into w.
//!
//! | | shape | type | kept for backward |
//! |---|---|---|---|
//! | x (logits) | [N, V] | T | no |
//! | labels | `[N]` | u32 | |
//! | w | `[N]` | T::Acc | |
//! | loss | `[1]` | T::Acc | |
//! | dlogits | [N, V] | T | yes, in the logits' own bytes |
//!
//! The logits are the largest tensor of a language model, so the gradient for dloss = 1 replaces them in forward,
//! while a row is in cache; backward hands it on, and rewrites it only if dloss is not 1.
//!
//! Numerics: maximum, exponentials and their sum in `T::Acc`; each dlogit is rounded once (twice if dloss is not 1);
//! the terms of the loss are added in f64, in an order that N alone determines. Cost: 4 flops per logit forward and 3
//! more for the gradient, an exponential counting one; one read and one write of the logits.
//! Errors: a label that is neither below V nor [`IGNORED`]; shapes or types that do not fit. A GPU does not look at
//! labels before it runs: there such a label gives a loss of NaN, and its row a gradient of NaN.

mod cpu;
mod gpu;

use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::dtype::Real;
use crate::op::{Backward, Cost, Forward, Made, Needs, Op, Run, Shapes, Slot, check, float, take};
use crate::{DType, Error, Result, Spec, on_cpu};

/// The label of a row that has no target.
pub const IGNORED: u32 = u32::MAX;

/// See the module.
#[derive(Debug, Clone)]
pub struct CrossEntropy;

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x, labels, w] = take(self.name(), ins)?;
        float(self.name(), x)?;
        let acc = x.dtype.acc();
        let fits = x.dims().len() == 2
            && x.last() > 0
            && labels == Spec::new(DType::U32, [x.rows()])
            && w == Spec::new(acc, [x.rows()]);
        check(self.name(), fits, || {
            format!("takes logits [N, V], u32 labels [N] and {acc} weights [N], got {x}, {labels} and {w}")
        })?;
        Ok(Shapes::new([Spec::new(acc, [1])]).stat(x))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let x = io.input(0).spec();
        let mut dlogits = if io.grad() { Some(io.reuse(0)?) } else { None };
        let (labels, w) = (io.input(1), io.input(2));
        let mut loss = io.output(0)?;
        let mut terms = io.temp(w.spec())?;
        if let Kind::Gpu(gpu) = io.device().kind() {
            let logits = match &mut dlogits {
                Some(d) => gpu::Logits::Rewrite(d),
                None => gpu::Logits::Read(io.input(0)),
            };
            gpu::forward(gpu, logits, labels, w, &mut terms, &mut loss)?;
            return Ok(Made::with_stats([loss], [dlogits]));
        }
        on_cpu!(io.device(), self.name(), x.dtype, T => {
            let (labels, w) = (labels.slice(), w.slice());
            if let Some(i) = labels.iter().position(|&l| l as usize >= x.last() && l != IGNORED) {
                return Err(Error::shape(self.name(), format!("label {} of row {i} is outside {x}", labels[i])));
            }
            match &mut dlogits {
                Some(d) => cpu::forward_and_gradient::<T>(d.slice_mut(), labels, w, terms.slice_mut()),
                None => cpu::forward::<T>(io.input(0).slice(), labels, w, terms.slice_mut()),
            }
            loss.slice_mut()[0] = cpu::total::<<T as Real>::Acc>(terms.slice());
        });
        Ok(Made::with_stats([loss], [dlogits]))
    }

    fn saves(&self, _needs: Needs) -> &'static [Slot] {
        &[Slot::Stat(0)]
    }

    fn differentiable(&self, input: usize) -> bool {
        input == 0
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        let mut dx = io.take_saved(0)?;
        let dloss = io.dy();
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::backward(gpu, &mut dx, dloss)?;
            return io.give(0, dx);
        }
        on_cpu!(io.device(), self.name(), dx.dtype(), T => {
            cpu::scale::<T>(dx.slice_mut(), dloss.slice()[0])
        });
        io.give(0, dx)
    }

    fn cost(&self, ins: &[Spec], run: Run) -> Cost {
        let x = ins[0];
        match run {
            Run::Forward => Cost { flops: 7 * x.elements() as u64, bytes: 2 * x.bytes() as u64 },
            Run::Backward(_) => Cost::default(),
        }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "cross_entropy",
    summary: "softmax and weighted negative log-likelihood",
    passes: "forward, backward",
    programs: &[gpu::SOURCE],
    cases: || {
        let case = |name: &str, vocabulary: usize, labels: &[u32], w: &[f64]| {
            let n = labels.len();
            let labels = Input::u32([n], labels.iter().copied());
            let w = Input::acc([n], w.iter().copied());
            Case::check(name, CrossEntropy, [Input::normal([n, vocabulary]), labels, w])
        };
        let large = |n: usize, vocabulary: usize| {
            let labels = Input::ids([n], vocabulary as u32);
            let w = Input::acc([n], std::iter::repeat_n(1.0 / n as f64, n));
            [Input::normal([n, vocabulary]), labels, w]
        };
        vec![
            case("one row", 7, &[3], &[1.0]),
            case("some ignored", 37, &[0, IGNORED, 36, 5, IGNORED], &[0.25, 0.5, 0.75, 0.0, 1.0]),
            case("all but one ignored", 5, &[IGNORED, 2], &[1.0, 1.0]),
            Case::parity("67x1003", CrossEntropy, large(67, 1003)),
            Case::parity("more than the registers hold, odd width", CrossEntropy, large(3, 4673)),
            Case::parity("more than the registers hold, vectors", CrossEntropy, large(2, 33 * 1024)),
            Case::bench("1024x32000", CrossEntropy, large(1024, 32000)),
        ]
    },
};
