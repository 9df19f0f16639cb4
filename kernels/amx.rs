//! Intel's AMX: whether this process may use it, and its instructions, which the stable compiler has no names for.
//!
//! Eight registers `tmm0` to `tmm7` each hold a tile of 16 rows of 64 bytes. `multiply` takes one tile of A, 16 rows of
//! 32 bf16, and one of B in pairs, 16 rows (of two steps of k) of 16 columns, and adds to 16 by 16 sums in f32:
//!
//! ```text
//! even[i, j] = chain over k = 0, 2 .. 30 of fma(a[i, k], b[k, j], even[i, j])         from zero
//! odd[i, j]  = chain over k = 1, 3 .. 31 of fma(a[i, k], b[k, j], odd[i, j])
//! c[i, j]    = c[i, j] + (even[i, j] + odd[i, j])
//! ```
//!
//! each rounded to nearest, with denormal inputs and results taken as zero, whatever the control register of SSE says
//! (Intel's Software Developer's Manual, TDPBF16PS; `kernels/tests/bf16.rs` compares bits with this text).
//!
//! The compiler allocates no tile registers and saves none, so what one statement of assembly leaves in a tile is there
//! for the next. [`Tiles`] is the time in which they are configured; it must not be held across a call that
//! might use tiles itself.

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::marker::PhantomData;

/// Rows of a tile.
pub const ROWS: usize = 16;

/// Bytes of a row of a tile.
pub const ROW_BYTES: usize = 64;

/// Whether this machine has tiles of the size above with products of bf16, and the system lets this process use them. Asks
/// the system each time; [`crate::simd::Path`] remembers.
pub fn available() -> bool {
    cfg!(all(target_os = "linux", not(miri))) && has_instructions() && permitted()
}

fn has_instructions() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const TILE_STATE: u64 = 0b11 << 17;
    const TILES: u32 = 0x1d;
    if __cpuid_count(0, 0).eax < TILES
        || __cpuid_count(1, 0).ecx & OSXSAVE == 0
        || __cpuid_count(7, 0).edx & (AMX_BF16 | AMX_TILE) != AMX_BF16 | AMX_TILE
    {
        return false;
    }
    // SAFETY: OSXSAVE says that the instruction is there, and register 0 always is.
    if unsafe { enabled_state() } & TILE_STATE != TILE_STATE {
        return false;
    }
    // Palette 1: bytes of a tile in the upper half of eax; tiles above, bytes of a row below in ebx; rows in ecx.
    let palette = __cpuid_count(TILES, 1);
    palette.eax >> 16 == (ROWS * ROW_BYTES) as u32
        && palette.ebx == (8 << 16 | ROW_BYTES) as u32
        && palette.ecx & 0xffff == ROWS as u32
}

/// The register that says which state the system saves when it switches threads.
#[target_feature(enable = "xsave")]
fn enabled_state() -> u64 {
    // SAFETY: register 0 exists wherever the instruction does.
    unsafe { _xgetbv(0) }
}

/// Asks Linux for the tiles' data, which it grants a process only on request: `arch_prctl(ARCH_REQ_XCOMP_PERM, 18)`.
fn permitted() -> bool {
    const ARCH_PRCTL: u64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let answer: i64;
    // SAFETY: this system call reads and writes no memory of the process; the kernel overwrites rcx and r11.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => answer, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") TILE_DATA,
            out("rcx") _, out("r11") _, options(nostack, nomem));
    }
    answer == 0
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Configured tiles, all of full size, on this thread.
pub struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// Configures the tiles of this thread, all zero. The drop gives them back, so that the system need not save them.
    ///
    /// # Safety
    /// [`available`] holds, and no other `Tiles` lives on this thread.
    #[inline]
    pub unsafe fn configure() -> Tiles {
        let mut all =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        all.row_bytes[..8].fill(ROW_BYTES as u16);
        all.rows[..8].fill(ROWS as u8);
        // SAFETY: the instruction is there; it reads the 64 bytes of `all`, which name a palette that was checked.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &all, options(nostack, readonly, preserves_flags)) };
        Tiles(PhantomData)
    }

    /// Zero in tile T.
    #[inline(always)]
    pub fn zero<const T: usize>(&self) {
        // SAFETY: the tiles are configured; nothing but the tile changes.
        unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, nomem, preserves_flags)) };
    }

    /// Tile T from 16 rows of 64 bytes, `stride` bytes apart.
    ///
    /// # Safety
    /// The rows are readable.
    #[inline(always)]
    pub unsafe fn load<const T: usize>(&self, from: *const u8, stride: usize) {
        // SAFETY: the tiles are configured; the caller promises the rows.
        unsafe {
            asm!("tileloadd tmm{t}, [{from} + {stride}]", t = const T, from = in(reg) from, stride = in(reg) stride,
                options(nostack, readonly, preserves_flags));
        }
    }

    /// As [`Tiles::load`], of rows that will have left the first-level cache before they are read again, so that they do not
    /// push out what stays.
    ///
    /// # Safety
    /// The rows are readable.
    #[inline(always)]
    pub unsafe fn stream<const T: usize>(&self, from: *const u8, stride: usize) {
        // SAFETY: the tiles are configured; the caller promises the rows.
        unsafe {
            asm!("tileloaddt1 tmm{t}, [{from} + {stride}]", t = const T, from = in(reg) from, stride = in(reg) stride,
                options(nostack, readonly, preserves_flags));
        }
    }

    /// The 16 rows of tile T, `stride` bytes apart.
    ///
    /// # Safety
    /// The rows are writable.
    #[inline(always)]
    pub unsafe fn store<const T: usize>(&self, to: *mut u8, stride: usize) {
        // SAFETY: the tiles are configured; the caller promises the rows.
        unsafe {
            asm!("tilestored [{to} + {stride}], tmm{t}", t = const T, to = in(reg) to, stride = in(reg) stride,
                options(nostack, preserves_flags));
        }
    }

    /// C += A B, see the module: three different tiles.
    #[inline(always)]
    pub fn multiply<const C: usize, const A: usize, const B: usize>(&self) {
        const { assert!(C != A && A != B && B != C, "the instruction faults on equal tiles") };
        // SAFETY: the tiles are configured with sizes that fit each other, and differ.
        unsafe {
            asm!("tdpbf16ps tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B,
                options(nostack, nomem, preserves_flags));
        }
    }
}

impl Drop for Tiles {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the tiles were configured; whoever needs them next configures them again.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}
