//! A device against the CPU: the 2x rule.
//!
//! What a device computes in some precision may be off by at most twice what the CPU's straightforward code is off
//! in the same precision, plus one rounding step; both are measured against the CPU in f64. So there is no tolerance
//! to choose per op. Each run is repeated and has to give the same bits: nothing here may depend on timing.

use super::Case;
use super::parity::{self, Values, all_gradients, error_steps};
use crate::device::Device;
use crate::{DType, Error, Result};

/// What one case showed.
#[derive(Debug)]
pub enum Outcome {
    /// Everything is within the rule.
    Agrees(Report),
    /// The device does not have this op; the error it gave.
    NotImplemented(Error),
    /// Something is not; a sentence that names it.
    Differs(String),
}

/// How closely a device agrees.
#[derive(Debug)]
pub struct Report {
    /// How many outputs and gradients were compared.
    pub compared: usize,
    /// The largest error, in rounding steps of its type.
    pub worst: f64,
}

/// Runs a case in `dtype` on `device`: without gradients, with each gradient alone (the other inputs frozen), and
/// with all of them.
pub fn check(case: &Case, device: &Device, dtype: DType) -> Outcome {
    match compare(case, device, dtype) {
        Ok(Ok(report)) => Outcome::Agrees(report),
        Ok(Err(message)) => {
            Outcome::Differs(format!("{}/{} in {dtype}: {message}", case.op.name(), case.name))
        }
        Err(e @ Error::NotImplemented { .. }) => Outcome::NotImplemented(e),
        Err(e) => Outcome::Differs(format!("{}/{} in {dtype}: {e}", case.op.name(), case.name)),
    }
}

fn compare(case: &Case, device: &Device, dtype: DType) -> Result<std::result::Result<Report, String>> {
    let exact = parity::run(case, &Device::cpu_poisoned(), DType::F64)?;
    let none = vec![None; case.ins.len()];
    let mut all = all_gradients(case, dtype);
    let mut selections = vec![none.clone()];
    for i in 0..all.len() {
        if all[i].is_some() {
            all[i] = Some(gradient_type(case, device, dtype, i)?);
            let mut alone = none.clone();
            alone[i] = all[i];
            selections.push(alone);
        }
    }
    selections.push(all);
    let mut report = Report { compared: 0, worst: 0.0 };
    for wanted in selections {
        let got = parity::run_wanting(case, device, dtype, &wanted)?;
        let cpu = parity::run_wanting(case, &Device::cpu_poisoned(), dtype, &wanted)?;
        if let Err(message) = within_rule(&got, &cpu, &exact, dtype, &wanted, &mut report) {
            return Ok(Err(message));
        }
        if parity::run_wanting(case, device, dtype, &wanted)? != got {
            return Ok(Err(format!("a second run gives other bits; gradients wanted: {wanted:?}")));
        }
    }
    Ok(Ok(report))
}

/// The type in which the gradient of input `i` can be had: `T::Acc`, the type of weight gradients, or `T`, that of
/// activation gradients. An op gives one of them; the other takes a cast, which this device may lack.
fn gradient_type(case: &Case, device: &Device, dtype: DType, i: usize) -> Result<DType> {
    let mut wanted = vec![None; case.ins.len()];
    wanted[i] = Some(dtype.acc());
    match parity::run_wanting(case, device, dtype, &wanted) {
        Ok(_) => Ok(dtype.acc()),
        Err(Error::NotImplemented { op: "cast", .. }) => Ok(dtype),
        Err(e) => Err(e),
    }
}

/// Compares every output and gradient, and counts them into `report`.
fn within_rule(
    got: &Values,
    cpu: &Values,
    exact: &Values,
    dtype: DType,
    wanted: &[Option<DType>],
    report: &mut Report,
) -> std::result::Result<(), String> {
    let outs = (0..got.outs.len())
        .map(|j| (format!("output {j}"), dtype, &got.outs[j], &cpu.outs[j], &exact.outs[j]));
    let grads = (0..wanted.len()).filter_map(|i| {
        let values = (got.grads[i].as_ref()?, cpu.grads[i].as_ref()?, exact.grads[i].as_ref()?);
        Some((format!("gradient {i}"), wanted[i]?, values.0, values.1, values.2))
    });
    for (name, dtype, got, cpu, exact) in outs.chain(grads) {
        let (error, reference) = (error_steps(dtype, got, exact), error_steps(dtype, cpu, exact));
        let allowed = 2.0 * reference + 1.0;
        if error.is_nan() || error > allowed {
            return Err(format!(
                "{name} is off by {error:.2} rounding steps of {dtype}, {allowed:.2} are allowed; \
                 gradients wanted: {wanted:?}"
            ));
        }
        report.compared += 1;
        report.worst = report.worst.max(error);
    }
    Ok(())
}
