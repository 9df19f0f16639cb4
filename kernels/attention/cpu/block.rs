//! The inner product of attention: a small block of `C = A B` held in registers.
//!
//! Every element of C is one chain over k, in order, whatever the block's size: so a result does not depend on how
//! rows and columns were grouped into blocks, and a row computed alone has the bits it has among others.
//!
//! `FMA` says whether the machine code of the caller's path has a fused multiply-add; `M` x `N` is the block that
//! fills its registers: 8 x 32 (16 of 32 zmm registers hold C in f32), 4 x 8 on the portable path.

use crate::dtype::Float;

/// `a * b + c`, fused if the path can.
#[inline(always)]
pub fn madd<A: Float, const FMA: bool>(a: A, b: A, c: A) -> A {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Adds `a(i, k) * b[k, j]` over `ks` to `acc[i][j]`, where row k of b starts at `k * stride`.
#[inline(always)]
pub fn multiply<A: Float, const FMA: bool, const M: usize, const N: usize>(
    acc: &mut [[A; N]; M],
    ks: std::ops::Range<usize>,
    a: impl Fn(usize) -> [A; M],
    b: &[A],
    stride: usize,
) {
    // A copy that nothing points to, so that it lives in registers.
    let mut c = *acc;
    for k in ks {
        let (a, b) = (a(k), &b[k * stride..][..N]);
        for i in 0..M {
            for j in 0..N {
                c[i][j] = madd::<A, FMA>(a[i], b[j], c[i][j]);
            }
        }
    }
    *acc = c;
}

/// M rows of a row-major matrix, each cut to `depth`, to be read down their columns.
#[inline(always)]
pub fn rows<A, const M: usize>(a: &[A], stride: usize, depth: usize) -> [&[A]; M] {
    std::array::from_fn(|i| &a[i * stride..][..depth])
}

/// Row k of M columns of a row-major matrix that start at `a[0]`: the left factor when it is stored transposed.
#[inline(always)]
pub fn columns<A: Float, const M: usize>(a: &[A], stride: usize) -> impl Fn(usize) -> [A; M] {
    move |k| {
        let row = &a[k * stride..][..M];
        std::array::from_fn(|i| row[i])
    }
}

/// Calls `$body` with `$W` bound to a block width (at most `$N`) and `$j` to the first column of each block that
/// covers `0..$end`, a multiple of 8.
macro_rules! for_blocks {
    ($j:ident in 0..$end:expr, $W:ident <= $N:expr, $body:expr) => {{
        let (mut next, end): (usize, usize) = (0, $end);
        debug_assert!(end % 8 == 0);
        while next < end {
            let $j = next;
            if $N >= 32 && end - next >= 32 {
                const $W: usize = 32;
                $body;
                next += 32;
            } else if $N >= 16 && end - next >= 16 {
                const $W: usize = 16;
                $body;
                next += 16;
            } else {
                const $W: usize = 8;
                $body;
                next += 8;
            }
        }
    }};
}
pub(super) use for_blocks;
