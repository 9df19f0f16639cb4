//! What the launches of most ops have in common: the names of entries, the width of a row, the size of a grid.

use crate::{DType, Error, Result, Spec};

/// The entry `<op>_<part>_<dtype>`, of an op that has kernels for f32 and bf16.
pub(crate) fn entry(op: &'static str, part: &str, dtype: DType) -> Result<String> {
    match dtype {
        DType::F32 | DType::Bf16 => Ok(format!("{op}_{part}_{dtype}")),
        got => Err(Error::DType { op, expected: "f32 or bf16 on a GPU", got }),
    }
}

/// A count of things within a row, or of rows that a kernel counts in 32 bits. Half of u32's range, so that stepping
/// beyond the end by a block or two stays in it.
pub(crate) fn count(op: &'static str, n: usize) -> Result<u32> {
    let too_many = |_| Error::shape(op, format!("{n} is too large for its kernel, at most {}", i32::MAX));
    i32::try_from(n).map(|n| n as u32).map_err(too_many)
}

/// Blocks for so many rows (or other things), one each as far as a grid goes: the kernel strides over the rest.
pub(crate) fn blocks(rows: usize) -> u32 {
    rows.min(i32::MAX as usize) as u32
}

/// Threads for copying one row of `columns` values of the type of `spec`: each moves about four vectors of 16 bytes,
/// which `copy_row` has in flight together; at most 256.
pub(crate) fn copy_threads(spec: Spec, columns: usize) -> u32 {
    let vectors = columns * spec.dtype.size() / 16;
    vectors.div_ceil(4).next_multiple_of(32).clamp(32, 256) as u32
}
