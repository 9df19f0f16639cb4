//! Rotary embedding on a GPU: launches the kernels of `rope.cu`.

use super::Rope;
use crate::device::gpu::{Gpu, Grid, KernelArg};
use crate::device::launch::{entry, width};
use crate::device::program::Source;
use crate::{Buffer, Result};

const NAME: &str = "rope";
pub(super) const SOURCE: Source = Source::new("rope/rope.cu", include_str!("rope.cu"));

/// The launch bound of the kernels.
const MAX_THREADS: usize = 256;
/// Heads that a thread takes at once.
const HEADS_AT_ONCE: usize = 4;

/// Rotates every q and k head of the rows of `x` in place: by the angles of `table`, or by minus these if `back`.
pub fn rotate(gpu: &Gpu, rope: &Rope, x: &mut Buffer, table: &Buffer, back: bool) -> Result<()> {
    let (spec, name) = (x.spec(), entry(NAME, if back { "bwd" } else { "fwd" }, x.dtype())?);
    let (heads, half) = (rope.heads + rope.kv_heads, rope.rotary_dim / 2);
    if spec.elements() == 0 {
        return Ok(());
    }
    let width = width(NAME, spec)?; // the other dimensions are parts of it
    let args = [
        KernelArg::write(x),
        KernelArg::read(table),
        KernelArg::I64(spec.rows() as i64),
        KernelArg::U32(width),
        KernelArg::U32(heads as u32),
        KernelArg::U32(rope.head_dim as u32),
        KernelArg::U32(half as u32),
    ];
    let values = 16 / spec.dtype.size();
    let pairs = if half.is_multiple_of(values) { half / values } else { half };
    let threads = (pairs * heads.div_ceil(HEADS_AT_ONCE)).next_multiple_of(32).clamp(32, MAX_THREADS);
    let grid = Grid::linear(spec.rows().min(i32::MAX as usize) as u32, threads as u32);
    // SAFETY: arguments as in the signature of rope_fwd and rope_bwd; `infer` made width that of the heads, 2 half at
    // most head_dim, and table one row of 2 half f32 for each row of x, both on this device; x is nobody else's; the
    // kernel strides over all rows, heads and pairs whatever the grid.
    unsafe { gpu.launch(NAME, &SOURCE, &name, grid, &args) }
}
