//! One step of Adam with decoupled weight decay, in place.
//!
//! Loshchilov and Hutter, *Decoupled Weight Decay Regularization* (2019), algorithm 2. With g = clip * grad, for
//! step t = 1, 2, ...:
//!
//! ```text
//! m = beta1 m + (1 - beta1) g        master = master (1 - lr weight_decay)
//! v = beta2 v + (1 - beta2) g^2               - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//! ```
//!
//! | | input | shape | type | output |
//! |---|---|---|---|---|
//! | master | 0 | any, n elements | A | 0 |
//! | grad | 1 | n elements | A | |
//! | m | 2 | n elements | A | 1 |
//! | v | 3 | n elements | A | 2 |
//! | hyper | 4 | `[3]`: [`AdamW::hyper`] | A | |
//! | clip | 5 | `[1]` | A | |
//! | weight | 6, optional | n elements | T, T::Acc = A | 3 |
//!
//! A is f32, or f64 for checks. `weight` is the copy of the master that the model computes with, when that is in a
//! narrower type: it is overwritten by the rounded master. `hyper` and `clip` lie in buffers, not in the op, so
//! that a recorded step can be run again with other values.
//!
//! Numerics: in A, in the order of operations above. Cost: 15 flops per element; reads master, grad, m, v and writes
//! master, m, v and the weight. Errors: shapes or types that do not fit; master, m, v or weight is held elsewhere.

mod cpu;

use crate::check::{Case, Entry, Fill, Input, Of};
use crate::op::{Cost, Forward, Made, Op, Run, Shapes, check};
use crate::{DType, Error, Result, Spec, on_cpu};

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
}

impl AdamW {
    /// The contents of `hyper` for this learning rate and step (the first is 1): the learning rate, the learning
    /// rate over 1 - beta1^step, and the root of 1 - beta2^step.
    pub fn hyper(&self, lr: f64, step: u64) -> [f64; 3] {
        let power = |beta: f64| beta.powf(step as f64);
        [lr, lr / (1.0 - power(self.beta1)), (1.0 - power(self.beta2)).sqrt()]
    }
}

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let arity = Error::Arity { op: self.name(), expected: 6, got: ins.len() };
        let inputs = ins.split_first_chunk().filter(|(_, rest)| rest.len() <= 1);
        let (&[master, grad, m, v, hyper, clip], weight) = inputs.ok_or(arity)?;
        let acc = master.dtype;
        let wide = matches!(acc, DType::F32 | DType::F64);
        let same = |s: Spec| s.dtype == acc && s.elements() == master.elements();
        check(self.name(), wide && same(grad) && same(m) && same(v), || {
            format!("takes master, gradient and moments alike in f32, got {master}, {grad}, {m} and {v}")
        })?;
        let scalars = hyper == Spec::new(acc, [3]) && clip == Spec::new(acc, [1]);
        check(self.name(), scalars, || {
            format!("takes {acc} hyper [3] and clip [1], got {hyper} and {clip}")
        })?;
        let mut outs = vec![master, m, v];
        if let &[weight] = weight {
            let fits = weight.dtype.is_float()
                && weight.dtype.acc() == acc
                && weight.dtype != DType::F16
                && weight.elements() == master.elements();
            check(self.name(), fits, || format!("weight {weight} does not match master {master}"))?;
            outs.push(weight);
        }
        Ok(Shapes::new(outs))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let (mut master, mut m, mut v) = (io.update(0)?, io.update(2)?, io.update(3)?);
        let mut weight = if io.inputs() == 7 { Some(io.update(6)?) } else { None };
        let (grad, hyper, clip) = (io.input(1), io.input(4), io.input(5));
        let dtype = weight.as_ref().map_or(master.dtype(), |w| w.dtype());
        on_cpu!(io.device(), self.name(), dtype, T => {
            let step = cpu::Step::new(self, hyper.slice(), clip.slice());
            let weight = weight.as_mut().map(|w| w.slice_mut());
            cpu::update::<T>(&step, master.slice_mut(), grad.slice(), m.slice_mut(), v.slice_mut(), weight)
        });
        Ok(Made::outs([master, m, v].into_iter().chain(weight).collect::<Vec<_>>()))
    }

    fn differentiable(&self, _input: usize) -> bool {
        false
    }

    fn cost(&self, ins: &[Spec], _run: Run) -> Cost {
        let weight = ins.get(6).map_or(0, Spec::bytes);
        Cost { flops: 15 * ins[0].elements() as u64, bytes: (7 * ins[0].bytes() + weight) as u64 }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "adamw",
    summary: "one optimiser step in place",
    passes: "update",
    programs: &[],
    cases: || {
        let op = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
        let inputs = |n: usize, step: u64, weight: bool| {
            let moment = Input { dims: vec![n], of: Of::Acc, fill: Fill::Uniform(0.0, 1.0) };
            let mut ins = vec![
                Input::normal_acc([n]),
                Input::normal_acc([n]),
                Input::normal_acc([n]),
                moment,
                Input::acc([3], op.hyper(1e-2, step)),
                Input::acc([1], [0.5]),
            ];
            if weight {
                ins.push(Input::normal([n]));
            }
            ins
        };
        vec![
            Case::check("first step", op.clone(), inputs(67, 1, false)),
            Case::check("with a narrow weight", op.clone(), inputs(37, 1000, true)),
            Case::parity("several tasks", op.clone(), inputs(50_003, 10, true)),
            Case::bench("16 M, narrow weight", op.clone(), inputs(1 << 24, 10, true)),
        ]
    },
};
