//! Host memory: 64-byte aligned blocks, kept and handed out again by size.
//!
//! A training step asks for the same few hundred sizes over and over; giving each block back to the system costs
//! a page fault per 4 KiB the next time, which on a small model is more than the arithmetic.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
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
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Block {
        let size = capacity(bytes);
        let reused = self.free.lock().unwrap_or_else(|e| e.into_inner()).get_mut(&size).and_then(Vec::pop);
        let ptr = match reused {
            Some(Free(ptr)) => ptr,
            None => {
                let layout = layout(size);
                // SAFETY: the layout has a non-zero size; the bytes are initialised before anyone can read them.
                let raw = unsafe {
                    let raw = alloc(layout);
                    if !raw.is_null() {
                        raw.write_bytes(0, size);
                    }
                    raw
                };
                NonNull::new(raw).unwrap_or_else(|| handle_alloc_error(layout))
            }
        };
        Block { ptr, bytes, pool: self.clone() }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let free = std::mem::take(&mut *self.free.lock().unwrap_or_else(|e| e.into_inner()));
        for (size, blocks) in free {
            for Free(ptr) in blocks {
                // SAFETY: allocated in `take` with the layout of this capacity, and held by nobody.
                unsafe { dealloc(ptr.as_ptr(), layout(size)) };
            }
        }
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, ALIGN).expect("a capacity below isize::MAX")
}
