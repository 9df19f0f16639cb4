//! Copies between host and device through pinned memory.
//!
//! The device reads and writes pinned memory by itself, at the full rate of the bus and while the host goes on. So an
//! upload copies its bytes into a slot of a ring and returns; nothing waits but for a slot whose last copies are
//! still to be done, which a step's few uploads never meet. Small uploads share a slot, large ones go through all of
//! them, one piece after the other: the host fills one while the device empties another. A download goes the same
//! way back and waits for its bytes, no more.

use super::event::Mark;
use super::gpu::{Gpu, driver_error};
use crate::Result;
use cudarc::driver::result::{self, DriverError};
use std::collections::VecDeque;
use std::ptr::NonNull;

/// Slots of the ring.
const SLOTS: usize = 4;

/// Bytes of a slot: enough that the cost of a copy's start does not show.
const SLOT_BYTES: usize = 4 << 20;

/// Pieces start at multiples of this, so that copies are of whole lines.
const LINE: usize = 64;

/// The ring. Its slots are made when first used.
#[derive(Default)]
pub(super) struct Staging {
    slots: Vec<Slot>,
    /// The slot that is being filled.
    current: usize,
    /// How much of it is taken.
    used: usize,
}

/// Pinned memory, and the mark behind the last copy that uses it.
struct Slot {
    memory: NonNull<u8>,
    done: Mark,
    /// Whether copies that use it may still be to be done.
    busy: bool,
}

// SAFETY: pinned memory belongs to the process, and the slot is its only owner.
unsafe impl Send for Slot {}

impl Slot {
    fn new() -> std::result::Result<Self, DriverError> {
        let done = Mark::new()?;
        // SAFETY: the memory is the slot's own, and freed once, when it is dropped.
        let memory = unsafe { result::malloc_host(SLOT_BYTES, 0) }?;
        let memory: NonNull<u8> =
            NonNull::new(memory.cast()).expect("a driver that succeeds gives an address");
        // SAFETY: the driver gave this many bytes; slices of them want initialised ones.
        unsafe { memory.write_bytes(0, SLOT_BYTES) };
        Ok(Slot { memory, done, busy: false })
    }
}

impl Drop for Slot {
    // The owner of the ring has made the context current and waited for the stream.
    fn drop(&mut self) {
        // SAFETY: allocated once in `new`, and no copy uses it any more.
        let _ = unsafe { result::free_host(self.memory.as_ptr().cast()) };
    }
}

/// Part of a slot.
struct Piece {
    slot: usize,
    memory: NonNull<u8>,
    bytes: usize,
}

impl Staging {
    /// The next free piece, of `wanted` bytes at most. What is to use it must be in the stream before the next call.
    fn piece(&mut self, gpu: &Gpu, wanted: usize) -> std::result::Result<Piece, DriverError> {
        if self.used >= SLOT_BYTES {
            self.slots[self.current].done.record(gpu.stream)?;
            self.current = (self.current + 1) % SLOTS;
            self.used = 0;
        }
        if self.current == self.slots.len() {
            self.slots.push(Slot::new()?);
        }
        let slot = &mut self.slots[self.current];
        if self.used == 0 && slot.busy {
            slot.done.wait()?;
        }
        slot.busy = true;
        let bytes = wanted.min(SLOT_BYTES - self.used);
        // SAFETY: `used` is less than the slot is long.
        let memory = unsafe { slot.memory.add(self.used) };
        self.used += bytes.next_multiple_of(LINE);
        Ok(Piece { slot: self.current, memory, bytes })
    }
}

impl Gpu {
    /// Copies to the device. `from` may be reused at once; the device has the bytes before whatever is asked of it
    /// next. The caller's buffer holds `from.len()` bytes from `to` on.
    pub(super) fn upload(&self, mut from: &[u8], mut to: u64) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        self.bind("upload")?;
        let mut staging = self.staging.lock().unwrap_or_else(|e| e.into_inner());
        while !from.is_empty() {
            let piece = staging.piece(self, from.len()).map_err(|e| driver_error("upload", e))?;
            let (head, rest) = from.split_at(piece.bytes);
            // SAFETY: the piece is `head` long and no copy uses it: it is new, or was waited for. Nobody writes it
            // until the mark behind this copy has been waited for, and the caller's buffer holds the bytes at `to`.
            unsafe {
                piece.memory.copy_from_nonoverlapping(NonNull::from(head).cast(), head.len());
                let staged = std::slice::from_raw_parts(piece.memory.as_ptr(), head.len());
                result::memcpy_htod_async(to, staged, self.stream)
            }
            .map_err(|e| driver_error("upload", e))?;
            (from, to) = (rest, to + head.len() as u64);
        }
        drop(staging);
        self.launched("upload")
    }

    /// Copies to the host and waits for the bytes. The caller's buffer holds `to.len()` bytes from `from` on. An error
    /// may be that of any op before.
    pub(super) fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        self.bind("download")?;
        let error = |e| driver_error("download", e);
        let mut staging = self.staging.lock().unwrap_or_else(|e| e.into_inner());
        // Pieces under way, oldest first: one fewer than slots, so that no slot comes up again before it is emptied.
        let mut pieces: VecDeque<Piece> = VecDeque::new();
        let (mut asked, mut got) = (0, 0);
        while got < to.len() {
            while asked < to.len() && pieces.len() < SLOTS - 1 {
                let piece = staging.piece(self, to.len() - asked).map_err(error)?;
                // SAFETY: the piece is as long as the copy and no other uses it; nobody reads it before the mark
                // behind the copy has been waited for, and the caller's buffer holds the bytes at `from`.
                unsafe {
                    let staged = std::slice::from_raw_parts_mut(piece.memory.as_ptr(), piece.bytes);
                    result::memcpy_dtoh_async(staged, from + asked as u64, self.stream)
                }
                .map_err(error)?;
                staging.slots[piece.slot].done.record(self.stream).map_err(error)?;
                asked += piece.bytes;
                pieces.push_back(piece);
            }
            let piece = pieces.pop_front().expect("as long as bytes are missing, pieces are under way");
            staging.slots[piece.slot].done.wait().map_err(error)?;
            // SAFETY: the copy into the piece is done, and the piece is `to`'s next `bytes` bytes.
            let staged = unsafe { std::slice::from_raw_parts(piece.memory.as_ptr(), piece.bytes) };
            to[got..got + piece.bytes].copy_from_slice(staged);
            got += piece.bytes;
        }
        Ok(())
    }
}
