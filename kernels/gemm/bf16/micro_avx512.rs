//! The micro-kernel for AVX-512-BF16: 8 rows by 48 columns, as [the one in f32](super::super::micro_avx512).
//!
//! One instruction multiplies 16 pairs of B with one of A and adds both products to 16 sums, the second step of the pair
//! first, each by a fused multiply-add that takes denormals as zero.

use super::pack::{LANES, STEPS};
use super::{Call, Tile};
use std::arch::x86_64::*;
use std::mem::transmute;

/// Rows of a call.
const ROWS: usize = 8;

/// See the module.
pub const BF16: Tile =
    Tile { rows: ROWS, cols: 3 * LANES, depth: 1024, near: 1024, task_flops: 8 << 20, run };

macro_rules! table {
    ($vectors:literal) => {
        [
            kernel::<1, $vectors>,
            kernel::<2, $vectors>,
            kernel::<3, $vectors>,
            kernel::<4, $vectors>,
            kernel::<5, $vectors>,
            kernel::<6, $vectors>,
            kernel::<7, $vectors>,
            kernel::<8, $vectors>,
        ]
    };
}

/// Kernels by vectors per row and rows.
const KERNELS: [[unsafe fn(&Call); ROWS]; 3] = [table!(1), table!(2), table!(3)];

/// # Safety
/// As [`super::Run`] says.
unsafe fn run(call: &Call) {
    // SAFETY: the caller's promise is handed on.
    unsafe { KERNELS[call.width / LANES - 1][call.rows - 1](call) }
}

/// # Safety
/// As [`super::Run`] says, with `call.rows == ROWS` and `call.width` that of VECTORS registers.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn kernel<const ROWS: usize, const VECTORS: usize>(call: &Call) {
    let width = VECTORS * LANES;
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    if !call.first {
        for (i, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the block of sums is `rows` by `width`.
                *sum = unsafe { _mm512_loadu_ps(call.sums.add(i * width + v * LANES)) };
            }
        }
    }
    let (mut a, mut b) = (call.left.cast::<i32>(), call.right);
    let left_row = call.left_row / 2;
    for _ in 0..call.units {
        for pair in 0..STEPS / 2 {
            let mut strip = [_mm512_setzero_si512(); VECTORS];
            for (v, strip) in strip.iter_mut().enumerate() {
                // SAFETY: the strip has a row of `width` pairs for each pair of steps.
                *strip = unsafe { _mm512_loadu_si512(b.add(2 * v * LANES).cast()) };
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: row i is below `call.rows`, and a unit has 16 pairs of each row.
                let value = unsafe { _mm512_set1_epi32(a.add(i * left_row + pair).read_unaligned()) };
                for (sum, strip) in sums.iter_mut().zip(strip) {
                    // SAFETY: both types are 512 bits without meaning of their own.
                    *sum = unsafe {
                        let (value, strip) =
                            (transmute::<__m512i, __m512bh>(value), transmute::<__m512i, __m512bh>(strip));
                        _mm512_dpbf16_ps(*sum, value, strip)
                    };
                }
            }
            b = b.wrapping_add(2 * width);
        }
        a = a.wrapping_add(call.left_unit / 2);
    }
    for (i, sums) in sums.into_iter().enumerate() {
        for (v, sum) in sums.into_iter().enumerate() {
            // SAFETY: as for the loads.
            unsafe { _mm512_storeu_ps(call.sums.add(i * width + v * LANES), sum) };
        }
    }
}
