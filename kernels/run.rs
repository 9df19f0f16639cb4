//! The mechanics of running one op: what the engine calls, and what the checks call, so that what is checked runs.

use crate::device::{Buffer, Clock, Device, Event, Pass};
use crate::op::{Backward, Cost, Forward, Needs, Op, Run, Slot, Want};
use crate::{Error, Result, Spec};
use std::time::Duration;

/// What one forward run made.
#[derive(Debug)]
pub struct Ran {
    /// The outputs.
    pub outs: Vec<Buffer>,
    /// What `Op::saves` listed, in that order; empty if no input needs a gradient.
    pub saved: Vec<Buffer>,
}

/// Runs `op` forward on `ins`. Inputs are owned: the last holder of a buffer donates it to ops that work in place.
/// `needs` says which inputs will want a gradient.
pub fn forward(op: &dyn Op, ins: Vec<Buffer>, needs: Needs) -> Result<Ran> {
    run(op, ins, needs, Pass::Forward)
}

fn run(op: &dyn Op, ins: Vec<Buffer>, needs: Needs, pass: Pass) -> Result<Ran> {
    let name = op.name();
    let specs: Vec<Spec> = ins.iter().map(Buffer::spec).collect();
    let shapes = op.infer(&specs)?;
    let device = common_device(name, &ins)?;
    let slots = if needs.any() { op.saves(needs) } else { &[] };
    let kept: Vec<Option<Buffer>> = slots
        .iter()
        .map(|s| match s {
            Slot::In(i) => Some(ins[*i].clone()),
            _ => None,
        })
        .collect();
    let timer = Timer::start(&device)?;
    let ins = ins.into_iter().map(Some).collect();
    let mut io = Forward { op: name, device: &device, ins, shapes: &shapes, grad: needs.any() };
    let made = op.forward(&mut io)?;
    drop(io);
    timer.stop(op, || device.scope_path(), pass, || op.cost(&specs, Run::Forward))?;
    debug_assert_eq!(made.outs.iter().map(Buffer::spec).collect::<Vec<_>>(), shapes.outs, "{name}: outputs");
    let saved = slots
        .iter()
        .zip(kept)
        .map(|(slot, kept)| match slot {
            Slot::In(_) => kept.expect("kept above"),
            Slot::Out(j) => made.outs[*j].clone(),
            Slot::Stat(k) => made.stats[*k].clone(),
        })
        .collect();
    Ok(Ran { outs: made.outs, saved })
}

/// Runs `op` backward. `ins` are the specs forward saw, `saved` what it returned, `douts` the gradients of the
/// outputs (None where nothing depends on one; at least one is present). Returns one gradient per wanted input.
pub fn backward(
    op: &dyn Op,
    scope: &std::sync::Arc<str>,
    ins: &[Spec],
    saved: Vec<Buffer>,
    douts: Vec<Option<Buffer>>,
    wants: Vec<Want>,
) -> Result<Vec<Option<Buffer>>> {
    let device = douts.iter().flatten().next().expect("at least one output gradient").device().clone();
    let wanted: Vec<bool> = wants.iter().map(|w| !matches!(w, Want::No)).collect();
    let needs = Needs(wanted.iter().enumerate().map(|(i, w)| (*w as u32) << i).sum());
    let timer = Timer::start(&device)?;
    let mut io = Backward {
        op: op.name(),
        device: &device,
        ins,
        saved: saved.into_iter().map(Some).collect(),
        douts,
        given: vec![None; wants.len()],
        wants,
    };
    op.backward(&mut io)?;
    let given = io.given;
    timer.stop(op, || scope.clone(), Pass::Backward(needs.0), || op.cost(ins, Run::Backward(needs)))?;
    for (i, wanted) in wanted.iter().enumerate() {
        assert_eq!(
            given[i].is_some(),
            *wanted,
            "{}: gives a gradient exactly where one is wanted ({i})",
            op.name()
        );
    }
    Ok(given)
}

/// Runs an op that updates its inputs in place and needs no gradient: the optimiser, a KV cache.
pub fn update(op: &dyn Op, ins: Vec<Buffer>) -> Result<Vec<Buffer>> {
    Ok(run(op, ins, Needs::default(), Pass::Update)?.outs)
}

fn common_device(op: &'static str, ins: &[Buffer]) -> Result<Device> {
    let first = ins.first().ok_or(Error::Arity { op, expected: 1, got: 0 })?.device();
    match ins.iter().find(|b| !b.device().same(first)) {
        None => Ok(first.clone()),
        Some(other) => Err(Error::DeviceMismatch { op, a: first.to_string(), b: other.device().to_string() }),
    }
}

/// Times one run if the device records a trace.
struct Timer<'a>(Option<(&'a Device, Clock)>);

impl<'a> Timer<'a> {
    fn start(device: &'a Device) -> Result<Self> {
        let tracing = device.meter().tracing();
        Ok(Timer(tracing.then(|| Ok::<_, Error>((device, Clock::start(device)?))).transpose()?))
    }

    fn stop(
        self,
        op: &dyn Op,
        scope: impl FnOnce() -> std::sync::Arc<str>,
        pass: Pass,
        cost: impl FnOnce() -> Cost,
    ) -> Result<()> {
        let Some((device, clock)) = self.0 else { return Ok(()) };
        let Cost { flops, bytes } = cost();
        let time = Duration::ZERO;
        device.meter().record(Event { op: op.name(), scope: scope(), pass, time, flops, bytes }, clock)
    }
}
