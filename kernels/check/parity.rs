//! One precision against another: every output and gradient in f32 and bf16 against the f64 run of the same code
//! on the same numbers.
//!
//! The bound has no magic number per op: an error is measured in units of the type's rounding step times the size
//! of what was summed, and the worst case over the catalogue is printed.

use super::{Case, Of, Random};
use crate::device::{Buffer, Device, Role};
use crate::op::{Needs, Want};
use crate::run;
use crate::{DType, Result, Spec};
use std::sync::Arc;

/// Outputs, then the gradients of the inputs that have one, as f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// Per output.
    pub outs: Vec<Vec<f64>>,
    /// Per input; None where there is no gradient.
    pub grads: Vec<Option<Vec<f64>>>,
}

/// Which inputs of a case can have a gradient, and of what type they are asked for in a run in `dtype`.
pub fn all_gradients(case: &Case, dtype: DType) -> Vec<Option<DType>> {
    case.specs(dtype)
        .iter()
        .enumerate()
        .map(|(i, s)| (case.ins[i].of != Of::U32 && case.op.differentiable(i)).then_some(s.dtype.acc()))
        .collect()
}

/// Runs a case forward and, if it has a gradient, backward, in `dtype` on `device`.
pub fn run(case: &Case, device: &Device, dtype: DType) -> Result<Values> {
    run_wanting(case, device, dtype, &all_gradients(case, dtype))
}

/// As [`run`], with gradients of these types for these inputs only.
pub fn run_wanting(case: &Case, device: &Device, dtype: DType, wanted: &[Option<DType>]) -> Result<Values> {
    let values = case.values(1);
    let ins = case.buffers(device, dtype, &values)?;
    let specs: Vec<Spec> = ins.iter().map(Buffer::spec).collect();
    let needs = Needs(wanted.iter().enumerate().map(|(i, w)| (w.is_some() as u32) << i).sum());
    let ran = run::forward(case.op.as_ref(), ins, needs)?;
    let outs = ran.outs.iter().map(Buffer::to_f64).collect::<Result<Vec<_>>>()?;
    let mut grads = vec![None; specs.len()];
    if needs.any() {
        let mut random = Random::new(2);
        let douts = ran
            .outs
            .iter()
            .map(|out| {
                let c: Vec<f64> = (0..out.spec().elements())
                    .map(|_| f32::from(crate::dtype::bf16::from_f32(random.normal() as f32)) as f64)
                    .collect();
                Ok(Some(Buffer::from_f64(device, out.spec(), &c, Role::Activation)?))
            })
            .collect::<Result<Vec<_>>>()?;
        drop(ran.outs);
        let wants =
            wanted.iter().map(|w| w.map_or(Want::No, |dtype| Want::New(dtype, Role::Gradient))).collect();
        let scope: Arc<str> = "".into();
        let got = run::backward(case.op.as_ref(), &scope, &specs, ran.saved, douts, wants)?;
        for (slot, g) in grads.iter_mut().zip(got) {
            *slot = g.map(|g| g.to_f64()).transpose()?;
        }
    }
    Ok(Values { outs, grads })
}

/// The largest error of `got` against `want` relative to the root mean square of `want`, in units of `dtype`'s
/// rounding step (2^-24 for f32, 2^-9 for bf16); infinite if anything is not finite.
pub fn error_steps(dtype: DType, got: &[f64], want: &[f64]) -> f64 {
    let step = match dtype {
        DType::Bf16 => 2f64.powi(-9),
        DType::F64 => 2f64.powi(-53),
        _ => 2f64.powi(-24),
    };
    let size = (want.iter().map(|v| v * v).sum::<f64>() / want.len().max(1) as f64).sqrt();
    got.iter()
        .zip(want)
        .map(|(g, w)| {
            if !g.is_finite() {
                return f64::INFINITY;
            }
            (g - w).abs() / (step * size.max(w.abs()).max(1e-30))
        })
        .fold(0.0, f64::max)
}
