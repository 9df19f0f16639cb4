//! The product on a GPU, by cuBLASLt.
//!
//! The library's matrices lie by columns, ours by rows. What lies by rows as [r, c] lies by columns as its transpose,
//! c x r; so c = a b is asked for as c^T = b^T a^T: factors in the other order, m and n exchanged, and
//!
//! | kind | our b is | the library's first factor | our a is | its second |
//! |---|---|---|---|---|
//! | NN | [K, N] | N x K, as stored | [M, K] | K x M, as stored |
//! | NT | [N, K] | K x N, transposed | [M, K] | K x M, as stored |
//! | TN | [K, N] | N x K, as stored | [K, M] | M x K, transposed |
//!
//! The bias, one value per column of c, is one per row of c^T, which is what the library adds.

use super::{Kind, Sizes};
use crate::device::blas::ByColumns;
use crate::device::gpu::Gpu;
use crate::{Buffer, DType, Device, Error, Result, Role, Spec};

const NAME: &str = "gemm";

/// `c = [c +] a b [+ bias]`.
pub fn product(
    (device, gpu): (&Device, &Gpu),
    kind: Kind,
    sizes: Sizes,
    [a, b]: [&Buffer; 2],
    bias: Option<&Buffer>,
    c: &mut Buffer,
    accumulate: bool,
) -> Result<()> {
    let (factors, result) = (a.dtype(), c.dtype());
    if !matches!(factors, DType::F32 | DType::Bf16) {
        return Err(Error::DType { op: NAME, expected: "f32 or bf16 on a GPU", got: factors });
    }
    let Sizes { batch, m, n, k } = sizes;
    if batch * m * n == 0 {
        return Ok(());
    }
    if k == 0 {
        // The library knows no product of no depth. It is that of one column of zeros with a row of them.
        let mut zeros = device.alloc(Spec::new(factors, [batch * m.max(n)]), Role::Workspace)?;
        zeros.fill_zero()?;
        let sizes = Sizes { k: 1, ..sizes };
        return product((device, gpu), kind, sizes, [&zeros, &zeros], bias, c, accumulate);
    }
    let product = ByColumns {
        transposed: [kind == Kind::NT, kind == Kind::TN],
        sizes: [n, m, k],
        batch,
        factors,
        result,
        bias: bias.is_some(),
        accumulate,
    };
    let addresses = [b.device_ptr(), a.device_ptr(), bias.map_or(0, Buffer::device_ptr), c.device_ptr_mut()];
    // SAFETY: `infer` checked that a and b hold the sizes in the order of `kind`, that bias has n values of c's type
    // and c [m, n], all on this device; or a and b are the zeros above, which hold one row or column of each. c is
    // written by its single holder, so it is none of the others.
    unsafe { gpu.multiply(NAME, &product, addresses) }
}
