//! Marks in a stream: when work before them is done, and the time between two of them.

use super::gpu::{Gpu, driver_error};
use crate::{Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::sync::Arc;
use std::time::Duration;

/// A CUDA event. Its owner sees to it that the context is current when it is dropped.
pub(super) struct Mark(sys::CUevent);

// SAFETY: an event may be used from any thread on which its context is current.
unsafe impl Send for Mark {}
// SAFETY: as above; the driver locks what it changes.
unsafe impl Sync for Mark {}

impl Mark {
    /// A mark to wait for.
    pub(super) fn new() -> std::result::Result<Self, DriverError> {
        result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map(Mark)
    }

    /// A mark that takes the time.
    pub(super) fn timed() -> std::result::Result<Self, DriverError> {
        result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map(Mark)
    }

    /// Puts it behind everything asked of `stream` so far; a former place is forgotten.
    pub(super) fn record(&self, stream: sys::CUstream) -> std::result::Result<(), DriverError> {
        // SAFETY: the event exists until `self` is dropped; the stream belongs to the caller's open device.
        unsafe { result::event::record(self.0, stream) }
    }

    /// Waits until the work before it is done.
    pub(super) fn wait(&self) -> std::result::Result<(), DriverError> {
        // SAFETY: the event exists until `self` is dropped.
        unsafe { result::event::synchronize(self.0) }
    }

    /// The time from `start` to this mark, both recorded and waited for.
    pub(super) fn since(&self, start: &Mark) -> Result<Duration> {
        type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
        // cudarc calls the second version of this function, which drivers before CUDA 12.8 lack.
        // SAFETY: the driver was loaded when the device was opened; the type is that of the driver's header.
        let elapsed = unsafe { sys::culib().get::<Elapsed>(b"cuEventElapsedTime\0") }
            .map_err(|e| Error::Driver { op: "time".into(), message: e.to_string() })?;
        let mut ms = 0.0;
        // SAFETY: both events exist and take the time; the result is written to `ms`.
        unsafe { elapsed(&mut ms, start.0, self.0) }.result().map_err(|e| driver_error("time", e))?;
        Ok(Duration::from_secs_f32(ms.max(0.0) / 1e3))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once. After a fault this fails, and the context frees the event.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

/// The work between two marks of a device's stream.
pub(crate) struct Span {
    gpu: Arc<Gpu>,
    start: Mark,
    end: Mark,
}

impl Span {
    /// Begins here.
    pub(crate) fn start(gpu: &Arc<Gpu>) -> Result<Self> {
        gpu.bind("trace")?;
        let marks = || Ok((Mark::timed()?, Mark::timed()?));
        let (start, end) = marks().map_err(|e| driver_error("trace", e))?;
        start.record(gpu.stream).map_err(|e| driver_error("trace", e))?;
        Ok(Span { gpu: gpu.clone(), start, end })
    }

    /// Ends here.
    pub(crate) fn stop(&self) -> Result<()> {
        self.gpu.bind("trace")?;
        self.end.record(self.gpu.stream).map_err(|e| driver_error("trace", e))
    }

    /// How long the work took. Waits for its end.
    pub(crate) fn time(&self) -> Result<Duration> {
        self.gpu.bind("trace")?;
        self.end.wait().map_err(|e| driver_error("trace", e))?;
        self.end.since(&self.start)
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let _ = self.gpu.bind("trace"); // for the marks; after a fault there is nothing to free
    }
}
