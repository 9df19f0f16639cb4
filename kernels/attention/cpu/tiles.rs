//! What attention in AMX's tiles is made of: operands in the order in which tiles read them, and products.
//!
//! A tile of a left factor is 16 rows of 32 bf16. A tile of a right factor is 16 rows of 16 **pairs**: row k holds, for
//! each column, the elements of its rows 2 k and 2 k + 1. Two ways lead to it: [`turn_rows`] from a matrix that is stored
//! transposed, and [`pair_rows`] from one that is not. Widths are filled up with zeros to whole tiles.

use super::columns::Columns;
use crate::amx::{ROW_BYTES, ROWS, Tiles};
use crate::dtype::bf16;
use crate::math::{EXP, LN2_HIGH, LN2_LOW};
use bytemuck::Pod;
use std::arch::x86_64::*;

/// Elements of bf16 in a row of a tile: what widths of heads and blocks of keys are filled up to a multiple of.
pub const WIDE: usize = 2 * ROWS;

/// Numbers of 32 bits in a tile.
pub const TILE: usize = ROWS * ROWS;

/// Sixteen of f32.
pub type Lanes = [f32; ROWS];

/// Tile T from the rows of `from`, `stride` elements apart.
#[inline(always)]
pub fn load<const T: usize, E: Pod>(tiles: &Tiles, from: &[E], stride: usize) {
    assert!(size_of_val(from) >= size_of::<E>() * (ROWS - 1) * stride + ROW_BYTES, "16 rows of a tile");
    // SAFETY: the 16 rows lie within `from`.
    unsafe { tiles.load::<T>(from.as_ptr().cast(), size_of::<E>() * stride) }
}

/// Tile T into the rows of `to`, `stride` elements apart.
#[inline(always)]
pub fn store<const T: usize>(tiles: &Tiles, to: &mut [f32], stride: usize) {
    assert!(to.len() >= (ROWS - 1) * stride + ROWS, "16 rows of a tile");
    // SAFETY: the 16 rows lie within `to`, which is borrowed for writing.
    unsafe { tiles.store::<T>(to.as_mut_ptr().cast(), size_of::<f32>() * stride) }
}

/// A factor of a product of 2 by 2 tiles: where its two tiles lie, and from row to row of one.
#[derive(Clone, Copy)]
pub struct Two<'a, E> {
    /// From the first tile on.
    pub data: &'a [E],
    /// Elements from the first tile to the second.
    pub next: usize,
    /// Elements from row to row.
    pub stride: usize,
}

impl<'a, E> Two<'a, E> {
    /// The same from element `first` on.
    #[inline(always)]
    pub fn from(self, first: usize) -> Self {
        Two { data: &self.data[first..], ..self }
    }
}

/// `c += a b` in 2 by 2 tiles, over `depth` tiles of a and b, which lie `steps` elements apart. The tiles of c lie `down`
/// and `across` elements apart. If `fresh`, c is zero before, whatever it holds.
#[inline(always)]
pub fn multiply<E: Pod, F: Pod>(
    tiles: &Tiles,
    (c, stride, [down, across], fresh): (&mut [f32], usize, [usize; 2], bool),
    depth: usize,
    (a, b): (Two<E>, Two<F>),
    steps: [usize; 2],
) {
    if fresh {
        tiles.zero::<0>();
        tiles.zero::<1>();
        tiles.zero::<2>();
        tiles.zero::<3>();
    } else {
        load::<0, _>(tiles, c, stride);
        load::<1, _>(tiles, &c[across..], stride);
        load::<2, _>(tiles, &c[down..], stride);
        load::<3, _>(tiles, &c[down + across..], stride);
    }
    for k in 0..depth {
        let (a, b) = (a.from(k * steps[0]), b.from(k * steps[1]));
        load::<4, _>(tiles, a.data, a.stride);
        load::<6, _>(tiles, b.data, b.stride);
        tiles.multiply::<0, 4, 6>();
        load::<7, _>(tiles, &b.data[b.next..], b.stride);
        tiles.multiply::<1, 4, 7>();
        load::<5, _>(tiles, &a.data[a.next..], a.stride);
        tiles.multiply::<2, 5, 6>();
        tiles.multiply::<3, 5, 7>();
    }
    store::<0>(tiles, c, stride);
    store::<1>(tiles, &mut c[across..], stride);
    store::<2>(tiles, &mut c[down..], stride);
    store::<3>(tiles, &mut c[down + across..], stride);
}

/// The first `count` rows, d wide, filled up with zeros to whole rows of `to`, which are `width` long.
pub fn copy_rows(from: Columns<bf16>, count: usize, d: usize, width: usize, to: &mut [bf16]) {
    for (i, row) in to.chunks_exact_mut(width).enumerate() {
        let used = if i < count { d } else { 0 };
        let (used, filler) = row.split_at_mut(used);
        if i < count {
            used.copy_from_slice(from.row(i, d));
        }
        filler.fill(bf16::ZERO);
    }
}

/// Elements `column..column + 32` of row `i` of the first `count`; zero from element d on, and in other rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn row(from: &Columns<bf16>, i: usize, count: usize, column: usize, d: usize) -> __m512i {
    if i >= count || column >= d {
        return _mm512_setzero_si512();
    }
    let row = &from.row(i, d)[column..];
    let mask = if row.len() >= WIDE { !0 } else { (1 << row.len()) - 1 };
    // SAFETY: the mask covers the slice, and nothing else is read.
    unsafe { _mm512_maskz_loadu_epi16(mask, row.as_ptr().cast()) }
}

/// Right factors out of `count` rows that are columns there: for each 16 rows, a tile for each 32 elements.
#[target_feature(enable = "avx512f,avx512bw")]
pub fn turn_rows(from: Columns<bf16>, count: usize, d: usize, to: &mut [u32]) {
    let steps = d.div_ceil(WIDE);
    for (t, tile) in to.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
        let (first, column) = (t / steps * ROWS, t % steps * WIDE);
        let mut square = [_mm512_setzero_si512(); ROWS];
        for (i, lanes) in square.iter_mut().enumerate() {
            *lanes = row(&from, first + i, count, column, d);
        }
        put(turn(square), tile);
    }
}

/// Right factors out of `count` rows as they are: for each 32 rows, a tile for each 16 elements.
#[target_feature(enable = "avx512f,avx512bw")]
pub fn pair_rows(from: Columns<bf16>, count: usize, d: usize, to: &mut [u32]) {
    let halves = 2 * d.div_ceil(WIDE);
    for (t, pair) in to.as_chunks_mut::<{ 2 * TILE }>().0.iter_mut().enumerate() {
        let (first, column) = (t / (halves / 2) * WIDE, t % (halves / 2) * WIDE);
        let (low, high) = pair.split_at_mut(TILE);
        for (k, (low, high)) in low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0).enumerate() {
            let [even, odd] = [0, 1].map(|i| row(&from, first + 2 * k + i, count, column, d));
            let [first, second] = interleave(even, odd);
            keep(first, low);
            keep(second, high);
        }
    }
}

/// Left factors out of `count` rows that are columns there: for each 32 rows, a tile for each 16 elements.
#[target_feature(enable = "avx512f,avx512bw")]
pub fn turn_pairs(from: Columns<bf16>, count: usize, d: usize, to: &mut [u32]) {
    pair_rows(from, count, d, to);
    for tile in to.as_chunks_mut::<TILE>().0 {
        let mut square = [_mm512_setzero_si512(); ROWS];
        for (lanes, row) in square.iter_mut().zip(tile.as_chunks::<ROWS>().0) {
            // SAFETY: a row has 16 numbers.
            *lanes = unsafe { _mm512_loadu_si512(row.as_ptr().cast()) };
        }
        put(turn(square), tile);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn put(square: [__m512i; ROWS], tile: &mut [u32; TILE]) {
    for (lanes, row) in square.into_iter().zip(tile.as_chunks_mut().0) {
        keep(lanes, row);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn keep(lanes: __m512i, to: &mut [u32; ROWS]) {
    // SAFETY: there are 16 numbers.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), lanes) }
}

/// Pairs (x, y) of the elements of two rows: of the first sixteen, of the others.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleave(x: __m512i, y: __m512i) -> [__m512i; 2] {
    let [x, y] = [x, y].map(|v| {
        [_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v)].map(|half| _mm512_cvtepu16_epi32(half))
    });
    [0, 1].map(|i| _mm512_or_si512(x[i], _mm512_slli_epi32::<16>(y[i])))
}

/// Element j of register i becomes element i of register j.
#[inline]
#[target_feature(enable = "avx512f")]
fn turn(mut square: [__m512i; ROWS]) -> [__m512i; ROWS] {
    let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    // Interleaving each with the one half the square below moves one bit of an element's row number to its column
    // number and back: done four times, rows are columns.
    for _ in 0..4 {
        let before = square;
        for i in 0..ROWS / 2 {
            square[2 * i] = _mm512_permutex2var_epi32(before[i], low, before[i + ROWS / 2]);
            square[2 * i + 1] = _mm512_permutex2var_epi32(before[i], high, before[i + ROWS / 2]);
        }
    }
    square
}

/// The transpose of `from`, rows of sixteen numbers, d of them: `to(i, c, put)` is called for each row i below `count` of
/// the result and each sixteenth column c, and has `put` write what belongs there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn rows_of_columns(
    from: &[f32],
    d: usize,
    by: &Lanes,
    count: usize,
    mut to: impl FnMut(usize, usize, &dyn Fn(&mut [bf16])),
) {
    let by = lanes(by);
    for (block, column) in from.as_chunks::<TILE>().0.iter().zip((0..d).step_by(ROWS)) {
        let mut square = [_mm512_setzero_si512(); ROWS];
        for (scaled, row) in square.iter_mut().zip(block.as_chunks::<ROWS>().0) {
            *scaled = _mm512_castps_si512(_mm512_mul_ps(lanes(row), by));
        }
        for (i, row) in turn(square).into_iter().enumerate().take(count) {
            to(i, column, &|to| narrow(_mm512_castsi512_ps(row), to));
        }
    }
}

/// Rounds sixteen numbers, or as many as `to` takes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub fn narrow(from: __m512, to: &mut [bf16]) {
    let mask: __mmask16 = !0 >> (ROWS - ROWS.min(to.len()));
    // SAFETY: both types are 256 bits of bf16.
    let rounded: __m256i = unsafe { std::mem::transmute(_mm512_cvtneps_pbh(from)) };
    // SAFETY: the mask covers the slice, and nothing else is written.
    unsafe { _mm256_mask_storeu_epi16(to.as_mut_ptr().cast(), mask, rounded) }
}

/// Two rows of sixteen, rounded, one behind the other.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn beside(first: __m512, second: __m512, to: &mut [u32; ROWS]) {
    // SAFETY: both types are 512 bits of bf16.
    keep(unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first)) }, to);
}

/// Two rows of sixteen, rounded, as pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn paired(even: __m512, odd: __m512, to: &mut [u32; ROWS]) {
    // SAFETY: both types are 512 bits of bf16.
    let [even, odd] =
        [even, odd].map(|x| unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) });
    let [even, odd] = [even, odd].map(|x| _mm512_cvtepu16_epi32(x));
    keep(_mm512_or_si512(even, _mm512_slli_epi32::<16>(odd)), to);
}

/// Sixteen numbers in a register.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn lanes(from: &Lanes) -> __m512 {
    // SAFETY: there are 16.
    unsafe { _mm512_loadu_ps(from.as_ptr()) }
}

/// Sixteen whole numbers in a register.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn numbers(from: &[i32; ROWS]) -> __m512i {
    // SAFETY: there are 16.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// A register as sixteen numbers.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn put_lanes(from: __m512, to: &mut Lanes) {
    // SAFETY: there are 16.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), from) }
}

/// e^x for x up to 88: [`crate::math::exp_f32`] with fused multiply-adds, within 1 ulp too. Below -104 it is 0, or the
/// least subnormal number; NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn exp(x: __m512) -> __m512 {
    let number = _mm512_set1_ps;
    // The second operand is the result if one is NaN.
    let x = _mm512_max_ps(number(-104.0), x);
    let n = _mm512_roundscale_ps::<0x08>(_mm512_mul_ps(x, number(std::f32::consts::LOG2_E)));
    let r = _mm512_fnmadd_ps(n, number(LN2_HIGH), x);
    let r = _mm512_fnmadd_ps(n, number(LN2_LOW), r);
    let mut p = number(EXP[4]);
    for c in [EXP[3], EXP[2], EXP[1], EXP[0]] {
        p = _mm512_fmadd_ps(p, r, number(c));
    }
    // 1 + r (1 + r p): the inner sum is rounded before it is multiplied by |r| < 0.35.
    for _ in 0..2 {
        p = _mm512_fmadd_ps(p, r, number(1.0));
    }
    _mm512_scalef_ps(p, n)
}

#[cfg(test)]
mod tests {
    use super::{Lanes, exp, lanes, put_lanes};
    use crate::simd::Path;

    #[target_feature(enable = "avx512f")]
    fn each(x: &Lanes) -> Lanes {
        let mut y = [0.0; 16];
        put_lanes(exp(lanes(x)), &mut y);
        y
    }

    #[test]
    fn exp_is_within_1_ulp() {
        if !Path::available().contains(&Path::Avx512) {
            return println!("SKIPPED: this machine has no AVX-512");
        }
        // SAFETY: this machine has AVX-512.
        let each = |x: &Lanes| unsafe { each(x) };
        let mut worst = 0.0f64;
        for i in 0..100_000 {
            let x: Lanes = std::array::from_fn(|k| -87.3 + (16 * i + k) as f32 * (175.0 / 1_600_000.0));
            for (x, y) in x.into_iter().zip(each(&x)) {
                let want = f64::from(x).exp();
                let ulp = 2f64.powi(want.log2().floor() as i32 - 23);
                worst = worst.max((f64::from(y) - want).abs() / ulp);
            }
        }
        assert!(worst < 1.0, "{worst} ulp");
        let mut x = [-200.0; 16];
        (x[0], x[1], x[2]) = (f32::NEG_INFINITY, f32::NAN, 0.0);
        let y = each(&x);
        assert!(y[0] == 0.0 && y[1].is_nan() && y[2] == 1.0 && y[3] == 0.0, "{y:?}");
    }
}
