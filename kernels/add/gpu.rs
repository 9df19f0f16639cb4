//! Sums on a GPU: launches the kernels of `add.cu`.

use crate::device::gpu::{Gpu, KernelArg};
use crate::device::launch::{entry, over_elements, over_rows, width};
use crate::device::program::Source;
use crate::{Buffer, DType, Error, Result};

const NAME: &str = "add";
pub(super) const SOURCE: Source = Source::new("add/add.cu", include_str!("add.cu"));

/// Rows that a thread takes, about: four turns of four at once, for one read of b.
const ROWS: usize = 16;

/// `a[i] += b[i mod |b|]`, of one type.
pub fn forward(gpu: &Gpu, a: &mut Buffer, b: &Buffer) -> Result<()> {
    let (elements, repeated) = (a.spec().elements(), b.spec().elements());
    if elements == repeated || elements == 0 {
        return accumulate(gpu, a, b);
    }
    let name = entry(NAME, "fwd_repeating", a.dtype())?;
    let rows = a.spec().with_dims([elements / repeated, repeated]);
    let args = [
        KernelArg::write(a),
        KernelArg::read(b),
        KernelArg::I64(rows.rows() as i64),
        KernelArg::U32(width(NAME, rows)?),
    ];
    // SAFETY: arguments as in the signature of add_fwd_repeating; `infer` made |b| divide |a|, of one type, both on this
    // device, and a is nobody else's; the kernel strides over all rows and columns whatever the grid.
    unsafe { gpu.launch(NAME, &SOURCE, &name, over_rows(gpu, rows, 1, ROWS), &args) }
}

/// `sum[i] += b[i]`; each of them f32 or bf16.
pub fn accumulate(gpu: &Gpu, sum: &mut Buffer, b: &Buffer) -> Result<()> {
    let (elements, part) = (sum.spec().elements(), format!("fwd_onto_{}", sum.dtype()));
    let name = entry(NAME, &part, b.dtype())?;
    if !matches!(sum.dtype(), DType::F32 | DType::Bf16) {
        return Err(Error::DType { op: NAME, expected: "f32 or bf16 on a GPU", got: sum.dtype() });
    }
    if elements == 0 {
        return Ok(());
    }
    let widest = if sum.dtype() == DType::F32 { DType::F32 } else { b.dtype() };
    let args = [KernelArg::write(sum), KernelArg::read(b), KernelArg::I64(elements as i64)];
    // SAFETY: arguments as in the signature of the entry, whose types are those of sum and b; callers checked that they
    // have as many elements, both on this device, and sum is nobody else's; the kernel strides over the elements
    // whatever the grid.
    unsafe { gpu.launch(NAME, &SOURCE, &name, over_elements(gpu, elements, widest), &args) }
}
