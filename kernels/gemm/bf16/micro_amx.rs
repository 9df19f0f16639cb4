//! The micro-kernel for AMX: 32 rows by 32 columns in four tiles of sums.
//!
//! A step of 32 k loads two tiles of each operand, 4 KiB, and multiplies each with each: 64 cycles of arithmetic to 32 of
//! loads from a first-level cache. Smaller blocks leave the second tiles out.

use super::pack::LANES;
use super::{Call, Tile};
use crate::amx::{ROW_BYTES, Tiles};

/// See the module.
pub const BF16: Tile =
    Tile { rows: 2 * LANES, cols: 2 * LANES, depth: 4096, near: 512, task_flops: 32 << 20, run };

/// # Safety
/// As [`super::Run`] says.
unsafe fn run(call: &Call) {
    let tiles = call.tiles.expect("tiles were configured for this path");
    // SAFETY: the caller's promise is handed on.
    unsafe {
        match (call.rows > LANES, call.width > LANES) {
            (true, true) => kernel::<true, true>(tiles, call),
            (true, false) => kernel::<true, false>(tiles, call),
            (false, true) => kernel::<false, true>(tiles, call),
            (false, false) => kernel::<false, false>(tiles, call),
        }
    }
}

/// # Safety
/// As [`super::Run`] says, with rows in two panels if `TWO_ROWS`, and two registers of columns if `TWO_COLS`.
#[inline(always)]
unsafe fn kernel<const TWO_ROWS: bool, const TWO_COLS: bool>(tiles: &Tiles, call: &Call) {
    let row_bytes = call.width * size_of::<f32>();
    let c = [0, LANES].map(|i| [0, LANES].map(|j| call.sums.wrapping_add(i * call.width + j).cast::<u8>()));
    if call.first {
        tiles.zero::<0>();
        tiles.zero::<1>();
        tiles.zero::<2>();
        tiles.zero::<3>();
    } else {
        // SAFETY: the block of sums holds 16 rows of 16 columns at each of these.
        unsafe {
            tiles.load::<0>(c[0][0], row_bytes);
            if TWO_COLS {
                tiles.load::<1>(c[0][1], row_bytes);
            }
            if TWO_ROWS {
                tiles.load::<2>(c[1][0], row_bytes);
            }
            if TWO_ROWS && TWO_COLS {
                tiles.load::<3>(c[1][1], row_bytes);
            }
        }
    }
    let (mut a, mut b) = (call.left.cast::<u8>(), call.right.cast::<u8>());
    let left_row = 2 * call.left_row;
    for _ in 0..call.units {
        // SAFETY: the operands hold `units` units of these sizes.
        unsafe {
            tiles.stream::<6>(b, row_bytes);
            tiles.load::<4>(a, left_row);
            tiles.multiply::<0, 4, 6>();
            if TWO_COLS {
                tiles.stream::<7>(b.wrapping_add(ROW_BYTES), row_bytes);
                tiles.multiply::<1, 4, 7>();
            }
            if TWO_ROWS {
                tiles.load::<5>(a.wrapping_add(2 * call.left_panel), left_row);
                tiles.multiply::<2, 5, 6>();
            }
            if TWO_ROWS && TWO_COLS {
                tiles.multiply::<3, 5, 7>();
            }
        }
        a = a.wrapping_add(2 * call.left_unit);
        b = b.wrapping_add(LANES * row_bytes);
    }
    // SAFETY: as for the loads.
    unsafe {
        tiles.store::<0>(c[0][0], row_bytes);
        if TWO_COLS {
            tiles.store::<1>(c[0][1], row_bytes);
        }
        if TWO_ROWS {
            tiles.store::<2>(c[1][0], row_bytes);
        }
        if TWO_ROWS && TWO_COLS {
            tiles.store::<3>(c[1][1], row_bytes);
        }
    }
}
