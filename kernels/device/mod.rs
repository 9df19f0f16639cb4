//! Where buffers lie and ops run: the CPU, a GPU, or a plan that only counts.
//!
//! A [`Device`] is a handle: cloning it is cheap and nothing about it is global. It carries the memory counters and
//! the trace, so two devices (two ranks in one process, say) never mix their numbers.

pub mod blas;
mod buffer;
mod cache;
pub(crate) mod compiler;
mod event;
pub mod gpu;
pub(crate) mod host;
pub(crate) mod launch;
pub(crate) mod libraries;
mod mapped;
mod memory;
mod meter;
pub mod prebuilt;
pub mod program;
mod staging;
pub mod tensor_map;
pub(crate) mod tensors;

pub use buffer::Buffer;
pub use mapped::MappedFile;
pub(crate) use meter::Clock;
pub use meter::{Event, NoGrad, Pass, Role, Scope};

use crate::{Error, Result, Spec};
use gpu::Gpu;
use host::Pool;
use meter::Meter;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A device, by handle.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    kind: Kind,
    meter: Meter,
    poison: bool,
    deterministic: AtomicBool,
}

/// What a device is. Ops match on this to choose an implementation.
#[non_exhaustive]
pub enum Kind {
    /// The host's processors, through rayon's current thread pool.
    Cpu(Cpu),
    /// A CUDA device.
    Gpu(Arc<Gpu>),
    /// Shapes only: memory is counted, nothing is computed. The same model code runs on it.
    Plan,
}

/// The CPU's own state: its block pool.
pub struct Cpu {
    pool: Arc<Pool>,
}

impl Device {
    fn new(kind: Kind, poison: bool) -> Self {
        Device(Arc::new(Inner {
            kind,
            meter: Meter::default(),
            poison,
            deterministic: AtomicBool::new(true),
        }))
    }

    /// The CPU.
    pub fn cpu() -> Self {
        Self::new(Kind::Cpu(Cpu { pool: Arc::default() }), false)
    }

    /// The CPU, with every fresh buffer filled with NaN bytes: an output an op forgot to write shows up.
    pub fn cpu_poisoned() -> Self {
        Self::new(Kind::Cpu(Cpu { pool: Arc::default() }), true)
    }

    /// CUDA device `ordinal`, counted from 0 among those the driver shows.
    ///
    /// Errors: no CUDA driver on this machine ([`Error::NoCuda`]), one too old, no such device.
    pub fn gpu(ordinal: usize) -> Result<Self> {
        Ok(Self::new(Kind::Gpu(Arc::new(Gpu::open(ordinal)?)), false))
    }

    /// As [`Device::gpu`], with every fresh buffer filled with NaN bytes.
    pub fn gpu_poisoned(ordinal: usize) -> Result<Self> {
        Ok(Self::new(Kind::Gpu(Arc::new(Gpu::open(ordinal)?)), true))
    }

    /// Whether every library that ops will need can be opened; they are not opened before.
    ///
    /// Errors: on a GPU, no cuBLASLt; no run-time compiler where there are kernels that this binary has no code for.
    pub fn ready(&self) -> Result<()> {
        match self.kind() {
            Kind::Gpu(gpu) => {
                if !program::all_prebuilt(gpu.capability())? {
                    libraries::compiler().map_err(|searched| Error::NoCompiler { searched })?;
                }
                libraries::blas().map_err(|searched| Error::NoBlas { searched })
            }
            _ => Ok(()),
        }
    }

    /// A device that counts memory and computes nothing.
    pub fn plan() -> Self {
        Self::new(Kind::Plan, false)
    }

    /// What it is.
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// Whether this and `other` are the same device.
    pub fn same(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether it only counts.
    pub fn is_plan(&self) -> bool {
        matches!(self.0.kind, Kind::Plan)
    }

    /// Whether ops must give the same bits each time they run; true unless it was set otherwise.
    pub fn deterministic(&self) -> bool {
        self.0.deterministic.load(Ordering::Relaxed)
    }

    /// Lets ops that start from now on add up in whatever order is fastest, or not. On the CPU and in a plan it changes
    /// nothing; on a GPU, the backward pass of attention in bf16.
    pub fn set_deterministic(&self, deterministic: bool) {
        self.0.deterministic.store(deterministic, Ordering::Relaxed);
    }

    /// A buffer with unspecified contents, counted under `role`.
    pub fn alloc(&self, spec: Spec, role: Role) -> Result<Buffer> {
        Buffer::alloc(self, spec, role)
    }

    /// What it is, for a report: the name of the card, or the instructions used on the CPU.
    pub fn describe(&self) -> String {
        match self.kind() {
            Kind::Gpu(gpu) => gpu.describe(),
            Kind::Cpu(_) => {
                let (threads, path) = (rayon::current_num_threads(), crate::simd::Path::current().name());
                format!("CPU, {threads} threads, {path}")
            }
            Kind::Plan => "plan".into(),
        }
    }

    /// Waits until everything asked of the device is done.
    ///
    /// Errors: an op failed since the last wait.
    pub fn wait(&self) -> Result<()> {
        match self.kind() {
            Kind::Gpu(gpu) => gpu.synchronize("wait"),
            _ => Ok(()),
        }
    }

    /// The error for an op that has no implementation here yet.
    pub fn not_implemented(&self, op: &'static str) -> Error {
        Error::NotImplemented { op, device: self.to_string() }
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.0.meter
    }

    pub(crate) fn poison(&self) -> bool {
        self.0.poison
    }

    /// Bytes now held in buffers of `role`.
    pub fn live_bytes(&self, role: Role) -> usize {
        self.meter().live(role)
    }

    /// The most bytes that were ever held at once, over all roles, since the last [`Device::reset_peak`].
    pub fn peak_bytes(&self) -> usize {
        self.meter().peak()
    }

    /// The most bytes that buffers of `role` ever held at once since the last [`Device::reset_peak`].
    pub fn peak_bytes_of(&self, role: Role) -> usize {
        self.meter().peak_of(role)
    }

    /// Sets the peaks back to what is live now.
    pub fn reset_peak(&self) {
        self.meter().reset_peak();
    }

    /// Starts recording every op; [`Device::take_trace`] ends it.
    pub fn start_trace(&self) {
        self.meter().start_trace();
    }

    /// Stops recording and returns what ran, in order. On a GPU it waits until the last of it is done.
    ///
    /// Errors: that of an op since the last wait.
    pub fn take_trace(&self) -> Result<Vec<Event>> {
        self.meter().take_trace()
    }

    /// Names the part of the model that runs until the guard is dropped; nested scopes join with a dot.
    pub fn scope(&self, name: &str) -> Scope {
        self.meter().enter(self.clone(), name)
    }

    /// Until the guard is dropped, parameters are constants: nothing is recorded for backward.
    pub fn no_grad(&self) -> NoGrad {
        self.meter().no_grad(self.clone())
    }

    /// Whether parameters are leaves of a graph now.
    pub fn grad_enabled(&self) -> bool {
        self.meter().grad_enabled()
    }

    /// The dotted path of the scopes entered now.
    pub fn scope_path(&self) -> Arc<str> {
        self.meter().path()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.kind {
            Kind::Cpu(_) => f.write_str("cpu"),
            Kind::Gpu(gpu) => fmt::Display::fmt(gpu, f),
            Kind::Plan => f.write_str("plan"),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
