//! Analytic gradients against central differences in f64.
//!
//! With a random cotangent c, the scalar f(x) = <c, op(x)> has the gradient that backward(c) must return. Each
//! input element is moved by h = 1e-5 both ways; per input tensor the relative error of the whole gradient,
//! ||analytic - numeric|| / ||numeric||, must stay below 1e-7.

use super::{Case, Of, Random};
use crate::device::{Buffer, Device, Role};
use crate::op::{Needs, Want};
use crate::run;
use crate::{DType, Result, Spec};
use std::sync::Arc;

/// The largest relative error allowed per input tensor.
pub const TOLERANCE: f64 = 1e-7;

/// What one case showed.
#[derive(Debug)]
pub struct Report {
    /// The worst relative error over the inputs.
    pub worst: f64,
    /// How many backward runs were compared.
    pub backwards: usize,
}

/// Checks one case: every subset of frozen inputs, every subset of missing output gradients, new and accumulated
/// gradients, against the same finite differences.
///
/// The error is a sentence that names the input and the mode.
pub fn check(case: &Case) -> std::result::Result<Report, String> {
    let text = |e: crate::Error| format!("{}/{}: {e}", case.op.name(), case.name);
    let values = case.values(1);
    let shapes = case.op.infer(&case.specs(DType::F64)).map_err(text)?;
    let differentiable: Vec<usize> =
        (0..case.ins.len()).filter(|&i| case.ins[i].of != Of::U32 && case.op.differentiable(i)).collect();
    let mut random = Random::new(2);
    let cotangents: Vec<Vec<f64>> =
        shapes.outs.iter().map(|s| (0..s.elements()).map(|_| random.normal()).collect()).collect();
    let mut report = Report { worst: 0.0, backwards: 0 };
    for present in 1..1u32 << shapes.outs.len() {
        let numeric: Vec<Vec<f64>> = differentiable
            .iter()
            .map(|&i| differences(case, &values, &cotangents, present, i))
            .collect::<Result<_>>()
            .map_err(text)?;
        let largest = numeric.iter().map(|g| norm(g)).fold(0.0, f64::max);
        for subset in 1..1u32 << differentiable.len() {
            for mode in [Mode::New, Mode::Add, Mode::AddShared] {
                let wanted: Vec<usize> = differentiable
                    .iter()
                    .enumerate()
                    .filter(|(k, _)| subset >> k & 1 == 1)
                    .map(|(_, &i)| i)
                    .collect();
                let analytic = gradients(case, &values, &cotangents, present, &wanted, mode).map_err(text)?;
                report.backwards += 1;
                for (k, &i) in differentiable.iter().enumerate() {
                    let Some(g) = &analytic[i] else { continue };
                    let difference: Vec<f64> = g.iter().zip(&numeric[k]).map(|(a, b)| a - b).collect();
                    let error = norm(&difference) / norm(&numeric[k]).max(1e-3 * largest).max(1e-30);
                    if error.is_nan() || error > TOLERANCE {
                        return Err(format!(
                            "{}/{}: gradient of input {i} is off by {error:.2e} (allowed {TOLERANCE:.0e}); \
                             wanted {wanted:?}, outputs with gradient {present:b}, {mode:?}",
                            case.op.name(),
                            case.name
                        ));
                    }
                    report.worst = report.worst.max(error);
                }
            }
        }
    }
    Ok(report)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    New,
    Add,
    AddShared,
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// <c, op(x)> summed over the outputs that have a gradient.
fn objective(case: &Case, values: &[Vec<f64>], cotangents: &[Vec<f64>], present: u32) -> Result<f64> {
    let device = Device::cpu_poisoned();
    let ins = case.buffers(&device, DType::F64, values)?;
    let ran = run::forward(case.op.as_ref(), ins, Needs::default())?;
    let mut sum = 0.0;
    for (j, out) in ran.outs.iter().enumerate().filter(|(j, _)| present >> j & 1 == 1) {
        sum += out.to_f64()?.iter().zip(&cotangents[j]).map(|(y, c)| y * c).sum::<f64>();
    }
    Ok(sum)
}

fn differences(
    case: &Case,
    values: &[Vec<f64>],
    cotangents: &[Vec<f64>],
    present: u32,
    input: usize,
) -> Result<Vec<f64>> {
    const H: f64 = 1e-5;
    let mut moved = values.to_vec();
    (0..values[input].len())
        .map(|e| {
            let x = values[input][e];
            moved[input][e] = x + H;
            let up = objective(case, &moved, cotangents, present)?;
            moved[input][e] = x - H;
            let down = objective(case, &moved, cotangents, present)?;
            moved[input][e] = x;
            Ok((up - down) / (2.0 * H))
        })
        .collect()
}

fn gradients(
    case: &Case,
    values: &[Vec<f64>],
    cotangents: &[Vec<f64>],
    present: u32,
    wanted: &[usize],
    mode: Mode,
) -> Result<Vec<Option<Vec<f64>>>> {
    const START: f64 = 0.75; // what an accumulated gradient holds before
    let device = Device::cpu_poisoned();
    let ins = case.buffers(&device, DType::F64, values)?;
    let specs: Vec<Spec> = ins.iter().map(Buffer::spec).collect();
    let needs = Needs(wanted.iter().map(|i| 1 << i).sum());
    let ran = run::forward(case.op.as_ref(), ins, needs)?;
    let douts = ran
        .outs
        .iter()
        .zip(cotangents)
        .enumerate()
        .map(|(j, (out, c))| {
            (present >> j & 1 == 1)
                .then(|| Buffer::from_f64(&device, out.spec(), c, Role::Activation))
                .transpose()
        })
        .collect::<Result<Vec<_>>>()?;
    drop(ran.outs);
    let mut shared = vec![];
    let wants = specs
        .iter()
        .enumerate()
        .map(|(i, spec)| {
            if !needs.has(i) {
                return Ok(Want::No);
            }
            if mode == Mode::New {
                return Ok(Want::New(DType::F64, Role::Gradient));
            }
            let start = Buffer::from_f64(&device, *spec, &vec![START; spec.elements()], Role::Gradient)?;
            if mode == Mode::AddShared {
                shared.push(start.clone());
            }
            Ok(Want::Add(start))
        })
        .collect::<Result<Vec<_>>>()?;
    let scope: Arc<str> = "".into();
    let grads = run::backward(case.op.as_ref(), &scope, &specs, ran.saved, douts, wants)?;
    let before = if mode == Mode::New { 0.0 } else { START };
    for held in &shared {
        assert!(
            held.to_f64()?.iter().all(|v| *v == START),
            "{}: wrote into a shared gradient",
            case.op.name()
        );
    }
    grads
        .into_iter()
        .map(|g| g.map(|g| Ok(g.to_f64()?.into_iter().map(|v| v - before).collect())).transpose())
        .collect()
}
