//! A device against the CPU in f64, by the yardstick of [`parity`]: what the device may lose is what the precision
//! makes anyone lose, times two. Each run is repeated and has to give the same bits: nothing may depend on timing. Only
//! a device that may add in any order ([`Device::set_deterministic`]) is not asked for that; its errors are held to the
//! same.

use super::parity::{self, Sink, Worst, Yardstick, everywhere};
use super::{Case, CaseKind, Entry};
use crate::device::{Device, Kind};
use crate::{DType, Error, Result};

/// What one case showed.
#[derive(Debug)]
pub enum Outcome {
    /// Everything is within the yardstick.
    Agrees(Report),
    /// The device does not have this op; the error it gave.
    NotImplemented(Error),
    /// Something is not within it; a sentence that names the case.
    Differs(String),
}

/// How closely a device agrees.
#[derive(Debug)]
pub struct Report {
    /// How many runs were compared, each with other gradients wanted.
    pub runs: usize,
    /// The largest error, as a fraction of what is allowed.
    pub worst: f64,
    /// A hash of every bit that the device gave: the same in every process.
    pub bits: u64,
}

/// The cases of an op that a device can run: those with f64, which kernels do not compute in, only on the CPU.
pub fn cases(entry: &Entry, device: &Device) -> Vec<Case> {
    if matches!(device.kind(), Kind::Gpu(_)) {
        return cases_on_gpu(entry);
    }
    let mut cases = (entry.cases)();
    cases.retain(|c| c.kind != CaseKind::Bench);
    cases
}

/// Those that a GPU can run, asked without one.
pub fn cases_on_gpu(entry: &Entry) -> Vec<Case> {
    let f64_inside = |case: &Case| {
        let shapes = case.op.infer(&case.specs(DType::F32));
        shapes.is_ok_and(|s| s.outs.iter().any(|out| out.dtype == DType::F64))
    };
    let mut cases = (entry.cases)();
    cases.retain(|c| c.kind != CaseKind::Bench && !f64_inside(c));
    cases
}

/// Runs a case in `dtype` on `device`: without gradients, with each gradient alone (the other inputs frozen), and
/// with all of them.
pub fn check(case: &Case, device: &Device, dtype: DType) -> Outcome {
    let differs = |message: String| {
        Outcome::Differs(format!("{}/{} in {dtype} on {device}: {message}", case.op.name(), case.name))
    };
    match compare(case, device, dtype) {
        Ok(Ok(report)) => Outcome::Agrees(report),
        Ok(Err(message)) => differs(message),
        Err(e @ Error::NotImplemented { .. }) => Outcome::NotImplemented(e),
        Err(e) => differs(e.to_string()),
    }
}

/// The outer error is one of running, the inner one a sentence of what differs.
fn compare(case: &Case, device: &Device, dtype: DType) -> Result<std::result::Result<Report, String>> {
    let yardstick = Yardstick::measure(case, dtype)?;
    let none = vec![None; case.ins.len()];
    let mut all = everywhere(case, Sink::Acc);
    let mut selections = vec![none.clone()];
    for i in 0..all.len() {
        if all[i].is_some() {
            let mut alone = none.clone();
            alone[i] = Some(Sink::Acc);
            // An op gives gradients of weights in T::Acc and those of activations in T. The other one takes a
            // cast, which a device that is being brought up may lack.
            match parity::run_for(case, device, dtype, &alone) {
                Err(Error::NotImplemented { op: "cast", .. }) => alone[i] = Some(Sink::Same),
                other => drop(other?),
            }
            all[i] = alone[i];
            selections.push(alone);
        }
    }
    selections.push(all);
    let mut report = Report { runs: 0, worst: 0.0, bits: 0 };
    for sinks in selections {
        let got = parity::run_for(case, device, dtype, &sinks)?;
        let Worst { forward, backward } = yardstick.compare(&got);
        for (pass, error) in [("forward", Some(forward)), ("backward", backward)] {
            let error = error.unwrap_or(0.0);
            if error > 1.0 {
                return Ok(Err(format!(
                    "{pass}: {error:.2} times the allowed error; gradients wanted: {sinks:?}"
                )));
            }
            report.worst = report.worst.max(error);
        }
        if device.deterministic() && parity::run_for(case, device, dtype, &sinks)? != got {
            return Ok(Err(format!("a second run gives other bits; gradients wanted: {sinks:?}")));
        }
        report.bits = hash(report.bits, &got);
        report.runs += 1;
    }
    Ok(Ok(report))
}

/// FNV-1a over the values, going on from `start`.
fn hash(start: u64, values: &parity::Values) -> u64 {
    let all = values.outs.iter().chain(values.grads.iter().flatten()).flatten();
    let bytes = all.flat_map(|value| value.to_bits().to_le_bytes());
    bytes.fold(start ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}
