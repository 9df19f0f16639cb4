//! What a device counts: bytes by role, and on request every op that ran.

use super::event::Span;
use super::{Device, Kind};
use crate::Result;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Parameters of the model.
    Weight,
    /// Gradients of parameters.
    Gradient,
    /// Master weights and moments.
    Optimizer,
    /// Outputs of ops, their gradients, and what backward keeps.
    Activation,
    /// Scratch that lives for one op.
    Workspace,
}

impl Role {
    /// Every role, in the order reports list them.
    pub const ALL: [Role; 5] =
        [Role::Weight, Role::Gradient, Role::Optimizer, Role::Activation, Role::Workspace];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Role::Weight => "weights",
            Role::Gradient => "gradients",
            Role::Optimizer => "optimizer",
            Role::Activation => "activations",
            Role::Workspace => "workspace",
        }
    }
}

/// Which run of an op an [`Event`] was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// Inputs to outputs.
    Forward,
    /// Output gradients to input gradients; bit i is set if input i wanted one.
    Backward(u32),
    /// An update in place: the optimiser, accumulation.
    Update,
}

/// One op that ran.
#[derive(Debug, Clone)]
pub struct Event {
    /// The op's name.
    pub op: &'static str,
    /// The part of the model it belongs to, dotted.
    pub scope: Arc<str>,
    /// Which run of it.
    pub pass: Pass,
    /// How long it took: on the host's clock, on a GPU on the device's.
    pub time: Duration,
    /// Floating-point operations, by the op's own count.
    pub flops: u64,
    /// Compulsory bytes: each input read once, each output written once.
    pub bytes: u64,
}

/// Takes the time of one run of an op.
pub(crate) enum Clock {
    Host(Instant),
    Gpu(Span),
}

impl Clock {
    pub(crate) fn start(device: &Device) -> Result<Self> {
        Ok(match device.kind() {
            Kind::Gpu(gpu) => Clock::Gpu(Span::start(gpu)?),
            _ => Clock::Host(Instant::now()),
        })
    }
}

/// An op that ran and, on a GPU, between which events: its time is known once both have come.
type Recorded = (Event, Option<Span>);

#[derive(Default)]
pub(crate) struct Meter {
    bytes: Mutex<Bytes>,
    /// Ops that ran, each with the work on a GPU that its time is to be read from.
    trace: Mutex<Option<Vec<Recorded>>>,
    scope: Mutex<Vec<Arc<str>>>,
    no_grad: AtomicUsize,
}

#[derive(Default)]
struct Bytes {
    live: [usize; 5],
    peak: [usize; 5],
    peak_total: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere cannot leave a counter half-written.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Meter {
    pub(crate) fn add(&self, role: Role, bytes: usize) {
        let mut b = lock(&self.bytes);
        let i = role as usize;
        b.live[i] += bytes;
        b.peak[i] = b.peak[i].max(b.live[i]);
        b.peak_total = b.peak_total.max(b.live.iter().sum());
    }

    pub(crate) fn remove(&self, role: Role, bytes: usize) {
        lock(&self.bytes).live[role as usize] -= bytes;
    }

    pub(crate) fn live(&self, role: Role) -> usize {
        lock(&self.bytes).live[role as usize]
    }

    pub(crate) fn peak(&self) -> usize {
        lock(&self.bytes).peak_total
    }

    pub(crate) fn peak_of(&self, role: Role) -> usize {
        lock(&self.bytes).peak[role as usize]
    }

    pub(crate) fn reset_peak(&self) {
        let mut b = lock(&self.bytes);
        b.peak = b.live;
        b.peak_total = b.live.iter().sum();
    }

    pub(crate) fn start_trace(&self) {
        *lock(&self.trace) = Some(vec![]);
    }

    pub(crate) fn take_trace(&self) -> Result<Vec<Event>> {
        let recorded = lock(&self.trace).take().unwrap_or_default();
        let timed = |(event, span): Recorded| match span {
            Some(span) => Ok(Event { time: span.time()?, ..event }),
            None => Ok(event),
        };
        recorded.into_iter().map(timed).collect()
    }

    pub(crate) fn tracing(&self) -> bool {
        lock(&self.trace).is_some()
    }

    /// Records an op whose run ends here, with a time of 0 as yet.
    pub(crate) fn record(&self, event: Event, clock: Clock) -> Result<()> {
        let timed = match clock {
            Clock::Host(start) => (Event { time: start.elapsed(), ..event }, None),
            Clock::Gpu(span) => {
                span.stop()?;
                (event, Some(span))
            }
        };
        if let Some(trace) = lock(&self.trace).as_mut() {
            trace.push(timed);
        }
        Ok(())
    }

    pub(crate) fn enter(&self, device: Device, name: &str) -> Scope {
        let mut stack = lock(&self.scope);
        let path = match stack.last() {
            Some(outer) => format!("{outer}.{name}"),
            None => name.to_string(),
        };
        stack.push(path.into());
        Scope(device)
    }

    pub(crate) fn no_grad(&self, device: Device) -> NoGrad {
        self.no_grad.fetch_add(1, Ordering::Relaxed);
        NoGrad(device)
    }

    pub(crate) fn grad_enabled(&self) -> bool {
        self.no_grad.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn path(&self) -> Arc<str> {
        lock(&self.scope).last().cloned().unwrap_or_else(|| "".into())
    }
}

/// Leaves its scope when dropped.
#[must_use = "the scope ends when this is dropped"]
pub struct Scope(Device);

impl Drop for Scope {
    fn drop(&mut self) {
        lock(&self.0.meter().scope).pop();
    }
}

/// Lets gradients be recorded again when dropped.
#[must_use = "gradients are recorded again when this is dropped"]
pub struct NoGrad(Device);

impl Drop for NoGrad {
    fn drop(&mut self) {
        self.0.meter().no_grad.fetch_sub(1, Ordering::Relaxed);
    }
}
