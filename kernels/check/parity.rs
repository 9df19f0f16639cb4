//! One precision against another: every output and gradient in f32 and bf16 against the f64 run of the same code
//! on the same numbers.
//!
//! What error is allowed follows from one rule for all ops. The yardstick is what anyone must lose who works in a
//! type of rounding step u: the exact function, of inputs that were rounded once, rounded once. So the f64 run is
//! repeated with every input moved by a random factor within 1 +- u, and *how far an element then moves* is how
//! sensitive it is; together with its own size that is its scale. Sums are made in the wider type, of step v. If
//! an element has d additions and multiplications behind it, their errors add up like a random walk (Higham and
//! Mary, *A New Approach to Probabilistic Rounding Error Analysis*, 2019), to about sqrt(d) v times the scale.
//! An op may lose twice that:
//!
//! ```text
//! |got - want| <= 2 (u + sqrt(d) v) (|want| + sensitivity)
//! ```
//!
//! d is counted from the op's own cost. Nothing here knows one op from another. Integers have to be exact, as the numbers
//! that a run starts from are, and an infinity has to be the same one.

use super::{Case, Of, Random};
use crate::device::{Buffer, Device, Role};
use crate::op::{Needs, Run, Want};
use crate::run;
use crate::{DType, Result, Spec};
use std::sync::Arc;

/// How many times the f64 run is repeated with moved inputs.
const SAMPLES: u64 = 8;

/// The rounding step of a type: half the distance from 1 to the next number.
fn step(dtype: DType) -> f64 {
    match dtype {
        DType::Bf16 => 2f64.powi(-8),
        DType::F16 => 2f64.powi(-11),
        DType::F32 => 2f64.powi(-24),
        DType::F64 => 2f64.powi(-53),
        DType::U32 => 0.0,
    }
}

/// Outputs, then the gradients of the inputs that have one, as f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// Per output.
    pub outs: Vec<Vec<f64>>,
    /// Per input; None where there is no gradient.
    pub grads: Vec<Option<Vec<f64>>>,
}

/// In which type weight-like gradients are asked for: activations get theirs in T, parameters in `T::Acc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// The type of the input.
    Same,
    /// The type that it accumulates in.
    Acc,
}

/// The numbers of one run.
struct Numbers {
    ins: Vec<Vec<f64>>,
    douts: Vec<Vec<f64>>,
}

/// The inputs of a case that have a gradient.
fn needs(case: &Case) -> Needs {
    let has = |i: &usize| case.ins[*i].of != Of::U32 && case.op.differentiable(*i);
    Needs((0..case.ins.len()).filter(has).map(|i| 1 << i).sum())
}

/// The case's own numbers; output gradients are representable in every type, as the inputs are.
fn numbers(case: &Case) -> Result<Numbers> {
    let mut random = Random::new(2);
    let mut cotangent = |_| f32::from(crate::dtype::bf16::from_f32(random.normal() as f32)) as f64;
    let outs = case.op.infer(&case.specs(DType::F64))?.outs;
    let douts = outs.iter().map(|out| (0..out.elements()).map(&mut cotangent).collect()).collect();
    Ok(Numbers { ins: case.values(1), douts })
}

/// The same numbers, each moved by a random factor within 1 +- the step of the type it has in a run in `dtype`.
fn moved(case: &Case, numbers: &Numbers, dtype: DType, seed: u64) -> Result<Numbers> {
    let mut random = Random::new(seed);
    let mut nudge = |values: &[f64], spec: &Spec| -> Vec<f64> {
        values.iter().map(|v| v * (1.0 + step(spec.dtype) * (2.0 * random.uniform() - 1.0))).collect()
    };
    let specs = case.specs(dtype);
    let outs = case.op.infer(&specs)?.outs;
    let ins = numbers.ins.iter().zip(&specs).map(|(v, s)| nudge(v, s)).collect();
    let douts = numbers.douts.iter().zip(&outs).map(|(v, s)| nudge(v, s)).collect();
    Ok(Numbers { ins, douts })
}

/// Runs a case forward and, if it has a gradient, backward, in `dtype` on `device`.
pub fn run(case: &Case, device: &Device, dtype: DType, sink: Sink) -> Result<Values> {
    run_with(case, device, dtype, &everywhere(case, sink), &numbers(case)?)
}

/// As [`run()`], with a gradient of its own kind, or none, for each input. Inputs that have no gradient get None.
pub fn run_for(case: &Case, device: &Device, dtype: DType, sinks: &[Option<Sink>]) -> Result<Values> {
    run_with(case, device, dtype, sinks, &numbers(case)?)
}

/// As [`run_for`], on inputs and output gradients that are views one element off a 16-byte boundary.
pub fn run_off_boundary(
    case: &Case,
    device: &Device,
    dtype: DType,
    sinks: &[Option<Sink>],
) -> Result<Values> {
    run_placed(case, device, dtype, sinks, &numbers(case)?, off_boundary)
}

/// A view with these contents, one element into a buffer of its own.
fn off_boundary(buffer: Buffer) -> Result<Buffer> {
    let (spec, n) = (buffer.spec(), buffer.spec().elements());
    let mut longer = buffer.device().alloc(spec.with_dims([1 + n]), buffer.role())?;
    longer.copy_from_host(&[vec![0; spec.dtype.size()], buffer.to_host()?].concat())?;
    Ok(longer.rows(1..1 + n).reshaped(spec.dims()))
}

/// The same kind of gradient for every input that has one.
pub fn everywhere(case: &Case, sink: Sink) -> Vec<Option<Sink>> {
    (0..case.ins.len()).map(|i| needs(case).has(i).then_some(sink)).collect()
}

fn run_with(
    case: &Case,
    device: &Device,
    dtype: DType,
    sinks: &[Option<Sink>],
    numbers: &Numbers,
) -> Result<Values> {
    let place = if case.off_boundary { off_boundary } else { Ok };
    run_placed(case, device, dtype, sinks, numbers, place)
}

/// `place` may put an input or an output gradient elsewhere.
fn run_placed(
    case: &Case,
    device: &Device,
    dtype: DType,
    sinks: &[Option<Sink>],
    numbers: &Numbers,
    place: impl Fn(Buffer) -> Result<Buffer>,
) -> Result<Values> {
    let ins = case.buffers(device, dtype, &numbers.ins)?.into_iter().map(&place);
    let ins = ins.collect::<Result<Vec<_>>>()?;
    let specs: Vec<Spec> = ins.iter().map(Buffer::spec).collect();
    let needs = Needs(sinks.iter().enumerate().map(|(i, s)| (s.is_some() as u32) << i).sum());
    let ran = run::forward(case.op.as_ref(), ins, needs)?;
    let outs = ran.outs.iter().map(Buffer::to_f64).collect::<Result<Vec<_>>>()?;
    if !needs.any() {
        return Ok(Values { outs, grads: vec![None; specs.len()] });
    }
    let dout = |(out, values): (&Buffer, &Vec<f64>)| {
        Buffer::from_f64(device, out.spec(), values, Role::Activation).and_then(&place).map(Some)
    };
    let douts = ran.outs.iter().zip(&numbers.douts).map(dout).collect::<Result<Vec<_>>>()?;
    drop(ran.outs);
    let want = |(spec, sink): (&Spec, &Option<Sink>)| match sink {
        None => Want::No,
        Some(Sink::Same) => Want::New(spec.dtype, Role::Activation),
        Some(Sink::Acc) => Want::New(spec.dtype.acc(), Role::Gradient),
    };
    let wants = specs.iter().zip(sinks).map(want).collect();
    let scope: Arc<str> = "".into();
    let grads = run::backward(case.op.as_ref(), &scope, &specs, ran.saved, douts, wants)?;
    let grads = grads.into_iter().map(|g| g.map(|g| g.to_f64()).transpose()).collect::<Result<_>>()?;
    Ok(Values { outs, grads })
}

/// What a case should give, and how much of it may be lost in one type.
pub struct Yardstick {
    want: Values,
    /// Per element of `want`, what may be lost.
    allowed: Values,
}

/// Errors as a fraction of what is allowed; infinite if something is not finite.
#[derive(Debug, Clone, Copy)]
pub struct Worst {
    /// Over all outputs.
    pub forward: f64,
    /// Over all gradients; None if there are none.
    pub backward: Option<f64>,
}

impl Yardstick {
    /// Measures a case for runs in `dtype`, by runs in f64 on the CPU.
    pub fn measure(case: &Case, dtype: DType) -> Result<Self> {
        let device = Device::cpu_poisoned();
        let sinks = everywhere(case, Sink::Same);
        let exact = |numbers: &Numbers| run_with(case, &device, DType::F64, &sinks, numbers);
        let numbers = numbers(case)?;
        let want = exact(&numbers)?;
        let samples = (0..SAMPLES)
            .map(|seed| exact(&moved(case, &numbers, dtype, 3 + seed)?))
            .collect::<Result<Vec<_>>>()?;

        let specs = case.specs(dtype);
        let forward = case.op.cost(&specs, Run::Forward).flops;
        let backward = forward + case.op.cost(&specs, Run::Backward(needs(case))).flops;
        // Work that many elements share, such as a row's statistics, is at least as deep as the row is wide.
        let widest = specs.iter().map(|s| s.last()).max().unwrap_or(1) as f64;
        let allow = |want: &[f64], flops: u64, moved: &[&Vec<f64>]| {
            let depth = flops as f64 / want.len().max(1) as f64 + widest;
            allowed(want, moved, dtype, depth)
        };
        let kinds = case.op.infer(&specs)?.outs;
        let outs = want.outs.iter().zip(&kinds).enumerate().map(|(j, (w, kind))| match kind.dtype {
            DType::U32 => vec![0.0; w.len()],
            _ => allow(w, forward, &samples.iter().map(|s| &s.outs[j]).collect::<Vec<_>>()),
        });
        let grads = want.grads.iter().enumerate().map(|(i, w)| {
            let moved: Vec<_> = samples.iter().filter_map(|s| s.grads[i].as_ref()).collect();
            w.as_ref().map(|w| allow(w, backward, &moved))
        });
        let allowed = Values { outs: outs.collect(), grads: grads.collect() };
        Ok(Yardstick { want, allowed })
    }

    /// The worst error of `got`, whichever element has it.
    pub fn compare(&self, got: &Values) -> Worst {
        let outs = self.want.outs.iter().zip(&self.allowed.outs).zip(&got.outs);
        let forward = outs.map(|((w, a), g)| worst(g, w, a)).fold(0.0, f64::max);
        let grads = self.want.grads.iter().zip(&self.allowed.grads).zip(&got.grads);
        let backward = grads.filter_map(|((w, a), g)| Some(worst(g.as_ref()?, w.as_ref()?, a.as_ref()?)));
        Worst { forward, backward: backward.reduce(f64::max) }
    }
}

/// Per element of a tensor, what may be lost, given the tensors that moved inputs gave.
fn allowed(want: &[f64], moved: &[&Vec<f64>], dtype: DType, depth: f64) -> Vec<f64> {
    let farthest = |i: usize| moved.iter().map(|m| (m[i] - want[i]).abs()).fold(0.0, f64::max);
    let sensitivity: Vec<f64> = (0..want.len()).map(|i| farthest(i) / step(dtype)).collect();
    // An element may by luck hardly have moved; then the tensor's typical sensitivity stands for it.
    let squares: f64 = sensitivity.iter().map(|s| s * s).sum();
    let typical = (squares / want.len().max(1) as f64).sqrt();
    let lost = step(dtype) + depth.sqrt() * step(dtype.acc());
    want.iter().zip(&sensitivity).map(|(w, s)| 2.0 * lost * (w.abs() + s.max(typical))).collect()
}

fn worst(got: &[f64], want: &[f64], allowed: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len(), "as many elements in every type");
    let fraction = |((g, w), a): ((&f64, &f64), &f64)| match (g - w).abs() {
        _ if g == w => 0.0,
        error if error.is_finite() => error / a,
        _ => f64::INFINITY,
    };
    got.iter().zip(want).zip(allowed).map(fraction).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::bf16;

    #[test]
    fn sums_in_the_narrow_type_are_refused() {
        const ROWS: usize = 257;
        const COLUMNS: usize = 64;
        let narrow = |v: f64| bf16::from_f64(v).to_f64();
        let mut random = Random::new(7);
        let x: Vec<f64> = (0..ROWS * COLUMNS).map(|_| narrow(random.normal())).collect();
        let sums = |x: &[f64], add: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
            (0..COLUMNS).map(|j| x.iter().skip(j).step_by(COLUMNS).fold(0.0, |s, v| add(s, *v))).collect()
        };
        let exact = sums(&x, &|s, v| s + v);
        let mut nudge = |v: &f64| v * (1.0 + step(DType::Bf16) * (2.0 * random.uniform() - 1.0));
        let moved: Vec<Vec<f64>> = (0..SAMPLES)
            .map(|_| sums(&x.iter().map(&mut nudge).collect::<Vec<_>>(), &|s, v| s + v))
            .collect();
        let allowed = allowed(&exact, &moved.iter().collect::<Vec<_>>(), DType::Bf16, ROWS as f64);
        let rounded: Vec<f64> = exact.iter().map(|v| narrow(*v)).collect();
        assert!(worst(&rounded, &exact, &allowed) < 1.0);
        assert!(worst(&sums(&x, &|s, v| narrow(s + v)), &exact, &allowed) > 1.0);
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        assert_eq!(worst(&[f64::NAN], &[1.0], &[1.0]), f64::INFINITY);
        assert_eq!(worst(&[f64::INFINITY], &[1.0], &[1.0]), f64::INFINITY);
        assert_eq!(worst(&[f64::NAN], &[f64::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(worst(&[1.0], &[f64::INFINITY], &[f64::INFINITY]), f64::INFINITY);
        assert_eq!(worst(&[f64::INFINITY], &[f64::NEG_INFINITY], &[1.0]), f64::INFINITY);
        assert_eq!(worst(&[f64::INFINITY], &[f64::INFINITY], &[1.0]), 0.0);
        assert_eq!(worst(&[0.5], &[0.0], &[0.0]), f64::INFINITY);
    }
}
