//! Bytes on a device with a spec: what ops read and write.

use super::host::Block;
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
    Planned,
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.device.meter().remove(self.role, self.bytes);
    }
}

impl Buffer {
    pub(super) fn alloc(device: &Device, spec: Spec, role: Role) -> Result<Self> {
        let bytes = spec.bytes();
        let memory = match device.kind() {
            Kind::Cpu(cpu) => {
                let mut block = cpu.pool.take(bytes);
                if device.poison() {
                    block.bytes_mut().fill(0xff); // NaN in every float type, out of range as an index
                }
                Memory::Host(block)
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
        if let Some(bytes) = self.host_bytes() {
            copy.host_bytes_mut().copy_from_slice(bytes);
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
    /// Panics if `T` is not the buffer's type: `infer` checked that.
    pub fn slice<T: Element>(&self) -> &[T] {
        assert_eq!(T::DTYPE, self.dtype(), "the type of {}", self.spec);
        self.host_bytes().map_or(&[], bytemuck::cast_slice)
    }

    /// The elements for writing, on the CPU.
    ///
    /// Panics if `T` is not the buffer's type or if somebody else holds the bytes.
    pub fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(T::DTYPE, self.dtype(), "the type of {}", self.spec);
        match self.host_bytes_mut() {
            [] => &mut [], // which is not aligned for T where there is no memory
            bytes => bytemuck::cast_slice_mut(bytes),
        }
    }

    fn host_bytes(&self) -> Option<&[u8]> {
        match &self.storage.memory {
            Memory::Host(block) => Some(&block.bytes()[self.offset..self.offset + self.spec.bytes()]),
            Memory::Planned => None,
        }
    }

    fn host_bytes_mut(&mut self) -> &mut [u8] {
        let (offset, bytes) = (self.offset, self.spec.bytes());
        let storage = Arc::get_mut(&mut self.storage).expect("a buffer is written only by its single holder");
        match &mut storage.memory {
            Memory::Host(block) => &mut block.bytes_mut()[offset..offset + bytes],
            Memory::Planned => &mut [],
        }
    }

    /// Sets every byte to zero.
    pub fn fill_zero(&mut self) -> Result<()> {
        self.host_bytes_mut().fill(0);
        Ok(())
    }

    /// Overwrites the contents with host bytes of the same length.
    pub fn copy_from_host(&mut self, bytes: &[u8]) -> Result<()> {
        assert_eq!(bytes.len(), self.spec.bytes(), "bytes of {}", self.spec);
        if !self.device().is_plan() {
            self.host_bytes_mut().copy_from_slice(bytes);
        }
        Ok(())
    }

    /// The contents on the host, as bytes.
    pub fn to_host(&self) -> Result<Vec<u8>> {
        match self.host_bytes() {
            Some(bytes) => Ok(bytes.to_vec()),
            None => Err(Error::Driver { op: "to_host".into(), message: "a plan holds no values".into() }),
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
