//! The one error type of `kernels` and `engine`.

use crate::{DType, Spec};

/// The result of everything in `kernels` and `engine`.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in an op or on a device. Each message is one sentence that names the op and full shapes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Shapes that do not fit together; the message is complete.
    #[error("{op}: {message}")]
    Shape {
        /// The op that refused.
        op: &'static str,
        /// What does not match, with both shapes.
        message: String,
    },
    /// A data type the op does not take.
    #[error("{op}: {got} is not supported here, expected {expected}")]
    DType {
        /// The op that refused.
        op: &'static str,
        /// What would have been accepted.
        expected: &'static str,
        /// What was given.
        got: DType,
    },
    /// The wrong number of inputs.
    #[error("{op}: takes {expected} inputs, got {got}")]
    Arity {
        /// The op that refused.
        op: &'static str,
        /// How many it takes.
        expected: usize,
        /// How many were given.
        got: usize,
    },
    /// Inputs on different devices.
    #[error("{op}: inputs lie on different devices: {a} and {b}")]
    DeviceMismatch {
        /// The op that refused.
        op: &'static str,
        /// One device.
        a: String,
        /// The other.
        b: String,
    },
    /// The op has no implementation on this device yet.
    #[error("{op}: not implemented on this device ({device})")]
    NotImplemented {
        /// The op.
        op: &'static str,
        /// The device.
        device: String,
    },
    /// The op cannot be differentiated with respect to this input.
    #[error("{op}: input {input} has no gradient")]
    NoGradient {
        /// The op.
        op: &'static str,
        /// Which input.
        input: usize,
    },
    /// A buffer that must be written in place has a second holder.
    #[error("{op}: {spec} is updated in place but something else still holds it")]
    NotUnique {
        /// The op.
        op: &'static str,
        /// The buffer.
        spec: Spec,
    },
    /// A graph that was already consumed by a backward pass.
    #[error("backward: the graph of this tensor was already consumed by an earlier backward")]
    Consumed,
    /// No CUDA driver could be loaded.
    #[error("no CUDA driver: searched {searched}")]
    NoCuda {
        /// Where it was looked for.
        searched: String,
    },
    /// There is a driver, but no device.
    #[error("the CUDA driver shows no device")]
    NoDevice,
    /// The library of matrix products could not be loaded.
    #[error("no cuBLASLt: searched {searched}")]
    NoBlas {
        /// Where it was looked for.
        searched: String,
    },
    /// A setting in the environment that says neither yes nor no.
    #[error("{name}: expected 0 or 1, got {got}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// Its value.
        got: String,
    },
    /// The device has no room.
    #[error("out of memory on {device}: asked for {asked} bytes, {free} of {total} are free")]
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes asked for.
        asked: usize,
        /// Bytes that were free.
        free: usize,
        /// Bytes the device has.
        total: usize,
    },
    /// A kernel has to be compiled and there is no run-time compiler.
    #[error("no NVRTC to compile kernels with: searched {searched}")]
    NoCompiler {
        /// Where it was looked for.
        searched: String,
    },
    /// There is no code for a kernel that the device runs.
    #[error("kernel {kernel}: no code for {device}: {tried}")]
    NoCode {
        /// The program.
        kernel: String,
        /// The device.
        device: String,
        /// Every place it was looked for, and what came of it.
        tried: String,
    },
    /// A CUDA source that does not compile.
    #[error("kernel {kernel} does not compile:\n{log}")]
    Compile {
        /// The program.
        kernel: String,
        /// The compiler's log.
        log: String,
    },
    /// An error of the CUDA driver.
    #[error("{op}: CUDA driver: {message}")]
    Driver {
        /// The op or call that met it.
        op: String,
        /// The driver's own words.
        message: String,
    },
    /// An error of the CUDA driver after which the device answers nothing else to this process.
    #[error(
        "{op}: CUDA driver: {message}; the device is lost to this process (NEVA_SYNC=1 names the op at fault)"
    )]
    DeviceLost {
        /// The op or call that met it, which need not be the one at fault.
        op: String,
        /// The driver's own words.
        message: String,
    },
    /// An error of cuBLASLt.
    #[error("{op}: cuBLASLt: {message}")]
    Blas {
        /// The op.
        op: &'static str,
        /// The library's status, and what was asked of it.
        message: String,
    },
}

impl Error {
    /// A shape error with a complete message.
    pub fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Error::Shape { op, message: message.into() }
    }
}
