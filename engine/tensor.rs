//! A buffer and the place its gradient goes to.

use crate::graph::Edge;
use kernels::{Buffer, DType, Device, Result, Role, Spec};

/// A contiguous array on a device. Cloning shares the bytes and the edge.
///
/// A tensor without an edge is a constant: nothing computed from constants alone is recorded, so a frozen part of
/// a model keeps no activations and launches no backward.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub(crate) buffer: Buffer,
    pub(crate) edge: Option<Edge>,
}

impl Tensor {
    /// A constant.
    pub fn constant(buffer: Buffer) -> Self {
        Tensor { buffer, edge: None }
    }

    /// A constant from host values of the type of `T`.
    pub fn from_slice<T: kernels::dtype::Element>(
        device: &Device,
        dims: impl AsRef<[usize]>,
        values: &[T],
    ) -> Result<Self> {
        Ok(Self::constant(Buffer::from_slice(device, dims, values, Role::Activation)?))
    }

    /// A constant of floating type `dtype` from f32 values, rounded once.
    pub fn from_f32(
        device: &Device,
        dtype: DType,
        dims: impl AsRef<[usize]>,
        values: &[f32],
    ) -> Result<Self> {
        let wide = Buffer::from_slice(device, dims, values, Role::Activation)?;
        if dtype == DType::F32 {
            return Ok(Self::constant(wide));
        }
        Ok(Self::constant(kernels::cast::cast(&wide, dtype, Role::Activation)?))
    }

    /// Data type and dimensions.
    pub fn spec(&self) -> Spec {
        self.buffer.spec()
    }

    /// The dimensions.
    pub fn dims(&self) -> &[usize] {
        self.buffer.dims()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.buffer.dtype()
    }

    /// Where it lies.
    pub fn device(&self) -> &Device {
        self.buffer.device()
    }

    /// The bytes.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// The bytes, given away: an update in place needs to be their single holder.
    pub fn into_buffer(self) -> Buffer {
        self.buffer
    }

    /// Whether a gradient can flow into this.
    pub fn requires_grad(&self) -> bool {
        self.edge.is_some()
    }

    /// The same values as a constant: no gradient flows through.
    pub fn detach(&self) -> Tensor {
        Self::constant(self.buffer.clone())
    }

    /// The same values under other dimensions with as many elements. Gradients keep their own dimensions: an op
    /// is told the shape it was given, and `Backward::give` restores that of the input.
    pub fn reshape(mut self, dims: impl AsRef<[usize]>) -> Tensor {
        self.buffer = self.buffer.reshaped(dims);
        self
    }

    /// The single value of a one-element tensor, as f64.
    pub fn item(&self) -> Result<f64> {
        let values = self.buffer.to_f64()?;
        assert_eq!(values.len(), 1, "item() of {}", self.spec());
        Ok(values[0])
    }

    /// The values on the host, as f64.
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        self.buffer.to_f64()
    }
}
