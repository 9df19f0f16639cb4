//! The shape and data type of a buffer.

use crate::DType;
use std::fmt;

/// The most dimensions a buffer has.
pub const MAX_RANK: usize = 4;

/// Data type and dimensions. Buffers are always contiguous and row-major, so this describes them completely.
/// A dimension may be 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spec {
    /// The element type.
    pub dtype: DType,
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Spec {
    /// A spec from its dimensions; at most [`MAX_RANK`] of them.
    pub fn new(dtype: DType, dims: impl AsRef<[usize]>) -> Self {
        let dims = dims.as_ref();
        assert!(dims.len() <= MAX_RANK, "a buffer has at most {MAX_RANK} dimensions, got {dims:?}");
        let mut all = [1; MAX_RANK];
        all[..dims.len()].copy_from_slice(dims);
        Spec { dtype, dims: all, rank: dims.len() as u8 }
    }

    /// The dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// How many elements. A product that no `usize` holds is `usize::MAX`, for which no device has room.
    pub fn elements(&self) -> usize {
        let dims = self.dims();
        // A dimension of 0 makes any product 0.
        if dims.contains(&0) { 0 } else { dims.iter().fold(1, |n: usize, d| n.saturating_mul(*d)) }
    }

    /// How many bytes; `usize::MAX` as for [`Spec::elements`].
    pub fn bytes(&self) -> usize {
        self.elements().saturating_mul(self.dtype.size())
    }

    /// The last dimension (1 for a scalar): the width of a row.
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// All dimensions but the last, multiplied: the number of rows.
    pub fn rows(&self) -> usize {
        self.dims().iter().rev().skip(1).product()
    }

    /// The same dimensions in another type.
    pub fn with_dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// The same type with other dimensions.
    pub fn with_dims(self, dims: impl AsRef<[usize]>) -> Self {
        Spec::new(self.dtype, dims)
    }

    /// The same spec with another last dimension.
    pub fn with_last(mut self, last: usize) -> Self {
        let rank = self.rank.max(1);
        self.rank = rank;
        self.dims[rank as usize - 1] = last;
        self
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.dims())
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_no_address_counts_is_the_largest() {
        let bytes = |dims: &[usize]| Spec::new(DType::F32, dims).bytes();
        assert_eq!(bytes(&[2, 3]), 24);
        assert_eq!(bytes(&[]), 4);
        assert_eq!(bytes(&[1 << 40, 1 << 40]), usize::MAX);
        assert_eq!(bytes(&[1 << 40, 1 << 40, 0]), 0);
        assert_eq!(bytes(&[1 << 62, 2]), usize::MAX, "elements fit, bytes do not");
    }
}
