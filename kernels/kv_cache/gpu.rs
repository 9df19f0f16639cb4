//! Appending to the cache on a GPU: launches the kernel of `kv_cache.cu`.

use crate::device::gpu::{Gpu, KernelArg};
use crate::device::launch::{entry, over_copied_rows, width};
use crate::device::program::Source;
use crate::{Buffer, Result};

const NAME: &str = "kv_cache";
/// The program of all its kernels.
pub const SOURCE: Source = Source::new("kv_cache/kv_cache.cu", include_str!("kv_cache.cu"));

/// `cache[rows[t]]` = the last columns of `qkv[t]`, as wide as the cache.
pub fn append(gpu: &Gpu, cache: &mut Buffer, qkv: &Buffer, rows: &Buffer) -> Result<()> {
    let (spec, row, name) = (cache.spec(), qkv.spec(), entry(NAME, "fwd", cache.dtype())?);
    if spec.elements() == 0 || row.elements() == 0 {
        return Ok(());
    }
    let args = [
        KernelArg::read(qkv),
        KernelArg::read(rows),
        KernelArg::write(cache),
        KernelArg::I64(row.rows() as i64),
        KernelArg::U64(spec.rows() as u64),
        KernelArg::U32(width(NAME, row)?),
        KernelArg::U32(width(NAME, spec)?),
    ];
    let grid = over_copied_rows(row, spec.last());
    // SAFETY: arguments as in the signature of kv_cache_fwd; `infer` made rows one u32 per row of qkv, and those at
    // least as wide as the cache's, all on this device; the kernel strides over all rows whatever the grid, and
    // compares each place with the number of the cache's rows.
    unsafe { gpu.launch(NAME, &SOURCE, &name, grid, &args) }
}
