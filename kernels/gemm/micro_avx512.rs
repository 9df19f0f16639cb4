//! The micro-kernel for AVX-512: 8 rows by 48 columns of f32.
//!
//! 24 sums, three vectors of the strip and one broadcast value of A take 28 of 32 registers. One step of k is 24
//! fused multiply-adds and 11 loads: with two of each per cycle the arithmetic is the limit. 192 steps of a strip
//! (36 KiB) leave room in a first-level cache of 48 KiB for what passes by. 12 rows by 32 columns
//! have as many sums but lose a tenth where the rows of C lie a power of two apart, since twelve rows of it then
//! fight for the same sets of the first-level cache.

use super::pack::widen;
use super::tile::{Call, Run, Tile};
use crate::dtype::Real;
use std::arch::x86_64::*;

/// Floats of one register.
const LANES: usize = 16;

/// See the module.
pub const F32: Tile<f32> = Tile { rows: 8, lanes: LANES, cols: 3 * LANES, depth: 192, run };

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

/// Kernels by vectors per row and rows, so that edges of C do only their own work.
const KERNELS: [[Run<f32>; 8]; 3] = [table!(1), table!(2), table!(3)];

/// # Safety
/// As [`super::tile::Run`] says.
unsafe fn run(call: &Call<f32>) {
    // SAFETY: the caller's promise is handed on.
    unsafe { KERNELS[(call.cols - 1) / LANES][call.rows - 1](call) }
}

/// # Safety
/// As [`super::tile::Run`] says, with `call.rows == ROWS` and `call.cols` in the last of VECTORS vectors.
#[target_feature(enable = "avx512f")]
unsafe fn kernel<const ROWS: usize, const VECTORS: usize>(call: &Call<f32>) {
    // C is needed last and lies furthest: asking for it now hides the wait behind the arithmetic.
    for i in 0..ROWS {
        for v in 0..VECTORS {
            let c = call.c.wrapping_add(i * call.c_row + v * LANES);
            _mm_prefetch::<_MM_HINT_ET0>(c.cast());
        }
    }
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let (mut a, mut b) = (call.a, call.b);
    for _ in 0..call.depth {
        let mut strip = [_mm512_setzero_ps(); VECTORS];
        for (v, strip) in strip.iter_mut().enumerate() {
            // SAFETY: the strip is readable to whole vectors in each of `depth` rows.
            *strip = unsafe { _mm512_loadu_ps(b.add(v * LANES)) };
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: row i is below `call.rows`, and this is one of `depth` columns.
            let value = _mm512_set1_ps(unsafe { *a.add(i * call.a_row) });
            for (sum, strip) in sums.iter_mut().zip(strip) {
                *sum = _mm512_fmadd_ps(value, strip, *sum);
            }
        }
        a = a.wrapping_add(call.a_col);
        b = b.wrapping_add(call.b_row);
    }
    let last = !0 >> (VECTORS * LANES - call.cols);
    for (i, sums) in sums.into_iter().enumerate() {
        for (v, mut sum) in sums.into_iter().enumerate() {
            let mask: __mmask16 = if v + 1 == VECTORS { last } else { !0 };
            // SAFETY: the mask covers the columns of this call, and row i is below `call.rows`.
            unsafe {
                let c = call.c.add(i * call.c_row + v * LANES);
                if call.accumulate {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), sum);
                }
                if let Some(bias) = call.bias {
                    sum = _mm512_add_ps(sum, _mm512_loadu_ps(bias.as_ptr().add(v * LANES)));
                }
                _mm512_mask_storeu_ps(c, mask, sum);
            }
        }
    }
}

/// See [`super::tile::Accumulator::transpose`]: blocks of 16 by 16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub fn transpose<T: Real<Acc = f32>>(
    [cols, depth]: [usize; 2],
    from: &[T],
    distance: usize,
    out: &mut [f32],
    width: usize,
) -> [usize; 2] {
    let [cols, depth] = [cols, depth].map(|n| n / LANES * LANES);
    if cols == 0 || depth == 0 {
        return [0, 0];
    }
    assert!((cols - 1) * distance + depth <= from.len(), "the columns to pack lie in B");
    assert!((depth - 1) * width + cols <= out.len(), "the strip holds them");
    for j in (0..cols).step_by(LANES) {
        for k in (0..depth).step_by(LANES) {
            let mut block = [_mm512_setzero_ps(); LANES];
            for (i, row) in block.iter_mut().enumerate() {
                let from = from.as_ptr().wrapping_add((j + i) * distance + k);
                // The next steps of many columns at once are more streams than the hardware follows.
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(4 * LANES).cast());
                // SAFETY: column j + i and 16 steps from k are within what the first assertion found. A register has
                // the size of its lanes, and any bits are valid in both.
                *row = unsafe {
                    std::mem::transmute::<[f32; LANES], __m512>(widen(&*from.cast::<[T; LANES]>()))
                };
            }
            for (i, row) in turn(block).into_iter().enumerate() {
                // SAFETY: step k + i and 16 columns from j are within what the second assertion found.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr().add((k + i) * width + j), row) };
            }
        }
    }
    [cols, depth]
}

/// Element k of register j becomes element j of register k.
#[target_feature(enable = "avx512f")]
#[inline]
pub fn turn(x: [__m512; LANES]) -> [__m512; LANES] {
    let mut y = x;
    // Pairs of rows, then pairs of pairs, within each 128-bit lane.
    for i in 0..8 {
        y[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        y[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    let mut z = y;
    for i in 0..4 {
        let pd = |v: __m512| _mm512_castps_pd(v);
        let ps = |v: __m512d| _mm512_castpd_ps(v);
        z[4 * i] = ps(_mm512_unpacklo_pd(pd(y[4 * i]), pd(y[4 * i + 2])));
        z[4 * i + 1] = ps(_mm512_unpackhi_pd(pd(y[4 * i]), pd(y[4 * i + 2])));
        z[4 * i + 2] = ps(_mm512_unpacklo_pd(pd(y[4 * i + 1]), pd(y[4 * i + 3])));
        z[4 * i + 3] = ps(_mm512_unpackhi_pd(pd(y[4 * i + 1]), pd(y[4 * i + 3])));
    }
    // z[4 q + r] holds in lane l the columns 4 l + r of rows 4 q .. 4 q + 4: lanes are exchanged between the q.
    for r in 0..4 {
        let (a, b, c, d) = (z[r], z[4 + r], z[8 + r], z[12 + r]);
        let (ab_even, ab_odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
        let (cd_even, cd_odd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
        y[r] = _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even);
        y[8 + r] = _mm512_shuffle_f32x4::<0xdd>(ab_even, cd_even);
        y[4 + r] = _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd);
        y[12 + r] = _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd);
    }
    y
}
