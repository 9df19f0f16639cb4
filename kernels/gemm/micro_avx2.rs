//! The micro-kernel for AVX2 with FMA: 6 rows by 16 columns of f32.
//!
//! 12 sums, two vectors of the strip and one broadcast value of A take 15 of 16 registers. 256 steps of a strip take 16 KiB,
//! half of a first-level cache.

use super::pack::widen;
use super::tile::{Call, Run, Tile};
use crate::dtype::Real;
use std::arch::x86_64::*;

/// Floats of one register.
const LANES: usize = 8;

/// Rows of a call.
const ROWS: usize = 6;

/// See the module.
pub const F32: Tile<f32> =
    Tile { rows: ROWS, lanes: LANES, cols: 2 * LANES, depth: 256, width: 256, direct: 0, run };

macro_rules! table {
    ($vectors:literal) => {
        [
            kernel::<1, $vectors>,
            kernel::<2, $vectors>,
            kernel::<3, $vectors>,
            kernel::<4, $vectors>,
            kernel::<5, $vectors>,
            kernel::<6, $vectors>,
        ]
    };
}

/// Kernels by vectors per row and rows.
const KERNELS: [[Run<f32>; 6]; 2] = [table!(1), table!(2)];

/// # Safety
/// As [`super::tile::Run`] says.
unsafe fn run(call: &Call<f32>) {
    // SAFETY: the caller's promise is handed on.
    unsafe { KERNELS[(call.cols - 1) / LANES][call.rows - 1](call) }
}

/// # Safety
/// As [`super::tile::Run`] says, with `call.rows == ROWS` and `call.cols` in the last of VECTORS vectors.
#[target_feature(enable = "avx2,fma")]
unsafe fn kernel<const ROWS: usize, const VECTORS: usize>(call: &Call<f32>) {
    // C is needed last and lies furthest: asking for it now hides the wait behind the arithmetic.
    for i in 0..ROWS {
        _mm_prefetch::<_MM_HINT_ET0>(call.c.wrapping_add(i * call.c_row).cast());
        _mm_prefetch::<_MM_HINT_ET0>(call.c.wrapping_add(i * call.c_row + call.cols - 1).cast());
    }
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
    let (mut a, mut b) = (call.a, call.b);
    for _ in 0..call.depth {
        let mut strip = [_mm256_setzero_ps(); VECTORS];
        for (v, strip) in strip.iter_mut().enumerate() {
            // SAFETY: the strip is readable to whole vectors in each of `depth` rows.
            *strip = unsafe { _mm256_loadu_ps(b.add(v * LANES)) };
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: row i is below `call.rows`, and this is one of `depth` columns.
            let value = unsafe { _mm256_broadcast_ss(&*a.add(i)) };
            for (sum, strip) in sums.iter_mut().zip(strip) {
                *sum = _mm256_fmadd_ps(value, strip, *sum);
            }
        }
        a = a.wrapping_add(ROWS);
        b = b.wrapping_add(VECTORS * LANES);
    }
    // A lane is stored if its number is below what the last vector has of columns.
    let left = (call.cols - (VECTORS - 1) * LANES) as i32;
    let last = _mm256_cmpgt_epi32(_mm256_set1_epi32(left), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    for (i, sums) in sums.into_iter().enumerate() {
        for (v, mut sum) in sums.into_iter().enumerate() {
            let mask = if v + 1 == VECTORS { last } else { _mm256_set1_epi32(-1) };
            // SAFETY: the mask covers the columns of this call, and row i is below `call.rows`.
            unsafe {
                let c = call.c.add(i * call.c_row + v * LANES);
                if call.accumulate {
                    sum = _mm256_add_ps(_mm256_maskload_ps(c, mask), sum);
                }
                if let Some(bias) = call.bias {
                    sum = _mm256_add_ps(sum, _mm256_loadu_ps(bias.add(v * LANES)));
                }
                _mm256_maskstore_ps(c, mask, sum);
            }
        }
    }
}

/// See [`super::tile::Accumulator::transpose`]: blocks of 8 by 8, and one of 6 columns, which is what a panel of A has.
#[target_feature(enable = "avx2,fma")]
pub fn transpose<T: Real<Acc = f32>>(
    [cols, depth]: [usize; 2],
    from: &[T],
    distance: usize,
    out: &mut [f32],
    width: usize,
) -> [usize; 2] {
    let depth = depth / LANES * LANES;
    let cols = cols / LANES * LANES + if cols % LANES >= ROWS { ROWS } else { 0 };
    if cols == 0 || depth == 0 {
        return [0, 0];
    }
    assert!((cols - 1) * distance + depth <= from.len(), "the columns to pack lie in the operand");
    assert!((depth - 1) * width + cols <= out.len(), "the block holds them");
    for j in (0..cols).step_by(LANES) {
        let whole = cols - j >= LANES;
        for k in (0..depth).step_by(LANES) {
            let mut block = [_mm256_setzero_ps(); LANES];
            for (i, row) in block.iter_mut().enumerate().take(if whole { LANES } else { ROWS }) {
                let from = from.as_ptr().wrapping_add((j + i) * distance + k);
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(8 * LANES).cast());
                // SAFETY: column j + i and 8 steps from k are within what the first assertion found. A register has
                // the size of its lanes, and any bits are valid in both.
                *row = unsafe {
                    std::mem::transmute::<[f32; LANES], __m256>(widen(&*from.cast::<[T; LANES]>()))
                };
            }
            for (i, row) in turn(block).into_iter().enumerate() {
                // SAFETY: step k + i and these columns from j are within what the second assertion found.
                unsafe {
                    let to = out.as_mut_ptr().add((k + i) * width + j);
                    if whole {
                        _mm256_storeu_ps(to, row);
                    } else {
                        _mm_storeu_ps(to, _mm256_castps256_ps128(row));
                        _mm_storel_pd(to.add(4).cast(), _mm_castps_pd(_mm256_extractf128_ps::<1>(row)));
                    }
                }
            }
        }
    }
    [cols, depth]
}

/// Element k of register j becomes element j of register k.
#[target_feature(enable = "avx2")]
#[inline]
fn turn(x: [__m256; LANES]) -> [__m256; LANES] {
    let mut y = x;
    // Pairs of rows, then pairs of pairs, within each 128-bit lane.
    for i in 0..4 {
        y[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        y[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    let mut z = y;
    for i in 0..2 {
        let (a, b) = ([y[4 * i], y[4 * i + 1]], [y[4 * i + 2], y[4 * i + 3]]);
        z[4 * i] = _mm256_shuffle_ps::<0x44>(a[0], b[0]);
        z[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a[0], b[0]);
        z[4 * i + 2] = _mm256_shuffle_ps::<0x44>(a[1], b[1]);
        z[4 * i + 3] = _mm256_shuffle_ps::<0xee>(a[1], b[1]);
    }
    // z[4 q + r] holds in lane l the column 4 l + r of rows 4 q .. 4 q + 4: halves are exchanged between the q.
    for r in 0..4 {
        y[r] = _mm256_permute2f128_ps::<0x20>(z[r], z[4 + r]);
        y[4 + r] = _mm256_permute2f128_ps::<0x31>(z[r], z[4 + r]);
    }
    y
}
