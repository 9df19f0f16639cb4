//! A CUDA device: its context, one stream, and the one way to launch a kernel. Its memory is in `memory.rs`, copies to
//! and from the host in `staging.rs`, matrix products in `blas.rs`.
//!
//! Everything runs on one stream in the order it was asked for, and nothing waits but a download. So a buffer may be
//! dropped right after the launch that uses it: its bytes are freed in stream order. cudarc is used below its safe
//! layer: that one records two events per buffer and launch, which costs time and spoils graph capture, and its
//! buffers are typed.
//!
//! A kernel that faults is noticed by a later call. `NEVA_SYNC=1` waits after each launch, fill, copy and product, so
//! that the error names the op that caused it.

use super::blas::Blas;
use super::program::{Program, Source};
use super::staging::Staging;
use super::tensor_map::TensorMap;
use super::{libraries, memory};
use crate::{Buffer, Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{Profiler, sys};
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::Mutex;

/// The driver NeVA needs: 11.2 brought stream-ordered memory. A call an older one lacks would panic.
const OLDEST_DRIVER: (i32, i32) = (11, 2);

/// The most arguments a kernel takes.
const MAX_ARGS: usize = 24;

/// One CUDA device.
pub struct Gpu {
    ordinal: usize,
    pub(super) name: String,
    /// Compute capability times ten.
    capability: u32,
    multiprocessors: u32,
    /// Shared memory that a block may have.
    shared_bytes: usize,
    /// Whether to wait after each op.
    sync: bool,
    /// Whether products of f32 may round their factors to TF32.
    pub(super) tf32: bool,
    device: sys::CUdevice,
    context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    pub(super) pool: sys::CUmemoryPool,
    programs: Mutex<HashMap<String, Program>>,
    pub(super) staging: Mutex<Staging>,
    pub(super) blas: Mutex<Option<Blas>>,
}

// SAFETY: the handles are usable from any thread once the context is current there, which `bind` sees to before
// each call; what changes is locked.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// One argument of a kernel. Its type and place are those of the `.cu` signature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KernelArg {
    /// A device address; 0 is null.
    Ptr(u64),
    /// `i64`.
    I64(i64),
    /// `u64`.
    U64(u64),
    /// `u32`.
    U32(u32),
    /// `float`.
    F32(f32),
    /// `TENSOR_MAP`.
    TensorMap(TensorMap),
}

impl KernelArg {
    /// A buffer the kernel reads.
    pub fn read(buffer: &Buffer) -> Self {
        KernelArg::Ptr(buffer.device_ptr())
    }

    /// A buffer the kernel writes.
    pub fn write(buffer: &mut Buffer) -> Self {
        KernelArg::Ptr(buffer.device_ptr_mut())
    }

    /// A buffer the kernel writes, or null.
    pub fn write_or_null(buffer: Option<&mut Buffer>) -> Self {
        buffer.map_or(KernelArg::Ptr(0), Self::write)
    }

    /// Where the bytes of the argument begin: in `room`, whose low end they are (both of CUDA's hosts are
    /// little-endian), or in itself.
    fn bytes<'a>(&'a self, room: &'a mut u64) -> *mut c_void {
        *room = match self {
            KernelArg::Ptr(p) => *p,
            KernelArg::I64(v) => *v as u64,
            KernelArg::U64(v) => *v,
            KernelArg::U32(v) => (*v).into(),
            KernelArg::F32(v) => v.to_bits().into(),
            KernelArg::TensorMap(map) => return std::ptr::from_ref(map).cast_mut().cast(),
        };
        std::ptr::from_mut(room).cast()
    }
}

/// How many threads a kernel runs on.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Blocks, in x, y and z.
    pub blocks: [u32; 3],
    /// Threads per block: a multiple of 32, within the kernel's launch bound.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
}

impl Grid {
    /// A one-dimensional grid without dynamic shared memory.
    pub fn linear(blocks: u32, threads: u32) -> Self {
        Grid { blocks: [blocks, 1, 1], threads, shared_bytes: 0 }
    }
}

impl Gpu {
    /// Opens device `ordinal`, counted from 0 among the devices the driver shows.
    ///
    /// Errors: no driver library, a driver older than 11.2, no such device.
    pub(super) fn open(ordinal: usize) -> Result<Self> {
        libraries::driver().map_err(|searched| Error::NoCuda { searched })?;
        let at = |step: &str| {
            let op = format!("open cuda:{ordinal}: {step}");
            move |e| driver_error(op, e)
        };
        check_version().map_err(|message| Error::Driver { op: format!("open cuda:{ordinal}"), message })?;
        let (sync, tf32) = (flag("NEVA_SYNC")?, flag("NEVA_TF32")?);
        match result::init() {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Err(Error::NoDevice),
            other => other.map_err(at("initialise"))?,
        }
        let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
        let device = result::device::get(number).map_err(at("find the device"))?;
        use sys::CUdevice_attribute::*;
        let attribute = |which| {
            // SAFETY: `device` came from the driver.
            unsafe { result::device::get_attribute(device, which) }.map_err(at("ask for an attribute"))
        };
        let major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32;
        let minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32;
        let multiprocessors = attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
        let shared_bytes = attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize;
        // SAFETY: `device` came from the driver; `Drop` releases the context once.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(at("retain its context"))?;
        let mut gpu = Gpu {
            ordinal,
            name: result::device::get_name(device).map_err(at("ask for its name"))?,
            capability: major * 10 + minor,
            multiprocessors,
            shared_bytes,
            sync,
            tf32,
            device,
            context,
            stream: std::ptr::null_mut(),
            pool: std::ptr::null_mut(),
            programs: Mutex::default(),
            staging: Mutex::default(),
            blas: Mutex::default(),
        };
        gpu.bind("open")?;
        gpu.stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(at("stream"))?;
        gpu.pool = memory::pool(device).map_err(at("memory pool"))?;
        Ok(gpu)
    }

    /// How many blocks can run side by side is a multiple of this.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// The most bytes of shared memory that a block may have, static arrays included.
    pub fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    /// The name of the card and its compute capability.
    pub(super) fn describe(&self) -> String {
        format!("{}, compute capability {}.{}", self.name, self.capability / 10, self.capability % 10)
    }

    /// The compute capability times ten.
    pub fn capability(&self) -> u32 {
        self.capability
    }

    /// Makes the context current on this thread.
    pub(super) fn bind(&self, op: &str) -> Result<()> {
        // SAFETY: the context is retained until `Drop`.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| driver_error(op, e))
    }

    /// Waits until everything asked for so far is done. An error may be that of any op since the last wait.
    pub fn synchronize(&self, op: &str) -> Result<()> {
        self.bind(op)?;
        // SAFETY: the stream lives until `Drop`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| driver_error(op, e))
    }

    /// After each piece of work: waits for it if `NEVA_SYNC=1`.
    pub(super) fn launched(&self, op: &str) -> Result<()> {
        if self.sync { self.synchronize(op) } else { Ok(()) }
    }

    /// Lets a profiler that was told to wait for it (`ncu --profile-from-start off`) look at what follows, until the
    /// result is dropped.
    pub(crate) fn profile(&self, op: &'static str) -> Result<Profiler> {
        self.bind(op)?;
        Profiler::new().map_err(|e| driver_error(format!("{op}: start the profiler"), e))
    }

    /// Runs `entry` of `source` for the op `op`, compiling the source if this device has not used it yet.
    ///
    /// Errors: the source does not compile, it has no such entry, the driver refuses the launch.
    ///
    /// # Safety
    ///
    /// `args` are those of the entry's signature, in order and type; every address is null where the kernel
    /// allows it or that of a buffer on this device that holds what the kernel accesses under `grid`.
    pub unsafe fn launch(
        &self,
        op: &'static str,
        source: &Source,
        entry: &str,
        grid: Grid,
        args: &[KernelArg],
    ) -> Result<()> {
        assert!(args.len() <= MAX_ARGS, "{op}: {entry} takes {} arguments, at most {MAX_ARGS}", args.len());
        let most = source.dynamic_bytes(entry).unwrap_or(usize::MAX);
        assert!(grid.shared_bytes as usize <= most, "{op}: {entry} declares {most} bytes of dynamic memory");
        self.bind(op)?;
        let function = {
            let mut programs = self.programs.lock().unwrap_or_else(|e| e.into_inner());
            let name = source.name();
            if !programs.contains_key(&name) {
                programs.insert(name.clone(), Program::load(source, self.capability)?);
            }
            programs.get_mut(&name).expect("inserted above").entry(entry, grid.shared_bytes)?
        };
        let mut values = [0u64; MAX_ARGS];
        let mut pointers = [std::ptr::null_mut(); MAX_ARGS];
        for ((pointer, value), arg) in pointers.iter_mut().zip(&mut values).zip(args) {
            *pointer = arg.bytes(value);
        }
        let [x, y, z] = grid.blocks;
        // SAFETY: one pointer per argument, each to bytes that begin with the argument, which the driver reads;
        // the rest is what the caller promises.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (grid.threads, 1, 1),
                grid.shared_bytes,
                self.stream,
                &mut pointers[..args.len()],
            )
        }
        .map_err(|e| driver_error(format!("{op}: launch {entry}"), e))?;
        self.launched(op)
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{}", self.ordinal)
    }
}

impl Drop for Gpu {
    // After a fault every call here fails, and there is nobody to tell: the process has had the error before.
    fn drop(&mut self) {
        let _ = self.synchronize("close");
        *self.staging.get_mut().unwrap_or_else(|e| e.into_inner()) = Staging::default();
        if let Some(blas) = self.blas.get_mut().unwrap_or_else(|e| e.into_inner()).take() {
            blas.close(self);
        }
        self.programs.get_mut().unwrap_or_else(|e| e.into_inner()).clear();
        if !self.stream.is_null() {
            // SAFETY: the stream is destroyed once; memory, which uses it, keeps the device alive.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
        // SAFETY: retained once in `open`.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// A setting that is 0 or 1; 0 if it is not set.
fn flag(name: &'static str) -> Result<bool> {
    match std::env::var_os(name) {
        None => Ok(false),
        Some(value) if value == "0" => Ok(false),
        Some(value) if value == "1" => Ok(true),
        Some(value) => Err(Error::Setting { name, got: value.to_string_lossy().into_owned() }),
    }
}

/// An error in the driver's own words.
pub(super) fn driver_error(op: impl Into<String>, error: DriverError) -> Error {
    let words = |text: std::result::Result<&std::ffi::CStr, DriverError>| {
        text.map_or("unknown error".into(), |t| t.to_string_lossy().into_owned())
    };
    let message = format!("{} ({})", words(error.error_string()), words(error.error_name()));
    if ends_the_context(error.0) {
        return Error::DeviceLost { op: op.into(), message };
    }
    Error::Driver { op: op.into(), message }
}

/// Whether every call after this error fails too, as long as the process lives.
fn ends_the_context(error: sys::CUresult) -> bool {
    use sys::CUresult::*;
    matches!(
        error,
        CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_DEVICE_UNAVAILABLE
            | CUDA_ERROR_EXTERNAL_DEVICE
    )
}

/// Refuses drivers that lack calls we make.
fn check_version() -> std::result::Result<(), String> {
    let mut version = 0;
    // SAFETY: every driver has this call; it writes one int.
    let status = unsafe { sys::cuDriverGetVersion(&mut version) };
    if status != sys::CUresult::CUDA_SUCCESS {
        return Err(format!("cannot ask the driver for its version: {status:?}"));
    }
    let found = (version / 1000, version % 1000 / 10);
    let (major, minor) = OLDEST_DRIVER;
    if found >= OLDEST_DRIVER {
        return Ok(());
    }
    Err(format!("the driver supports CUDA {}.{}, NeVA needs {major}.{minor} or newer", found.0, found.1))
}
