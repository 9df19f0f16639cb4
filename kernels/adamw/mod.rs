//! One step of Adam with decoupled weight decay on many tensors, in place, after clipping by the global norm.
//!
//! Loshchilov and Hutter, *Decoupled Weight Decay Regularization* (2019), algorithm 2. With norm = sqrt(squares),
//! g = grad clip / (norm + 1e-6) where clip > 0 and norm > clip, else g = grad, for step t = 1, 2, ...:
//!
//! ```text
//! m = beta1 m + (1 - beta1) g        master = master (1 - lr weight_decay)
//! v = beta2 v + (1 - beta2) g^2               - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//! ```
//!
//! **If the norm is not finite, everything stays as it is.** The factor is that of torch.nn.utils.clip_grad_norm_,
//! whose 1e-6 keeps a tiny norm from dividing by zero.
//!
//! | | input | shape | type | output |
//! |---|---|---|---|---|
//! | hyper | 0 | `[3]`: [`AdamW::hyper`] | A | |
//! | squares | 1 | `[1]`: the global norm's square | A | |
//! | master | 2, and every stride | any, n elements | A | 0, ... |
//! | grad | 3 | n elements | A | |
//! | m | 4 | n elements | A | 1 |
//! | v | 5 | n elements | A | 2 |
//! | weight | 6, if `narrow` | n elements | T, T::Acc = A | 3 |
//!
//! The last four or five rows come again for each tensor. A is f32, or f64 for checks. `weight` is the copy of the
//! master that the model computes with, when that is in a narrower type: it is overwritten by the rounded master.
//! `hyper` and `squares` lie in buffers, not in the op, so that a recorded step can be run again with other values, and
//! so that a step needs no number on the host.
//!
//! Numerics: in A, in the order of operations above; on the CPU the factor is computed in f64 and rounded once.
//! Cost: 15 flops per element; reads master, grad, m, v and writes master, m, v and the weight; on a GPU one launch,
//! however many tensors there are.
//! Errors: shapes or types that do not fit; master, m, v or weight is held elsewhere.

mod cpu;
mod gpu;

use crate::check::{Case, Entry, Fill, Input, Of};
use crate::device::Kind;
use crate::op::{Cost, Forward, Made, Op, Run, Shapes, check};
use crate::{DType, Error, Result, Spec, on_cpu};

/// Inputs that come once, before those of the tensors.
const SHARED: usize = 2;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    /// How much of the first moment stays, in [0, 1).
    pub beta1: f64,
    /// How much of the second moment stays, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decay per unit of learning rate.
    pub weight_decay: f64,
    /// Gradients are scaled down so that their global norm is at most this; 0 turns it off.
    pub clip: f64,
    /// Whether each tensor comes with the weight that the model computes with.
    pub narrow: bool,
}

impl AdamW {
    /// The contents of `hyper` for this learning rate and step (the first is 1): the learning rate, the learning
    /// rate over 1 - beta1^step, and the root of 1 - beta2^step.
    pub fn hyper(&self, lr: f64, step: u64) -> [f64; 3] {
        let power = |beta: f64| beta.powf(step as f64);
        [lr, lr / (1.0 - power(self.beta1)), (1.0 - power(self.beta2)).sqrt()]
    }

    /// How many inputs a tensor has, and how many of them are outputs.
    fn inputs(&self) -> usize {
        4 + usize::from(self.narrow)
    }

    fn outputs(&self) -> usize {
        self.inputs() - 1
    }
}

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let whole = ins.len() > SHARED && (ins.len() - SHARED).is_multiple_of(self.inputs());
        if !whole {
            let expected = SHARED + ins.len().saturating_sub(SHARED).max(1).next_multiple_of(self.inputs());
            return Err(Error::Arity { op: self.name(), expected, got: ins.len() });
        }
        let (shared, tensors) = ins.split_at(SHARED);
        let (acc, narrow) = (tensors[0].dtype, tensors[self.inputs() - 1].dtype);
        let scalars = [Spec::new(acc, [3]), Spec::new(acc, [1])];
        check(self.name(), matches!(acc, DType::F32 | DType::F64) && shared == scalars, || {
            format!(
                "takes hyper [3] and squares [1] like the masters, f32, got {}, {} and {acc}",
                ins[0], ins[1]
            )
        })?;
        let mut outs = vec![];
        for tensor in tensors.chunks(self.inputs()) {
            let &[master, grad, m, v, ref weight @ ..] = tensor else {
                unreachable!("chunks of four or five")
            };
            let same = |s: Spec| s.dtype == acc && s.elements() == master.elements();
            check(self.name(), tensor[..4].iter().all(|s| same(*s)), || {
                format!(
                    "takes master, gradient and moments alike in {acc}, got {master}, {grad}, {m} and {v}"
                )
            })?;
            outs.extend([master, m, v]);
            if let &[weight] = weight {
                let fits = weight.dtype == narrow
                    && weight.dtype.is_float()
                    && weight.dtype.acc() == acc
                    && weight.dtype != DType::F16
                    && weight.elements() == master.elements();
                check(self.name(), fits, || format!("weight {weight} does not match master {master}"))?;
                outs.push(weight);
            }
        }
        Ok(Shapes::new(outs))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let mut outs = vec![];
        for first in (SHARED..io.inputs()).step_by(self.inputs()) {
            for i in [0, 2, 3, 4].into_iter().take(self.outputs()) {
                outs.push(io.update(first + i)?);
            }
        }
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::update(gpu, self, io, &mut outs)?;
            return Ok(Made::outs(outs));
        }
        let (hyper, squares) = (io.input(0), io.input(1));
        let dtype = outs[self.outputs() - 1].dtype();
        on_cpu!(io.device(), self.name(), dtype, T => {
            if let Some(step) = cpu::Step::new(self, hyper.slice(), squares.slice()) {
                for (t, tensor) in outs.chunks_mut(self.outputs()).enumerate() {
                    let [master, m, v, weight @ ..] = tensor else { unreachable!("chunks of three or four") };
                    let grad = io.input(SHARED + t * self.inputs() + 1);
                    let weight = weight.first_mut().map(|w| w.slice_mut());
                    let moments = [m.slice_mut(), v.slice_mut()];
                    cpu::update::<T>(&step, master.slice_mut(), grad.slice(), moments, weight)
                }
            }
        });
        Ok(Made::outs(outs))
    }

    fn differentiable(&self, _input: usize) -> bool {
        false
    }

    fn cost(&self, ins: &[Spec], _run: Run) -> Cost {
        let mut cost = Cost::default();
        for tensor in ins[SHARED..].chunks(self.inputs()) {
            let weight = tensor.get(4).map_or(0, Spec::bytes);
            cost.flops += 15 * tensor[0].elements() as u64;
            cost.bytes += (7 * tensor[0].bytes() + weight) as u64;
        }
        cost
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "adamw",
    summary: "one optimiser step of some tensors in place, clipped by the global norm",
    passes: "update",
    programs: &[gpu::SOURCE],
    cases: || {
        let narrow = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 0.5, narrow: true };
        let wide = AdamW { narrow: false, ..narrow.clone() };
        let inputs = |op: &AdamW, sizes: &[usize], step: u64, squares: f64| {
            let mut ins = vec![Input::acc([3], op.hyper(1e-2, step)), Input::acc([1], [squares])];
            for &n in sizes {
                let moment = Input { dims: vec![n], of: Of::Acc, fill: Fill::Uniform(0.0, 1.0) };
                ins.extend([0; 3].map(|_| Input::normal_acc([n])));
                ins.push(moment);
                ins.extend(op.narrow.then(|| Input::normal([n])));
            }
            ins
        };
        let case = |name: &str, op: &AdamW, sizes: &[usize], step: u64, squares: f64| {
            Case::check(name, op.clone(), inputs(op, sizes, step, squares))
        };
        vec![
            case("first step", &wide, &[67], 1, 1.0),
            case("with a narrow weight", &narrow, &[37], 1000, 2.25),
            case("norm below the clip", &narrow, &[5], 3, 0.04),
            case("no clip", &AdamW { clip: 0.0, ..wide.clone() }, &[6], 3, 1e4),
            case("no gradient at all", &wide, &[3], 2, 0.0),
            case("several tensors", &narrow, &[1, 64, 0, 7, 130], 7, 9.0),
            case("an infinite norm changes nothing", &narrow, &[9, 40], 4, f64::INFINITY),
            case("a norm that is no number changes nothing", &wide, &[9, 40], 4, f64::NAN),
            Case::parity("several tasks", narrow.clone(), inputs(&narrow, &[50_003], 10, 1.0)),
            Case::parity("several chunks of several tensors", wide.clone(), {
                inputs(&wide, &[16_384, 3, 16_385, 1021], 10, 0.3)
            }),
            Case::bench("16 M, narrow weight", narrow.clone(), inputs(&narrow, &[1 << 24], 10, 1.0)),
            Case::bench("300 of 64 K, narrow weight", narrow.clone(), {
                inputs(&narrow, &[1 << 16; 300], 10, 1.0)
            }),
        ]
    },
};
