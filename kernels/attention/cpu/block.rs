//! The inner product of attention: a small block of `C = A B` held in registers.
//!
//! Every element of C is one chain over k, in order, whatever the block's size: so a result does not depend on how
//! rows and columns were grouped into blocks, and a row computed alone has the bits it has among others.
//!
//! Blocks are written once, for any [`Lanes`]: a register of elements. An array of lanes stays in registers because
//! loops over it are short; a loop over single elements is too long for the compiler to unroll, and then every sum
//! goes through memory.

use crate::dtype::Float;

/// Columns of every scratch matrix are filled up to a multiple of this: one zmm register of f32.
pub const PAD: usize = 16;

/// Some neighbouring elements, one register where the machine has such.
pub trait Lanes: Copy {
    /// The type of an element.
    type Elem: Float;
    /// How many, a divisor of [`PAD`].
    const WIDTH: usize;
    /// All zero.
    fn zero() -> Self;
    /// The first elements of a slice.
    fn load(from: &[Self::Elem]) -> Self;
    /// Into the first elements of a slice.
    fn store(self, to: &mut [Self::Elem]);
    /// `self * a + sum`.
    fn madd(self, a: Self::Elem, sum: Self) -> Self;
    /// The sum, element by element.
    fn add(self, other: Self) -> Self;
    /// The product with one number.
    fn times(self, a: Self::Elem) -> Self;
    /// The larger, element by element.
    fn max(self, other: Self) -> Self;
    /// Elements of the two in turn: the first halves, then the second halves.
    fn interleave(self, other: Self) -> (Self, Self);
}

/// Lanes of every machine. Eight fill two registers of the baseline in f32; the compiler sees to that.
#[derive(Clone, Copy)]
pub struct Portable<A>([A; 8]);

impl<A: Float> Portable<A> {
    #[inline(always)]
    fn each(mut self, f: impl Fn(usize, A) -> A) -> Self {
        for (i, x) in self.0.iter_mut().enumerate() {
            *x = f(i, *x);
        }
        self
    }
}

impl<A: Float> Lanes for Portable<A> {
    type Elem = A;
    const WIDTH: usize = 8;
    #[inline(always)]
    fn zero() -> Self {
        Portable([A::ZERO; 8])
    }
    #[inline(always)]
    fn load(from: &[A]) -> Self {
        let from = &from[..8];
        Self::zero().each(|i, _| from[i])
    }
    #[inline(always)]
    fn store(self, to: &mut [A]) {
        to[..8].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn madd(self, a: A, sum: Self) -> Self {
        self.each(|i, x| x * a + sum.0[i])
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.each(|i, x| x + other.0[i])
    }
    #[inline(always)]
    fn times(self, a: A) -> Self {
        self.each(|_, x| x * a)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.each(|i, x| if other.0[i] > x { other.0[i] } else { x })
    }
    #[inline(always)]
    fn interleave(self, other: Self) -> (Self, Self) {
        let pick = |i: usize| if i.is_multiple_of(2) { self.0[i / 2] } else { other.0[i / 2] };
        (self.each(|i, _| pick(i)), self.each(|i, _| pick(8 + i)))
    }
}

#[cfg(target_arch = "x86_64")]
pub use avx512::Zmm;

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// A zmm register of f32. Named only on the AVX-512 path.
    #[derive(Clone, Copy)]
    pub struct Zmm(__m512);

    impl Lanes for Zmm {
        type Elem = f32;
        const WIDTH: usize = 16;
        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: this type is named only on the path that `simd` chooses where AVX-512 F was detected.
            Zmm(unsafe { _mm512_setzero_ps() })
        }
        #[inline(always)]
        fn load(from: &[f32]) -> Self {
            let from = &from[..16];
            // SAFETY: as `zero`; `from` has 16 elements, and the load needs no alignment.
            Zmm(unsafe { _mm512_loadu_ps(from.as_ptr()) })
        }
        #[inline(always)]
        fn store(self, to: &mut [f32]) {
            let to = &mut to[..16];
            // SAFETY: as `zero`; `to` has 16 elements, and the store needs no alignment.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
        }
        #[inline(always)]
        fn madd(self, a: f32, sum: Self) -> Self {
            // SAFETY: as `zero`.
            Zmm(unsafe { _mm512_fmadd_ps(self.0, _mm512_set1_ps(a), sum.0) })
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: as `zero`.
            Zmm(unsafe { _mm512_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn times(self, a: f32) -> Self {
            // SAFETY: as `zero`.
            Zmm(unsafe { _mm512_mul_ps(self.0, _mm512_set1_ps(a)) })
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            // `maxps` returns its second operand if one is NaN, as the comparison of the portable lanes does.
            // SAFETY: as `zero`.
            Zmm(unsafe { _mm512_max_ps(other.0, self.0) })
        }
        #[inline(always)]
        fn interleave(self, other: Self) -> (Self, Self) {
            // Indices of 16 and more are of `other`.
            // SAFETY: as `zero`.
            unsafe {
                let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
                let pick = |which| Zmm(_mm512_permutex2var_ps(self.0, which, other.0));
                (pick(low), pick(high))
            }
        }
    }
}

/// The left factor of a block: M numbers for each k. They are handed out one by one, since each is broadcast from
/// where it lies; loaded together they would have to be shuffled apart.
pub trait Left<A> {
    /// Those of k.
    fn at(&self, k: usize) -> impl Fn(usize) -> A;
}

/// M rows of a row-major matrix.
pub struct Rows<'a, A, const M: usize>([&'a [A]; M]);

impl<'a, A: Float, const M: usize> Rows<'a, A, M> {
    /// The rows of `a`, which are `stride` apart, each cut to `depth`.
    #[inline(always)]
    pub fn new(a: &'a [A], stride: usize, depth: usize) -> Self {
        let mut rows: [&[A]; M] = [&[]; M];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = &a[i * stride..][..depth];
        }
        Rows(rows)
    }
}

impl<A: Float, const M: usize> Left<A> for Rows<'_, A, M> {
    #[inline(always)]
    fn at(&self, k: usize) -> impl Fn(usize) -> A {
        #[inline(always)]
        move |i| self.0[i][k]
    }
}

/// M columns of a row-major matrix: the left factor where it is stored transposed.
pub struct Transposed<'a, A, const M: usize> {
    /// The matrix, from the first of the columns on.
    pub a: &'a [A],
    /// From row to row.
    pub stride: usize,
}

impl<A: Float, const M: usize> Left<A> for Transposed<'_, A, M> {
    #[inline(always)]
    fn at(&self, k: usize) -> impl Fn(usize) -> A {
        let row = &self.a[k * self.stride..][..M];
        #[inline(always)]
        move |i| row[i]
    }
}

/// M rows of C registers each.
pub type Block<L, const M: usize, const C: usize> = [[L; C]; M];

/// A block of zeros.
#[inline(always)]
pub fn zeros<L: Lanes, const M: usize, const C: usize>() -> Block<L, M, C> {
    [[L::zero(); C]; M]
}

/// The block at `from[0]` of a matrix with rows of `stride`.
#[inline(always)]
pub fn load<L: Lanes, const M: usize, const C: usize>(from: &[L::Elem], stride: usize) -> Block<L, M, C> {
    let mut block = zeros::<L, M, C>();
    for i in 0..M {
        let row = &from[i * stride..][..C * L::WIDTH];
        for c in 0..C {
            block[i][c] = L::load(&row[c * L::WIDTH..]);
        }
    }
    block
}

/// Puts the block at `to[0]` of a matrix with rows of `stride`.
#[inline(always)]
pub fn store<L: Lanes, const M: usize, const C: usize>(
    block: &Block<L, M, C>,
    to: &mut [L::Elem],
    stride: usize,
) {
    for i in 0..M {
        let row = &mut to[i * stride..][..C * L::WIDTH];
        for c in 0..C {
            block[i][c].store(&mut row[c * L::WIDTH..]);
        }
    }
}

/// `block + a b` over `depth`, where row k of b starts at `k * stride`.
#[inline(always)]
pub fn multiply<L: Lanes, const M: usize, const C: usize>(
    mut block: Block<L, M, C>,
    depth: usize,
    left: &impl Left<L::Elem>,
    b: &[L::Elem],
    stride: usize,
) -> Block<L, M, C> {
    for k in 0..depth {
        let (a, row) = (left.at(k), &b[k * stride..][..C * L::WIDTH]);
        let mut right = [L::zero(); C];
        for c in 0..C {
            right[c] = L::load(&row[c * L::WIDTH..]);
        }
        for (i, sums) in block.iter_mut().enumerate() {
            let a = a(i);
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = right.madd(a, *sum);
            }
        }
    }
    block
}

/// Writes `count` rows, `width` apart, as the columns of `depth` rows of `to`, `stride` apart. `count` and `width`
/// are multiples of the lanes.
#[inline(always)]
pub fn transpose<L: Lanes>(
    rows: &[L::Elem],
    (count, width): (usize, usize),
    to: &mut [L::Elem],
    (depth, stride): (usize, usize),
) {
    let w = L::WIDTH;
    for column in (0..depth).step_by(w) {
        for row in (0..count).step_by(w) {
            let mut square = [L::zero(); PAD];
            for (i, lanes) in square[..w].iter_mut().enumerate() {
                *lanes = L::load(&rows[(row + i) * width + column..]);
            }
            // Interleaving each row with the one half the square below moves one bit of an element's row number
            // to its column number and back: done for every bit, rows are columns.
            for _ in 0..w.ilog2() {
                let before = square;
                for i in 0..w / 2 {
                    (square[2 * i], square[2 * i + 1]) = before[i].interleave(before[i + w / 2]);
                }
            }
            for (i, lanes) in square[..w].iter().enumerate().take(depth - column) {
                lanes.store(&mut to[(column + i) * stride + row..]);
            }
        }
    }
}

/// Calls `$body` with `$C` bound to registers per row (2 if `$two`, else 1) and `$j` to the first column of each
/// block that covers `0..$end`, a multiple of [`PAD`].
macro_rules! for_blocks {
    ($j:ident in 0..$end:expr, $C:ident of $L:ident if $two:expr, $body:expr) => {{
        let (mut next, end): (usize, usize) = (0, $end);
        while next < end {
            let $j = next;
            if $two && end - next >= 2 * $L::WIDTH {
                const $C: usize = 2;
                $body;
                next += 2 * $L::WIDTH;
            } else {
                const $C: usize = 1;
                $body;
                next += $L::WIDTH;
            }
        }
    }};
}
pub(super) use for_blocks;
