//! One launch over many tensors: the table that tells its blocks which part of which tensor is theirs.
//! `cuda/tensors.cuh` reads it.

use super::gpu::{Grid, KernelArg};
use super::{Buffer, Device, Role};
use crate::{DType, Error, Result, Spec};

/// Elements of a tensor that one block does: CHUNK of the source.
pub(crate) const CHUNK: usize = 16 * 1024;
/// The launch bound of such kernels: CHUNK_THREADS of the source.
const THREADS: u32 = 256;

/// Tensors of one launch, each with addresses of as many elements: its values, its gradient and so on.
pub(crate) struct Tensors<const ADDRESSES: usize> {
    /// Per tensor: elements, the number of its first chunk, addresses.
    records: Vec<([u64; 2], [u64; ADDRESSES])>,
    chunks: usize,
}

impl<const ADDRESSES: usize> Tensors<ADDRESSES> {
    /// No tensors.
    pub(crate) fn new() -> Self {
        Tensors { records: vec![], chunks: 0 }
    }

    /// Adds a tensor, unless it is empty: such a one has no chunk.
    pub(crate) fn push(&mut self, elements: usize, args: [KernelArg; ADDRESSES]) {
        let address = |arg| match arg {
            KernelArg::Ptr(address) => address,
            other => panic!("a tensor is an address, not {other:?}"),
        };
        if elements > 0 {
            self.records.push(([elements as u64, self.chunks as u64], args.map(address)));
            self.chunks += elements.div_ceil(CHUNK);
        }
    }

    /// How many chunks they have in all.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks
    }

    /// The table on the device, the kernel's arguments for it and its length, and a grid of a block per chunk.
    ///
    /// Errors: more chunks than a grid has blocks, which is beyond any device's memory.
    pub(crate) fn upload(&self, op: &'static str, device: &Device) -> Result<(Buffer, [KernelArg; 2], Grid)> {
        let chunks = i32::try_from(self.chunks).map_err(|_| {
            Error::shape(op, format!("{} chunks of {CHUNK} elements are too many", self.chunks))
        })?;
        let words = self.records.iter().flat_map(|(extent, addresses)| extent.iter().chain(addresses));
        let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        let mut table = device.alloc(Spec::new(DType::U32, [bytes.len() / 4]), Role::Workspace)?;
        table.copy_from_host(&bytes)?;
        let args = [KernelArg::read(&table), KernelArg::U32(self.records.len() as u32)];
        Ok((table, args, Grid::linear(chunks as u32, THREADS)))
    }
}
