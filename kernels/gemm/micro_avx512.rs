//! The micro-kernel for AVX-512: 8 rows by 48 columns of f32.
//!
//! 24 sums, three vectors of the strip and one broadcast value of A take 28 of 32 registers. One step of k is 24
//! fused multiply-adds and 11 loads: with two of each per cycle the arithmetic is the limit. A strip of 512 steps (96 KiB)
//! passes through the first-level cache with each call, 16 bytes a cycle from the second, which keeps up; and C is visited a
//! third as often as with strips that stay in the first. A block of B (1 MiB) is half of a second-level cache. 12 rows by
//! 32 columns have as many sums but lose a tenth where the rows of C lie a power of two apart, since twelve rows of it then
//! fight for the same sets of the first-level cache.

use super::pack::{Matrix, widen};
use super::tile::{Call, Run, Tile};
use crate::dtype::Real;
use std::arch::x86_64::*;

/// Steps of k in one round of the loop.
const UNROLL: usize = 4;

/// The most rounds from one row of C that is asked for to the next.
const LONGEST_PAUSE: usize = 4;

/// Floats of one register.
const LANES: usize = 16;

/// Half of them.
const HALF: usize = LANES / 2;

/// See the module.
pub const F32: Tile<f32> =
    Tile { rows: 8, lanes: LANES, cols: 3 * LANES, depth: 512, width: 528, direct: 4, run };

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
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let (mut a, mut b) = (call.a, call.b);
    let mut steps = |sums: &mut [[__m512; VECTORS]; ROWS], count: usize| {
        for k in 0..count {
            let mut strip = [_mm512_setzero_ps(); VECTORS];
            for (v, strip) in strip.iter_mut().enumerate() {
                // SAFETY: the strip is readable to whole vectors in each of `depth` rows.
                *strip = unsafe { _mm512_loadu_ps(b.add((k * VECTORS + v) * LANES)) };
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: row i is below `call.rows`, and this is one of `depth` columns.
                let value = _mm512_set1_ps(unsafe { *a.add(k * ROWS + i) });
                for (sum, strip) in sums.iter_mut().zip(strip) {
                    *sum = _mm512_fmadd_ps(value, strip, *sum);
                }
            }
        }
        a = a.wrapping_add(count * ROWS);
        b = b.wrapping_add(count * VECTORS * LANES);
    };
    // C is needed last and lies furthest. Its rows are asked for one by one during the last steps: all at once they would
    // take the buffers that lines of A and B arrive in.
    let groups = call.depth / UNROLL;
    let pause = (groups / ROWS).min(LONGEST_PAUSE);
    let mut ahead = call.ahead;
    for _ in 0..groups - ROWS * pause {
        _mm_prefetch::<_MM_HINT_T1>(ahead.next().cast());
        steps(&mut sums, UNROLL);
    }
    for i in 0..ROWS {
        for v in 0..VECTORS {
            _mm_prefetch::<_MM_HINT_ET0>(call.c.wrapping_add(i * call.c_row + v * LANES).cast());
        }
        for _ in 0..pause {
            steps(&mut sums, UNROLL);
        }
    }
    for _ in 0..call.depth % UNROLL {
        steps(&mut sums, 1);
    }
    // SAFETY: the caller's promise.
    unsafe { store(call, sums) };
}

/// Adds the old c and the bias to sums and writes them.
///
/// # Safety
/// As [`super::tile::Run`] says, with `call.rows == ROWS` and `call.cols` in the last of VECTORS vectors.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn store<const ROWS: usize, const VECTORS: usize>(call: &Call<f32>, sums: [[__m512; VECTORS]; ROWS]) {
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
                    sum = _mm512_add_ps(sum, _mm512_loadu_ps(bias.add(v * LANES)));
                }
                _mm512_mask_storeu_ps(c, mask, sum);
            }
        }
    }
}

/// As a micro-kernel, with up to [`Tile::direct`] rows and 16 columns, of B where it lies: blocks of 16 steps of 16 columns
/// are turned in registers and not stored, so that nothing but memory is waited for.
///
/// # Safety
/// A and C are as [`super::tile::Run`] says; this machine has these instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn direct<T: Real<Acc = f32>>(b: Matrix<T>, call: &Call<f32>) {
    // SAFETY: the caller's promise is handed on.
    unsafe {
        match call.rows {
            1 => direct_rows::<T, 1>(b, call),
            2 => direct_rows::<T, 2>(b, call),
            3 => direct_rows::<T, 3>(b, call),
            4 => direct_rows::<T, 4>(b, call),
            other => unreachable!("{other} rows are not for this kernel"),
        }
    }
}

/// # Safety
/// As [`direct`], with `call.rows == ROWS`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn direct_rows<T: Real<Acc = f32>, const ROWS: usize>(b: Matrix<T>, call: &Call<f32>) {
    let whole = if call.cols == LANES { call.depth / LANES * LANES } else { 0 };
    assert!(whole == 0 || (LANES - 1) * b.col + whole <= b.data.len(), "the columns lie in B");
    let mut sums = [[_mm512_setzero_ps(); 1]; ROWS];
    for k in (0..whole).step_by(LANES) {
        // SAFETY: 16 steps of 16 columns were found to be there.
        let block = turn(unsafe { columns(b.data.as_ptr().add(k), b.col) });
        for (step, values) in block.into_iter().enumerate() {
            for (i, [sum]) in sums.iter_mut().enumerate() {
                // SAFETY: row i is below `call.rows`, and this is one of `depth` steps.
                let value = _mm512_set1_ps(unsafe { *call.a.add((k + step) * ROWS + i) });
                *sum = _mm512_fmadd_ps(value, values, *sum);
            }
        }
    }
    for k in whole..call.depth {
        let mut values = [0f32; LANES];
        for (j, value) in values.iter_mut().enumerate().take(call.cols) {
            *value = b.data[j * b.col + k].to_acc();
        }
        // SAFETY: 16 floats are read from as many.
        let values = unsafe { _mm512_loadu_ps(values.as_ptr()) };
        for (i, [sum]) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let value = _mm512_set1_ps(unsafe { *call.a.add(k * ROWS + i) });
            *sum = _mm512_fmadd_ps(value, values, *sum);
        }
    }
    // SAFETY: the caller's promise.
    unsafe { store(call, sums) };
}

/// See [`super::tile::Accumulator::transpose`]: blocks of 16 by 16, and one of 8 columns, which is what a panel of A has.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub fn transpose<T: Real<Acc = f32>>(
    [cols, depth]: [usize; 2],
    from: &[T],
    distance: usize,
    out: &mut [f32],
    width: usize,
) -> [usize; 2] {
    let [cols, depth] = [cols / HALF * HALF, depth / LANES * LANES];
    if cols == 0 || depth == 0 {
        return [0, 0];
    }
    assert!((cols - 1) * distance + depth <= from.len(), "the columns to pack lie in the operand");
    assert!((depth - 1) * width + cols <= out.len(), "the block holds them");
    for j in (0..cols).step_by(LANES) {
        for k in (0..depth).step_by(LANES) {
            let from = from.as_ptr().wrapping_add(j * distance + k);
            let to = out.as_mut_ptr().wrapping_add(k * width + j);
            if cols - j >= LANES {
                // SAFETY: 16 columns from j and 16 steps from k are within what the first assertion found.
                let block = turn(unsafe { columns(from, distance) });
                for (i, row) in block.into_iter().enumerate() {
                    // SAFETY: step k + i and 16 columns from j are within what the second assertion found.
                    unsafe { _mm512_storeu_ps(to.add(i * width), row) };
                }
            } else {
                // SAFETY: as above, with 8 columns.
                let block = turn_half(unsafe { columns(from, distance) });
                for (i, rows) in block.into_iter().enumerate() {
                    let (row, later) = (_mm512_castps512_ps256(rows), _mm512_extractf32x8_ps::<1>(rows));
                    // SAFETY: steps k + i and k + i + 4 and 8 columns from j are within what the second assertion found.
                    unsafe {
                        let to = to.add((i / 4 * 8 + i % 4) * width);
                        _mm256_storeu_ps(to, row);
                        _mm256_storeu_ps(to.add(4 * width), later);
                    }
                }
            }
        }
    }
    [cols, depth]
}

/// Sixteen steps of each of N columns.
///
/// # Safety
/// They are readable.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
unsafe fn columns<T: Real<Acc = f32>, const N: usize>(from: *const T, distance: usize) -> [__m512; N] {
    let mut block = [_mm512_setzero_ps(); N];
    for (i, column) in block.iter_mut().enumerate() {
        let from = from.wrapping_add(i * distance);
        // The next steps of many columns at once are more streams than the hardware follows.
        _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(4 * LANES).cast());
        // SAFETY: the caller's promise. A register has the size of its lanes, and any bits are valid in both.
        *column = unsafe { std::mem::transmute::<[f32; LANES], __m512>(widen(&*from.cast::<[T; LANES]>())) };
    }
    block
}

/// Elements 8 q + r and 8 q + r + 4 of eight registers become the halves of register 4 q + r, for r below 4.
#[target_feature(enable = "avx512f")]
#[inline]
fn turn_half(x: [__m512; HALF]) -> [__m512; HALF] {
    let z = quads(x);
    let (even, odd) =
        (_mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15));
    let mut y = z;
    for r in 0..4 {
        let (a, b) = (_mm512_castps_pd(z[r]), _mm512_castps_pd(z[4 + r]));
        y[r] = _mm512_castpd_ps(_mm512_permutex2var_pd(a, even, b));
        y[4 + r] = _mm512_castpd_ps(_mm512_permutex2var_pd(a, odd, b));
    }
    y
}

/// Lane l of register 4 q + r of the result holds elements 4 l + r of registers 4 q to 4 q + 3.
#[target_feature(enable = "avx512f")]
#[inline]
fn quads<const N: usize>(x: [__m512; N]) -> [__m512; N] {
    let mut y = x;
    // Pairs of rows, then pairs of pairs, within each 128-bit lane.
    for i in 0..N / 2 {
        y[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        y[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    let mut z = y;
    for i in 0..N / 4 {
        let pd = |v: __m512| _mm512_castps_pd(v);
        let ps = |v: __m512d| _mm512_castpd_ps(v);
        z[4 * i] = ps(_mm512_unpacklo_pd(pd(y[4 * i]), pd(y[4 * i + 2])));
        z[4 * i + 1] = ps(_mm512_unpackhi_pd(pd(y[4 * i]), pd(y[4 * i + 2])));
        z[4 * i + 2] = ps(_mm512_unpacklo_pd(pd(y[4 * i + 1]), pd(y[4 * i + 3])));
        z[4 * i + 3] = ps(_mm512_unpackhi_pd(pd(y[4 * i + 1]), pd(y[4 * i + 3])));
    }
    z
}

/// Element k of register j becomes element j of register k.
#[target_feature(enable = "avx512f")]
#[inline]
pub fn turn(x: [__m512; LANES]) -> [__m512; LANES] {
    let z = quads(x);
    let mut y = z;
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
