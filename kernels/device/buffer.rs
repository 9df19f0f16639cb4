//! Bytes on a device with a spec: what ops read and write.

use super::gpu::Gpu;
use super::host::Block;
use super::memory::DeviceMemory;
use super::{Device, Kind, Role};
use crate::dtype::{Element, Real};
use crate::{DType, Error, Result, Spec, real};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Contiguous elements on a device. Cloning shares the bytes.
///
/// **One rule makes everything done in place safe: a buffer is written only by its single holder.** Whoever wants
/// to write asks for `&mut`; if another holder exists that is a broken invariant of the caller and panics, so ops
/// go through [`Buffer::into_unique`] (copy if shared) or [`Buffer::is_unique`] (refuse if shared) first.
#[derive(Clone)]
pub struct Buffer {
    storage: Arc<Storage>,
    offset: usize,
    spec: Spec,
}

struct Storage {
    memory: Memory,
    bytes: usize,
    role: Role,
    device: Device,
}

enum Memory {
    Host(Block),
    Device(DeviceMemory),
    Planned,
}

/// What poisoned devices fill fresh memory with: NaN in every float type, out of range as an index.
const POISON: u8 = 0xff;

impl Drop for Storage {
    fn drop(&mut self) {
        self.device.meter().remove(self.role, self.bytes);
    }
}

impl Buffer {
    pub(super) fn alloc(device: &Device, spec: Spec, role: Role) -> Result<Self> {
        let bytes = spec.bytes();
        if bytes > isize::MAX as usize {
            // Dimensions whose product is beyond what an address can count.
            return Err(Error::OutOfMemory { device: device.to_string(), asked: bytes, free: 0, total: 0 });
        }
        let memory = match device.kind() {
            Kind::Cpu(cpu) => {
                let mut block = cpu.pool.take(bytes)?;
                if device.poison() {
                    block.bytes_mut().fill(POISON);
                }
                Memory::Host(block)
            }
            Kind::Gpu(gpu) => {
                let memory = gpu.alloc(bytes)?;
                if device.poison() {
                    gpu.fill(memory.ptr(), POISON, bytes)?;
                }
                Memory::Device(memory)
            }
            Kind::Plan => Memory::Planned,
        };
        device.meter().add(role, bytes);
        let storage = Storage { memory, bytes, role, device: device.clone() };
        Ok(Buffer { storage: Arc::new(storage), offset: 0, spec })
    }

    /// A buffer of zeros.
    pub fn zeros(device: &Device, spec: Spec, role: Role) -> Result<Self> {
        let mut buffer = Self::alloc(device, spec, role)?;
        buffer.fill_zero()?;
        Ok(buffer)
    }

    /// A buffer with these elements.
    pub fn from_slice<T: Element>(
        device: &Device,
        dims: impl AsRef<[usize]>,
        data: &[T],
        role: Role,
    ) -> Result<Self> {
        let spec = Spec::new(T::DTYPE, dims);
        assert_eq!(spec.elements(), data.len(), "{spec} takes as many elements as its dimensions say");
        let mut buffer = Self::alloc(device, spec, role)?;
        buffer.copy_from_host(bytemuck::cast_slice(data))?;
        Ok(buffer)
    }

    /// A buffer of a floating type from f64 values, rounded once.
    pub fn from_f64(device: &Device, spec: Spec, data: &[f64], role: Role) -> Result<Self> {
        real!(spec.dtype, T => {
            let data: Vec<T> = data.iter().map(|&v| T::from_f64(v)).collect();
            Self::from_slice(device, spec.dims(), &data, role)
        })
    }

    /// Data type and dimensions.
    pub fn spec(&self) -> Spec {
        self.spec
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.spec.dtype
    }

    /// The dimensions.
    pub fn dims(&self) -> &[usize] {
        self.spec.dims()
    }

    /// Where it lies.
    pub fn device(&self) -> &Device {
        &self.storage.device
    }

    /// What it is counted as.
    pub fn role(&self) -> Role {
        self.storage.role
    }

    /// Whether nobody else holds these bytes.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.storage) == 1
    }

    /// Itself if nobody else holds the bytes, else a copy of them.
    pub fn into_unique(self) -> Result<Self> {
        if self.is_unique() { Ok(self) } else { self.copy(self.role()) }
    }

    /// A copy with bytes of its own, counted under `role`.
    pub fn copy(&self, role: Role) -> Result<Self> {
        let mut copy = Self::alloc(self.device(), self.spec, role)?;
        match self.on_gpu() {
            Some((gpu, from)) => gpu.copy(from, copy.device_ptr_mut(), self.spec.bytes())?,
            None => copy.host_bytes_mut().copy_from_slice(self.host_bytes()),
        }
        Ok(copy)
    }

    /// The same bytes under other dimensions with as many elements.
    pub fn reshaped(mut self, dims: impl AsRef<[usize]>) -> Self {
        let spec = self.spec.with_dims(dims);
        assert_eq!(spec.elements(), self.spec.elements(), "reshape {} to {spec}", self.spec);
        self.spec = spec;
        self
    }

    /// A view of some rows (of the first dimension). It shares the bytes, so it cannot be written.
    pub fn rows(&self, range: Range<usize>) -> Self {
        let dims = self.dims();
        assert!(range.end <= dims[0] && range.start <= range.end, "rows {range:?} of {}", self.spec);
        let mut new = dims.to_vec();
        new[0] = range.len();
        let row_bytes = self.spec.bytes() / dims[0].max(1);
        Buffer {
            storage: self.storage.clone(),
            offset: self.offset + range.start * row_bytes,
            spec: self.spec.with_dims(new),
        }
    }

    /// The elements, on the CPU. On a plan, where there are none, an empty slice.
    ///
    /// Panics if `T` is not the buffer's type (`infer` checked that) or the buffer lies on a GPU.
    pub fn slice<T: Element>(&self) -> &[T] {
        assert_eq!(T::DTYPE, self.dtype(), "the type of {}", self.spec);
        match self.host_bytes() {
            [] => &[], // which is not aligned for T where there is no memory
            bytes => bytemuck::cast_slice(bytes),
        }
    }

    /// The elements for writing, on the CPU.
    ///
    /// Panics if `T` is not the buffer's type, if somebody else holds the bytes, or if they lie on a GPU.
    pub fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(T::DTYPE, self.dtype(), "the type of {}", self.spec);
        match self.host_bytes_mut() {
            [] => &mut [], // as above
            bytes => bytemuck::cast_slice_mut(bytes),
        }
    }

    /// The address of the first element on the GPU, for a kernel that reads it; 0 for an empty buffer.
    ///
    /// Panics if the buffer does not lie on a GPU.
    pub fn device_ptr(&self) -> u64 {
        self.on_gpu().expect("a kernel is launched on buffers of its GPU").1
    }

    /// The address of the first element on the GPU, for a kernel that writes it; 0 for an empty buffer.
    ///
    /// Panics if somebody else holds the bytes or if they do not lie on a GPU.
    pub fn device_ptr_mut(&mut self) -> u64 {
        self.only_holder();
        self.device_ptr()
    }

    /// The GPU that holds the buffer, and the address of the first element there.
    fn on_gpu(&self) -> Option<(&Arc<Gpu>, u64)> {
        match (&self.storage.memory, self.device().kind()) {
            (Memory::Device(memory), Kind::Gpu(gpu)) => Some((gpu, memory.ptr() + self.offset as u64)),
            _ => None,
        }
    }

    /// The storage, to write: the rule of this module.
    fn only_holder(&mut self) -> &mut Storage {
        Arc::get_mut(&mut self.storage).expect("a buffer is written only by its single holder")
    }

    fn host_bytes(&self) -> &[u8] {
        match &self.storage.memory {
            Memory::Host(block) => &block.bytes()[self.offset..self.offset + self.spec.bytes()],
            Memory::Device(_) => panic!("{self:?} is read by CPU code"),
            Memory::Planned => &[],
        }
    }

    fn host_bytes_mut(&mut self) -> &mut [u8] {
        let (offset, bytes, spec) = (self.offset, self.spec.bytes(), self.spec);
        let storage = self.only_holder();
        match &mut storage.memory {
            Memory::Host(block) => &mut block.bytes_mut()[offset..offset + bytes],
            Memory::Device(_) => panic!("{spec} on {} is written by CPU code", storage.device),
            Memory::Planned => &mut [],
        }
    }

    /// Sets every byte to zero.
    pub fn fill_zero(&mut self) -> Result<()> {
        self.only_holder();
        match self.on_gpu() {
            Some((gpu, ptr)) => gpu.fill(ptr, 0, self.spec.bytes()),
            None => {
                self.host_bytes_mut().fill(0);
                Ok(())
            }
        }
    }

    /// Overwrites the contents with host bytes of the same length.
    pub fn copy_from_host(&mut self, bytes: &[u8]) -> Result<()> {
        self.copy_from_parts(&[bytes])
    }

    /// Overwrites the contents with pieces of host bytes, one behind the other, of the same length together.
    pub fn copy_from_parts(&mut self, parts: &[&[u8]]) -> Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        assert_eq!(bytes, self.spec.bytes(), "bytes of {}", self.spec);
        self.only_holder();
        let mut at = 0;
        for part in parts {
            match self.on_gpu() {
                Some((gpu, ptr)) => gpu.upload(part, ptr + at as u64)?,
                None if self.device().is_plan() => {}
                None => self.host_bytes_mut()[at..at + part.len()].copy_from_slice(part),
            }
            at += part.len();
        }
        Ok(())
    }

    /// Itself if it lies on `device`, else a copy there, counted under its own role.
    pub fn to_device(self, device: &Device) -> Result<Self> {
        if self.device().same(device) {
            return Ok(self);
        }
        let mut copy = Self::alloc(device, self.spec, self.role())?;
        match self.as_host() {
            Some(bytes) => copy.copy_from_host(bytes)?,
            None => copy.copy_from_host(&self.to_host()?)?,
        }
        Ok(copy)
    }

    /// The contents as bytes, where they lie on the host.
    pub fn as_host(&self) -> Option<&[u8]> {
        matches!(self.storage.memory, Memory::Host(_)).then(|| self.host_bytes())
    }

    /// The contents on the host, as bytes. Waits for a GPU to have computed them.
    pub fn to_host(&self) -> Result<Vec<u8>> {
        match self.on_gpu() {
            Some((gpu, ptr)) => {
                let mut bytes = vec![0; self.spec.bytes()];
                gpu.download(ptr, &mut bytes)?;
                Ok(bytes)
            }
            None if self.device().is_plan() => {
                Err(Error::Driver { op: "to_host".into(), message: "a plan holds no values".into() })
            }
            None => Ok(self.host_bytes().to_vec()),
        }
    }

    /// The contents on the host, as elements.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        assert_eq!(T::DTYPE, self.dtype(), "the type of {}", self.spec);
        Ok(bytemuck::allocation::pod_collect_to_vec(&self.to_host()?))
    }

    /// The contents on the host, widened to f64.
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        if self.dtype() == DType::U32 {
            return Ok(self.to_vec::<u32>()?.into_iter().map(f64::from).collect());
        }
        real!(self.dtype(), T => Ok(self.to_vec::<T>()?.into_iter().map(T::to_f64).collect()))
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.spec, self.device())
    }
}
