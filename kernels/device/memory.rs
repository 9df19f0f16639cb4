//! A GPU's memory in stream order: allocation, fills, and copies within the device.
//!
//! Memory comes from the driver's own pool, which keeps what was freed. So a step that asks for what the one before
//! it asked for waits for nothing, and freeing is a mark in the stream: work asked for before still has the bytes.

use super::gpu::{Gpu, driver_error};
use crate::{Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::sync::Arc;

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
        if self.gpu.bind("free").is_ok() {
            self.gpu.release(self.ptr);
        }
    }
}

impl Gpu {
    /// Device memory of `bytes` bytes with unspecified contents.
    pub(super) fn alloc(self: &Arc<Self>, bytes: usize) -> Result<DeviceMemory> {
        self.bind("alloc")?;
        Ok(DeviceMemory { gpu: self.clone(), ptr: self.reserve(bytes)? })
    }

    /// The address of `bytes` fresh bytes, to be given to [`Gpu::release`] once; 0 for no bytes. The context is
    /// current.
    ///
    /// Errors: the device is full. Before that is said, the pool gives back what it keeps: its free pieces may be too
    /// small each.
    pub(super) fn reserve(&self, bytes: usize) -> Result<u64> {
        const FULL: DriverError = DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        if bytes == 0 {
            return Ok(0); // the driver refuses to allocate nothing
        }
        // SAFETY: the stream is the context's own; the memory is used and freed on that stream alone.
        let ask = || unsafe { result::malloc_async(self.stream, bytes) };
        let mut asked = ask();
        if asked == Err(FULL) {
            self.synchronize("alloc")?;
            // SAFETY: the pool is the device's own.
            unsafe { result::mem_pool::trim_to(self.pool, 0) }.map_err(|e| driver_error("alloc", e))?;
            asked = ask();
        }
        match asked {
            Ok(ptr) => Ok(ptr),
            Err(FULL) => {
                let (free, total) = result::mem_get_info().map_err(|e| driver_error("alloc", e))?;
                Err(Error::OutOfMemory { device: self.to_string(), asked: bytes, free, total })
            }
            Err(e) => Err(driver_error("alloc", e)),
        }
    }

    /// Frees what [`Gpu::reserve`] gave, in stream order. The context is current.
    pub(super) fn release(&self, ptr: u64) {
        if ptr != 0 {
            // SAFETY: allocated on this stream and freed once. An error is that of an earlier op; a later call
            // reports it.
            let _ = unsafe { result::free_async(ptr, self.stream) };
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
            .map_err(|e| driver_error("fill", e))?;
        self.launched("fill")
    }

    /// Copies between two ranges of this device, each held by a buffer of the caller.
    pub(super) fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind("copy")?;
        // SAFETY: both ranges lie in allocations of this device, and they are different ones.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }
            .map_err(|e| driver_error("copy", e))?;
        self.launched("copy")
    }
}

/// The pool that stream-ordered memory of `device` comes from, told to keep what is freed: by default it hands that
/// back to the system at every synchronisation.
pub(super) fn pool(device: sys::CUdevice) -> std::result::Result<sys::CUmemoryPool, DriverError> {
    let mut threshold = u64::MAX;
    // SAFETY: the pool is the device's own; this attribute is a 64-bit count of bytes.
    unsafe {
        let pool = result::device::get_default_mem_pool(device)?;
        sys::cuMemPoolSetAttribute(
            pool,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            std::ptr::from_mut(&mut threshold).cast(),
        )
        .result()?;
        Ok(pool)
    }
}
