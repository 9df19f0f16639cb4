//! The micro-kernel without intrinsics: plain arrays that the compiler keeps in registers and vectorises for
//! whatever the target has. Products and sums are rounded separately: a fused multiply-add is a library call on
//! machines without the instruction.

use super::tile::{Call, Tile};
use crate::dtype::Float;

/// 4 rows by 8 columns fill half of 16 registers of 128 bits.
pub const F32: Tile<f32> =
    Tile { rows: 4, lanes: 8, cols: 8, depth: 256, width: 256, direct: 0, run: run::<f32, 8> };

/// As [`F32`], with half the columns.
pub const F64: Tile<f64> =
    Tile { rows: 4, lanes: 4, cols: 4, depth: 256, width: 256, direct: 0, run: run::<f64, 4> };

/// # Safety
/// As [`super::tile::Run`] says.
unsafe fn run<A: Float, const COLS: usize>(call: &Call<A>) {
    // SAFETY: the caller's promise is handed on.
    unsafe {
        match call.rows {
            1 => rows::<A, 1, COLS>(call),
            2 => rows::<A, 2, COLS>(call),
            3 => rows::<A, 3, COLS>(call),
            _ => rows::<A, 4, COLS>(call),
        }
    }
}

/// # Safety
/// As [`super::tile::Run`] says, with `call.rows == ROWS`.
#[inline(always)]
unsafe fn rows<A: Float, const ROWS: usize, const COLS: usize>(call: &Call<A>) {
    let mut sums = [[A::ZERO; COLS]; ROWS];
    for k in 0..call.depth {
        // SAFETY: k is below `depth`, and a strip is COLS wide.
        let b = unsafe { *call.b.add(k * COLS).cast::<[A; COLS]>() };
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: row i is below `call.rows`, k below `depth`.
            let a = unsafe { *call.a.add(k * ROWS + i) };
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
    }
    for (i, sums) in sums.iter_mut().enumerate() {
        // SAFETY: row i of C has `call.cols` elements from here.
        let c = unsafe { std::slice::from_raw_parts_mut(call.c.add(i * call.c_row), call.cols) };
        if call.accumulate {
            for (sum, c) in sums.iter_mut().zip(c.iter()) {
                *sum = *c + *sum;
            }
        }
        if let Some(bias) = call.bias {
            for (j, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a strip is COLS wide.
                *sum += unsafe { *bias.add(j) };
            }
        }
        c.copy_from_slice(&sums[..call.cols]);
    }
}
