//! Finished sums into C: the old c and the bias are added in f32, and the result is rounded once.

use super::pack::LANES;
use crate::dtype::{DType, Real, bf16};
use std::arch::x86_64::*;
use std::mem::transmute;

/// A block of sums and where it goes.
pub struct Block<C> {
    /// `rows` by `width` sums, row by row.
    pub sums: *const f32,
    /// Columns of a row of sums: whole registers.
    pub width: usize,
    /// Rows to store.
    pub rows: usize,
    /// Columns to store.
    pub cols: usize,
    /// Element (i, j) of C lies at `i * row + j`, or, if `turned`, at `i + j * row`.
    pub c: *mut C,
    /// See `c`.
    pub row: usize,
    /// See `c`.
    pub turned: bool,
    /// Whether to add to what C holds.
    pub accumulate: bool,
}

/// Stores a block. The bias has a value for each column of C, that is, for each row of the block if it is turned.
///
/// # Safety
/// The sums are readable, this block of C is writable and nobody else uses it, and this machine has AVX-512-BF16 and
/// what the path of that name includes.
pub unsafe fn store<C: Real<Acc = f32>>(block: &Block<C>, bias: Option<&[bf16]>) {
    // SAFETY: the caller's promise; C is the type that is asked for.
    unsafe {
        match C::DTYPE {
            _ if block.turned => scattered(block, bias),
            DType::Bf16 => by_rows::<C, ToBf16>(block, bias),
            DType::F32 => by_rows::<C, ToF32>(block, bias),
            other => unreachable!("no sum in f32 is stored as {other}"),
        }
    }
}

/// # Safety
/// As [`store`].
unsafe fn scattered<C: Real<Acc = f32>>(block: &Block<C>, bias: Option<&[bf16]>) {
    for j in 0..block.cols {
        for i in 0..block.rows {
            // SAFETY: the caller's promise.
            let (sum, c) =
                unsafe { (*block.sums.add(i * block.width + j), &mut *block.c.add(i + j * block.row)) };
            let mut sum = if block.accumulate { c.to_acc() + sum } else { sum };
            if let Some(bias) = bias {
                sum += bias[i].to_acc();
            }
            *c = C::from_acc(sum);
        }
    }
}

/// Sixteen elements of C.
trait Vector {
    /// # Safety
    /// As [`store`]; C has the type of this vector at the bits of the mask.
    unsafe fn load<C>(c: *const C, mask: __mmask16) -> __m512;
    /// # Safety
    /// As for loading.
    unsafe fn store<C>(c: *mut C, mask: __mmask16, value: __m512);
}

struct ToF32;

impl Vector for ToF32 {
    #[inline(always)]
    unsafe fn load<C>(c: *const C, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_maskz_loadu_ps(mask, c.cast()) }
    }

    #[inline(always)]
    unsafe fn store<C>(c: *mut C, mask: __mmask16, value: __m512) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_mask_storeu_ps(c.cast(), mask, value) }
    }
}

struct ToBf16;

impl Vector for ToBf16 {
    #[inline(always)]
    unsafe fn load<C>(c: *const C, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { widen(_mm256_maskz_loadu_epi16(mask, c.cast())) }
    }

    #[inline(always)]
    unsafe fn store<C>(c: *mut C, mask: __mmask16, value: __m512) {
        // SAFETY: the caller's promise; 256 bits of bf16 are 256 bits.
        unsafe {
            let narrow = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(value));
            _mm256_mask_storeu_epi16(c.cast(), mask, narrow)
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen(x: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
}

/// # Safety
/// As [`store`], with C of the type of V.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn by_rows<C, V: Vector>(block: &Block<C>, bias: Option<&[bf16]>) {
    for j in (0..block.cols).step_by(LANES) {
        let mask: __mmask16 = !0 >> (LANES - LANES.min(block.cols - j));
        let bias = bias.map(|bias| {
            let bias = &bias[j..block.cols];
            // SAFETY: the mask covers what the slice has of a register.
            widen(unsafe { _mm256_maskz_loadu_epi16(mask, bias.as_ptr().cast()) })
        });
        for i in 0..block.rows {
            // SAFETY: the caller's promise, with the mask covering the columns to store.
            unsafe {
                let c = block.c.add(i * block.row + j);
                let mut sum = _mm512_loadu_ps(block.sums.add(i * block.width + j));
                if block.accumulate {
                    sum = _mm512_add_ps(V::load(c, mask), sum);
                }
                if let Some(bias) = bias {
                    sum = _mm512_add_ps(sum, bias);
                }
                V::store(c, mask, sum);
            }
        }
    }
}
