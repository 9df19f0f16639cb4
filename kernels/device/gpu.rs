//! A CUDA device: its context, one stream, memory in stream order, and the one way to launch a kernel.
//!
//! Everything runs on one stream in the order it was asked for, and nothing waits but copies between host and
//! device. So a buffer may be dropped right after the launch that uses it: its bytes are freed in stream order.
//! cudarc is used below its safe layer: that one records two events per buffer and launch, which costs time and
//! spoils graph capture, and its buffers are typed.
//!
//! A kernel that faults is noticed by a later call. `NEVA_SYNC=1` waits after each launch, so that the error names
//! the op that caused it.

use super::libraries;
use super::program::{Program, Source};
use super::tensor_map::TensorMap;
use crate::{Buffer, Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Mutex};

/// The driver NeVA needs: 11.2 brought stream-ordered memory. A call an older one lacks would panic.
const OLDEST_DRIVER: (i32, i32) = (11, 2);

/// The most arguments a kernel takes.
const MAX_ARGS: usize = 24;

/// One CUDA device.
pub struct Gpu {
    ordinal: usize,
    /// Compute capability times ten.
    capability: u32,
    multiprocessors: u32,
    sync: bool,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    programs: Mutex<HashMap<String, Program>>,
}

// SAFETY: the handles are usable from any thread once the context is current there, which `bind` sees to before
// each call; the map is locked.
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
        result::init().map_err(at("initialise"))?;
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
        // SAFETY: `device` came from the driver; `Drop` releases the context once.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(at("retain its context"))?;
        let mut gpu = Gpu {
            ordinal,
            capability: major * 10 + minor,
            multiprocessors,
            sync: std::env::var_os("NEVA_SYNC").is_some_and(|v| v == "1"),
            device,
            context,
            stream: std::ptr::null_mut(),
            programs: Mutex::default(),
        };
        gpu.bind("open")?;
        gpu.stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(at("stream"))?;
        keep_freed_memory(device).map_err(at("memory pool"))?;
        Ok(gpu)
    }

    /// How many blocks can run side by side is a multiple of this.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// The name of the card and its compute capability.
    pub(super) fn describe(&self) -> Result<String> {
        let name = result::device::get_name(self.device).map_err(|e| driver_error("ask for the name", e))?;
        Ok(format!("{name}, compute capability {}.{}", self.capability / 10, self.capability % 10))
    }

    /// The compute capability times ten.
    pub fn capability(&self) -> u32 {
        self.capability
    }

    /// The architecture to compile for, as NVRTC names it. From 9.0 on there is a variant with the instructions of
    /// that generation alone.
    pub(super) fn architecture(&self) -> String {
        format!("sm_{}{}", self.capability, if self.capability >= 90 { "a" } else { "" })
    }

    /// Makes the context current on this thread.
    pub(super) fn bind(&self, op: &str) -> Result<()> {
        // SAFETY: the context is retained until `Drop`.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| driver_error(op, e))
    }

    /// Device memory of `bytes` bytes with unspecified contents.
    pub(super) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<DeviceMemory> {
        if bytes == 0 {
            return Ok(DeviceMemory { gpu: self.clone(), ptr: 0 }); // the driver refuses to allocate nothing
        }
        self.bind("alloc")?;
        // SAFETY: the stream is the context's; the memory is freed once, by `DeviceMemory`, on the same stream.
        match unsafe { result::malloc_async(self.stream, bytes) } {
            Ok(ptr) => Ok(DeviceMemory { gpu: self.clone(), ptr }),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, _) = result::mem_get_info().map_err(|e| driver_error("alloc", e))?;
                Err(Error::OutOfMemory { device: self.to_string(), asked: bytes, free })
            }
            Err(e) => Err(driver_error("alloc", e)),
        }
    }

    /// Sets `bytes` bytes from `ptr` on to `value`. The caller's buffer holds that range.
    pub(super) fn fill(&self, ptr: u64, value: u8, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind("fill")?;
        // SAFETY: the range lies in one allocation of this device (the caller's buffer).
        unsafe { result::memset_d8_async(ptr, value, bytes, self.stream) }
            .map_err(|e| driver_error("fill", e))
    }

    /// Copies between two ranges of this device, each held by a buffer of the caller.
    pub(super) fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind("copy")?;
        // SAFETY: both ranges lie in allocations of this device, and they are different ones.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }
            .map_err(|e| driver_error("copy", e))
    }

    /// Copies to the device and waits: `from` may be reused at once.
    pub(super) fn upload(&self, from: &[u8], to: u64) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        self.bind("upload")?;
        // SAFETY: the caller's buffer holds `from.len()` bytes from `to` on; `from` outlives the wait below.
        unsafe { result::memcpy_htod_async(to, from, self.stream) }.map_err(|e| driver_error("upload", e))?;
        self.synchronize("upload")
    }

    /// Copies to the host and waits.
    pub(super) fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        self.bind("download")?;
        // SAFETY: the caller's buffer holds `to.len()` bytes from `from` on; `to` outlives the wait below.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream) }
            .map_err(|e| driver_error("download", e))?;
        self.synchronize("download")
    }

    /// Waits until everything asked for so far is done. An error may be that of any op since the last wait.
    pub fn synchronize(&self, op: &str) -> Result<()> {
        self.bind(op)?;
        // SAFETY: the stream lives until `Drop`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| driver_error(op, e))
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
        self.bind(op)?;
        let function = {
            let mut programs = self.programs.lock().unwrap_or_else(|e| e.into_inner());
            let name = source.name();
            if !programs.contains_key(&name) {
                programs.insert(name.clone(), Program::load(source, &self.architecture())?);
            }
            programs.get_mut(&name).expect("inserted above").entry(entry)?
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
        if self.sync { self.synchronize(op) } else { Ok(()) }
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
        let _ = self.bind("close");
        self.programs.get_mut().unwrap_or_else(|e| e.into_inner()).clear();
        if !self.stream.is_null() {
            // SAFETY: the stream is destroyed once; memory, which uses it, keeps the device alive.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
        // SAFETY: retained once in `open`.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Bytes on a device, freed in stream order when dropped.
pub(super) struct DeviceMemory {
    gpu: Arc<Gpu>,
    ptr: u64,
}

impl DeviceMemory {
    /// The first byte; 0 if there is none.
    pub(super) fn ptr(&self) -> u64 {
        self.ptr
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.ptr != 0 && self.gpu.bind("free").is_ok() {
            // SAFETY: allocated on this stream and freed once. An error is that of an earlier op; a later call
            // reports it.
            let _ = unsafe { result::free_async(self.ptr, self.gpu.stream) };
        }
    }
}

/// An error in the driver's own words.
pub(super) fn driver_error(op: impl Into<String>, error: DriverError) -> Error {
    let words = |text: std::result::Result<&std::ffi::CStr, DriverError>| {
        text.map_or("unknown error".into(), |t| t.to_string_lossy().into_owned())
    };
    let message = format!("{} ({})", words(error.error_string()), words(error.error_name()));
    Error::Driver { op: op.into(), message }
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

/// Without this the pool hands freed memory back to the system at every synchronisation.
fn keep_freed_memory(device: sys::CUdevice) -> std::result::Result<(), DriverError> {
    let mut threshold = u64::MAX;
    // SAFETY: the pool is the device's own; this attribute is a 64-bit count of bytes.
    unsafe {
        let pool = result::device::get_default_mem_pool(device)?;
        sys::cuMemPoolSetAttribute(
            pool,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            std::ptr::from_mut(&mut threshold).cast(),
        )
        .result()
    }
}
