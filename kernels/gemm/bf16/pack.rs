//! Copies of bf16 operands in the order in which the instructions read them: steps of k in pairs, 32 at a time.
//!
//! The **left** operand, the rows of the result, is cut into units of 16 rows by 32 steps of k, one row of 64 bytes
//! behind the other: what AMX calls a tile. A panel of 16 rows is its units in the order of k.
//!
//! The **right** operand, the columns of the result, is cut into strips. A row of a strip holds two steps of k: the pair of
//! the first column, of the second column, and so on.
//!
//! Missing rows, columns and steps are zero, and zero times zero adds nothing, so no sum depends on them.

use super::super::micro_avx512;
use super::super::pack::Matrix;
use crate::dtype::bf16;
use std::arch::x86_64::*;

/// Rows of a unit of the left operand, and columns of a register of the right one.
pub const LANES: usize = 16;

/// Steps of k that an operand is filled up to a multiple of.
pub const STEPS: usize = 32;

/// Elements of a unit.
pub const UNIT: usize = LANES * STEPS;

/// The bits below `n`, of 32.
fn mask32(n: usize) -> u32 {
    ((1u64 << n.min(32)) - 1) as u32
}

/// Packs the first `rows` rows and `depth` columns of `a` as panels into `out`.
#[target_feature(enable = "avx512f,avx512bw")]
pub fn left(a: Matrix<bf16>, rows: usize, depth: usize, out: &mut [bf16]) {
    let panel = depth.div_ceil(STEPS) * UNIT;
    if panel == 0 {
        return;
    }
    if a.col == 1 {
        for (i, out) in (0..rows).step_by(LANES).zip(out.chunks_exact_mut(panel)) {
            left_rows(a.from(i, 0), LANES.min(rows - i), depth, out);
        }
        return;
    }
    for k in (0..depth).step_by(STEPS) {
        for (i, out) in (0..rows).step_by(LANES).zip(out.chunks_exact_mut(panel)) {
            let unit = &mut out.as_chunks_mut::<UNIT>().0[k / STEPS];
            turn_unit(a.from(i, k), LANES.min(rows - i), STEPS.min(depth - k), unit);
        }
    }
}

/// A panel whose steps of k are contiguous: lines are moved as they are.
#[target_feature(enable = "avx512f,avx512bw")]
fn left_rows(a: Matrix<bf16>, rows: usize, depth: usize, out: &mut [bf16]) {
    for i in 0..LANES {
        if i >= rows {
            for unit in out.as_chunks_mut::<UNIT>().0 {
                unit[i * STEPS..][..STEPS].fill(bf16::ZERO);
            }
            continue;
        }
        let from = &a.data[i * a.row..][..depth];
        let (whole, rest) = from.as_chunks::<STEPS>();
        let mut units = out.as_chunks_mut::<UNIT>().0.iter_mut();
        for (k, (from, unit)) in whole.iter().zip(&mut units).enumerate() {
            // The row after the next: the hardware follows one row, and a jump to another costs a wait.
            prefetch(a.data, (i + 2) * a.row + k * STEPS);
            unit[i * STEPS..][..STEPS].copy_from_slice(from);
        }
        if let Some(unit) = units.next() {
            let unit = &mut unit[i * STEPS..][..STEPS];
            unit[..rest.len()].copy_from_slice(rest);
            unit[rest.len()..].fill(bf16::ZERO);
        }
    }
}

/// A unit whose rows are contiguous: pairs of steps are interleaved, and the 16 by 16 pairs turned.
#[target_feature(enable = "avx512f,avx512bw")]
fn turn_unit(a: Matrix<bf16>, rows: usize, depth: usize, unit: &mut [bf16; UNIT]) {
    let mut pairs = [_mm512_setzero_si512(); LANES];
    for (k, pair) in pairs.iter_mut().enumerate().take(depth.div_ceil(2)) {
        *pair = interleaved(a.data, a.col, 2 * k, depth, rows);
    }
    for (row, to) in turn(pairs).into_iter().zip(unit.as_chunks_mut::<STEPS>().0) {
        // SAFETY: a register of bf16 is written to as many.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), row) };
    }
}

/// The first `count` elements of lines k and k + 1 of `data`, which lie `distance` apart, in turn; zero for lines
/// from `lines` on and elements from `count` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleaved(data: &[bf16], distance: usize, k: usize, lines: usize, count: usize) -> __m512i {
    prefetch(data, (k + 16) * distance);
    prefetch(data, (k + 17) * distance);

    let line = |k: usize| {
        if k >= lines || count == 0 {
            return _mm512_setzero_si512();
        }
        let line = &data[k * distance..];
        if let Some(line) = line.first_chunk::<LANES>().filter(|_| count >= LANES) {
            // SAFETY: the chunk has the 16 elements that are read.
            return _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(line.as_ptr().cast()) });
        }
        let line = &line[..count.min(LANES)];
        // SAFETY: the mask covers the slice, and nothing else is read.
        let line = unsafe { _mm512_maskz_loadu_epi16(mask32(line.len()), line.as_ptr().cast()) };
        _mm512_cvtepu16_epi32(_mm512_castsi512_si256(line))
    };
    _mm512_or_si512(line(k), _mm512_slli_epi32::<16>(line(k + 1)))
}

/// Packs the first `depth` rows and `cols` columns of `b` as a strip of `width` columns.
#[target_feature(enable = "avx512f,avx512bw")]
pub fn right(b: Matrix<bf16>, depth: usize, cols: usize, width: usize, out: &mut [bf16]) {
    let out = &mut out[..depth.next_multiple_of(STEPS) * width];
    for j in (0..width).step_by(LANES) {
        let cols = LANES.min(cols.saturating_sub(j));
        let b = b.from(0, j);
        for (k, out) in (0..depth).step_by(STEPS).zip(out.chunks_exact_mut(STEPS * width)) {
            let steps = STEPS.min(depth - k);
            let pairs = if b.col == 1 {
                let mut pairs = [_mm512_setzero_si512(); LANES];
                for (pair, i) in pairs.iter_mut().zip((0..steps).step_by(2)) {
                    *pair = interleaved(b.data, b.row, k + i, k + steps, cols);
                }
                pairs
            } else {
                // The next columns, in the order of addresses, which the hardware takes as one stream.
                let (units, first) = (depth.div_ceil(STEPS), k / STEPS * LANES);
                for line in first..first + LANES {
                    prefetch(b.data, (LANES + line / units) * b.col + line % units * STEPS);
                }
                turn(columns(b, k, steps, cols))
            };
            for i in 0..LANES {
                let to = &mut out[2 * (i * width + j)..][..STEPS];
                // SAFETY: a register of bf16 is written to as many.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), pairs[i]) };
            }
        }
    }
}

/// `steps` steps from k of `cols` columns, a register for each; zero beyond.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn columns(b: Matrix<bf16>, k: usize, steps: usize, cols: usize) -> [__m512i; LANES] {
    let mut columns = [_mm512_setzero_si512(); LANES];
    if (steps, cols) == (STEPS, LANES) {
        let whole = &b.data[k..][..(LANES - 1) * b.col + STEPS];
        for (i, column) in columns.iter_mut().enumerate() {
            // SAFETY: the last column ends where `whole` does.
            *column = unsafe { _mm512_loadu_si512(whole.as_ptr().add(i * b.col).cast()) };
        }
        return columns;
    }
    for (i, column) in columns.iter_mut().enumerate().take(cols) {
        let from = &b.data[i * b.col + k..][..steps];
        // SAFETY: the mask covers the slice, and nothing else is read.
        *column = unsafe { _mm512_maskz_loadu_epi16(mask32(steps), from.as_ptr().cast()) };
    }
    columns
}

/// Pair k of register j becomes pair j of register k.
#[inline]
#[target_feature(enable = "avx512f")]
fn turn(pairs: [__m512i; LANES]) -> [__m512i; LANES] {
    // Loops, since a closure would not be compiled for these instructions.
    let mut floats = [_mm512_setzero_ps(); LANES];
    for (float, pair) in floats.iter_mut().zip(pairs) {
        *float = _mm512_castsi512_ps(pair);
    }
    let mut turned = pairs;
    for (pair, float) in turned.iter_mut().zip(micro_avx512::turn(floats)) {
        *pair = _mm512_castps_si512(float);
    }
    turned
}

/// Asks for the line of `data[at]` to be brought near.
#[inline(always)]
fn prefetch(data: &[bf16], at: usize) {
    // SAFETY: a prefetch reads and writes nothing, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(data.as_ptr().wrapping_add(at).cast()) };
}
