//! Host memory: 64-byte aligned blocks, kept and handed out again by size.
//!
//! A training step asks for the same few hundred sizes over and over; giving each block back to the system costs
//! a page fault per 4 KiB the next time, which on a small model is more than the arithmetic.

use crate::{Error, Result};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// Alignment of every block: one cache line, one zmm register.
const ALIGN: usize = 64;

/// One block of bytes that goes back to its pool when dropped.
pub(crate) struct Block {
    ptr: NonNull<u8>,
    bytes: usize,
    pool: Arc<Pool>,
}

// SAFETY: a block is plain bytes owned by whoever holds it; the pool behind it is locked.
unsafe impl Send for Block {}
// SAFETY: shared access hands out `&[u8]` only.
unsafe impl Sync for Block {}

impl Block {
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `ptr` is valid for `bytes` bytes, which `Pool::take` initialised.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.bytes) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as `bytes`, and `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.bytes) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut free = self.pool.free.lock().unwrap_or_else(|e| e.into_inner());
        free.entry(capacity(self.bytes)).or_default().push(Free(self.ptr));
    }
}

/// From this size on a fresh block is compared with what the machine has left: the system promises more memory than
/// there is, and ends processes that take it at its word.
const LARGE: usize = 64 << 20;

/// Blocks nobody holds, by capacity.
#[derive(Default)]
pub(crate) struct Pool {
    free: Mutex<HashMap<usize, Vec<Free>>>,
}

struct Free(NonNull<u8>);
// SAFETY: a free block belongs to the pool alone.
unsafe impl Send for Free {}

/// Rounded up so that nearly equal sizes (batches of nearly equal length) share blocks: at most 1/8 is wasted.
fn capacity(bytes: usize) -> usize {
    let step = (bytes.max(1).next_power_of_two() / 8).max(ALIGN);
    bytes.max(1).div_ceil(step) * step
}

impl Pool {
    /// A block of `bytes` bytes. Its contents are whatever a former holder left, zeros at first.
    ///
    /// Errors: the machine has no room, even after the blocks that nobody holds were given back to it.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Result<Block> {
        let full = || {
            let Room { free, total } = Room::of_machine().unwrap_or_default();
            Error::OutOfMemory { device: "cpu".into(), asked: bytes, free, total }
        };
        if bytes > isize::MAX as usize / 4 {
            return Err(full()); // rounding it up could overflow
        }
        let size = capacity(bytes);
        let reused = self.free.lock().unwrap_or_else(|e| e.into_inner()).get_mut(&size).and_then(Vec::pop);
        let ptr = match reused {
            Some(Free(ptr)) => Some(ptr),
            None => fresh(size).or_else(|| {
                self.give_back();
                fresh(size)
            }),
        };
        Ok(Block { ptr: ptr.ok_or_else(full)?, bytes, pool: self.clone() })
    }

    /// Gives the blocks that nobody holds back to the system.
    fn give_back(&self) {
        let free = std::mem::take(&mut *self.free.lock().unwrap_or_else(|e| e.into_inner()));
        for (size, blocks) in free {
            for Free(ptr) in blocks {
                // SAFETY: allocated in `fresh` with the layout of this capacity, and held by nobody.
                unsafe { dealloc(ptr.as_ptr(), layout(size)) };
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// `size` bytes of zeros from the system, if it has them.
fn fresh(size: usize) -> Option<NonNull<u8>> {
    if size >= LARGE && Room::of_machine().is_some_and(|room| size > room.free) {
        return None;
    }
    // SAFETY: the layout has a non-zero size; the bytes are initialised before anyone can read them.
    let raw = unsafe {
        let raw = alloc(layout(size));
        if !raw.is_null() {
            raw.write_bytes(0, size);
        }
        raw
    };
    NonNull::new(raw)
}

/// What this process may still take of the machine's memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    free: usize,
    total: usize,
}

impl Room {
    /// As Linux tells it, of the machine or of the control group that holds this process, whichever has less. None
    /// where nothing tells.
    fn of_machine() -> Option<Room> {
        let info = std::fs::read_to_string("/proc/meminfo").ok()?;
        let field = |name: &str| {
            let line = info.lines().find_map(|l| l.strip_prefix(name))?;
            line.trim_end_matches("kB").trim().parse::<usize>().ok()?.checked_mul(1024)
        };
        let machine = Room { free: field("MemAvailable:")?, total: field("MemTotal:")? };
        let group = |file: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok();
        let number = |text: String| text.trim().parse::<usize>().ok(); // "max" is no limit
        Some(match (group("memory.max").and_then(number), group("memory.current").and_then(number)) {
            (Some(total), Some(used)) if total < machine.total => {
                // Pages of files that were read once are given up when memory is wanted.
                let files = group("memory.stat").and_then(|stat| {
                    stat.lines().find_map(|l| l.strip_prefix("inactive_file ")).and_then(|n| n.parse().ok())
                });
                let used = used.saturating_sub(files.unwrap_or(0));
                Room { free: machine.free.min(total.saturating_sub(used)), total }
            }
            _ => machine,
        })
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, ALIGN).expect("a capacity below isize::MAX")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_block_beyond_the_machine_is_an_error_and_the_pool_goes_on() {
        let pool = Arc::new(Pool::default());
        let kept = pool.take(1 << 20).unwrap();
        for bytes in [1 << 46, isize::MAX as usize, usize::MAX] {
            let error = pool.take(bytes).err().unwrap().to_string();
            let start = format!("out of memory on cpu: asked for {bytes} bytes, ");
            assert!(error.starts_with(&start), "{error}");
        }
        assert_eq!(kept.bytes().len(), 1 << 20);
        drop(kept);
        assert!(pool.take(1 << 20).is_ok());
    }
}
