//! Copies of blocks of A and B in the order in which the micro-kernel reads them, widened to the type of the sums.
//!
//! Copying only moves and widens values, exactly, so no result depends on it.

use super::tile::Accumulator;
use crate::dtype::{Element, Float, Real};
use crate::simd::{Path, vectorize};
use bytemuck::{Pod, Zeroable};
use std::cell::RefCell;

/// A matrix in memory: element (i, j) lies at `i * row + j * col` of `data`, and one of the two is 1.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a, T> {
    /// From the first element on.
    pub data: &'a [T],
    /// Distance of the rows.
    pub row: usize,
    /// Distance of the columns.
    pub col: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// The part that starts at row `i`, column `j`.
    pub fn from(self, i: usize, j: usize) -> Self {
        Matrix { data: self.data.get(i * self.row + j * self.col..).unwrap_or(&[]), ..self }
    }
}

/// One cache line, so that what is packed starts at one.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A block that grows to the largest length asked for and is kept.
#[derive(Default)]
pub struct Block(Vec<Line>);

impl Block {
    /// `len` elements with unspecified contents.
    pub fn take<A: Element>(&mut self, len: usize) -> &mut [A] {
        let lines = (len * size_of::<A>()).div_ceil(size_of::<Line>());
        if self.0.len() < lines {
            self.0.resize(lines, Line::zeroed());
        }
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }
}

/// What one thread packs into: at most about 2 MiB.
#[derive(Default)]
pub struct Scratch {
    /// A block of A.
    pub a: Block,
    /// A strip of B.
    pub b: Block,
    /// Sums of a block of C that is stored in another type.
    pub c: Block,
    /// The bias of a block of columns.
    pub bias: Block,
}

impl Scratch {
    /// Runs `f` with the buffers of this thread. `f` must not come back here: it may not wait for other tasks.
    pub fn with<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = RefCell::default();
        }
        SCRATCH.with_borrow_mut(f)
    }
}

/// Steps of k that are copied of one panel before the next.
const NEAR: usize = 4;

/// Packs `height` rows and `depth` columns of `a` as panels of `rows` rows, k by k; the last one has what rows are left.
///
/// # Safety
/// This machine has the instructions of `path`.
pub unsafe fn panels<T: Real<Acc: Accumulator>>(
    path: Path,
    a: Matrix<T>,
    rows: usize,
    height: usize,
    depth: usize,
    out: &mut [T::Acc],
) {
    if depth == 0 {
        return;
    }
    if a.col == 1 {
        for i in (0..height).step_by(rows) {
            let these = rows.min(height - i);
            let out = &mut out[i * depth..][..these * depth];
            // SAFETY: the caller's promise.
            unsafe { transpose(path, turned(a.from(i, 0)), depth, these, these, out) };
        }
        return;
    }
    let whole = height / rows;
    match rows {
        8 => copy_panels::<T, 8>(a, whole, depth, out),
        6 => copy_panels::<T, 6>(a, whole, depth, out),
        4 => copy_panels::<T, 4>(a, whole, depth, out),
        other => unreachable!("no tile has {other} rows"),
    }
    let (first, left) = (whole * rows, height % rows);
    if left > 0 {
        for (k, out) in out[first * depth..].chunks_exact_mut(left).take(depth).enumerate() {
            for (to, from) in out.iter_mut().zip(&a.data[k * a.col + first..]) {
                *to = from.to_acc();
            }
        }
    }
}

/// Whole panels of an operand whose rows are contiguous: a few steps of k of all panels, then the next, since steps lie far
/// apart.
fn copy_panels<T: Real, const ROWS: usize>(a: Matrix<T>, panels: usize, depth: usize, out: &mut [T::Acc]) {
    vectorize(
        #[inline(always)]
        || {
            for k in (0..depth).step_by(NEAR) {
                let steps = NEAR.min(depth - k);
                for k in k..k + steps {
                    for i in (0..panels * ROWS).step_by(16) {
                        prefetch(a.data, (k + 2 * NEAR) * a.col + i);
                    }
                }
                for (p, out) in out.chunks_exact_mut(depth * ROWS).take(panels).enumerate() {
                    let out = &mut out.as_chunks_mut::<ROWS>().0[k..k + steps];
                    for (k, out) in (k..).zip(out) {
                        let from = &a.data[k * a.col + p * ROWS..];
                        *out = widen(from.first_chunk::<ROWS>().expect("panels are whole"));
                    }
                }
            }
        },
    )
}

/// The transpose.
fn turned<T>(x: Matrix<T>) -> Matrix<T> {
    Matrix { data: x.data, row: x.col, col: x.row }
}

/// Packs `depth` rows and `cols` columns of `b` as one strip of width `width`, padded with zeros.
///
/// # Safety
/// This machine has the instructions of `path`.
pub unsafe fn strip<T: Real<Acc: Accumulator>>(
    path: Path,
    b: Matrix<T>,
    depth: usize,
    cols: usize,
    width: usize,
    out: &mut [T::Acc],
) {
    match (b.col, width) {
        (1, 48) => copy_rows::<T, 48>(b.data, b.row, cols, depth, out),
        (1, 32) => copy_rows::<T, 32>(b.data, b.row, cols, depth, out),
        (1, 16) => copy_rows::<T, 16>(b.data, b.row, cols, depth, out),
        (1, 8) => copy_rows::<T, 8>(b.data, b.row, cols, depth, out),
        (1, 4) => copy_rows::<T, 4>(b.data, b.row, cols, depth, out),
        (1, other) => unreachable!("no strip has {other} columns"),
        // SAFETY: the caller's promise.
        _ => unsafe { transpose(path, b, depth, cols, width, out) },
    }
}

/// `out[k][j] = from[k * distance + j]` for j below `cols`, zero up to WIDTH.
fn copy_rows<T: Real, const WIDTH: usize>(
    from: &[T],
    distance: usize,
    cols: usize,
    depth: usize,
    out: &mut [T::Acc],
) {
    let (out, _) = out.as_chunks_mut::<WIDTH>();
    vectorize(
        #[inline(always)]
        || {
            for (k, out) in out.iter_mut().take(depth).enumerate() {
                for j in (0..WIDTH).step_by(16) {
                    prefetch(from, (k + 8) * distance + j);
                }
                let from = &from[k * distance..][..cols];
                if let Some(from) = from.first_chunk::<WIDTH>() {
                    *out = widen(from);
                } else {
                    *out = [T::Acc::ZERO; WIDTH];
                    for (to, from) in out.iter_mut().zip(from) {
                        *to = from.to_acc();
                    }
                }
            }
        },
    )
}

/// [`strip`] where the columns of `b` are contiguous: blocks turned in registers, then the edges.
///
/// # Safety
/// This machine has the instructions of `path`.
unsafe fn transpose<T: Real<Acc: Accumulator>>(
    path: Path,
    b: Matrix<T>,
    depth: usize,
    cols: usize,
    width: usize,
    out: &mut [T::Acc],
) {
    // SAFETY: the caller's promise.
    let [done_cols, done_depth] =
        unsafe { T::Acc::transpose(path, [cols, depth], b.data, b.col, out, width) };
    for j in 0..width {
        for k in if j < done_cols { done_depth } else { 0 }..depth {
            out[k * width + j] = if j < cols { b.data[j * b.col + k].to_acc() } else { T::Acc::ZERO };
        }
    }
}

/// A copy in the type of the sums. By value, which is what lets the compiler see whole vectors.
#[inline(always)]
pub fn widen<T: Real, const N: usize>(from: &[T; N]) -> [T::Acc; N] {
    let mut to = [T::Acc::ZERO; N];
    for i in 0..N {
        to[i] = from[i].to_acc();
    }
    to
}

/// Asks for the line of `data[at]` to be brought near, if there is one.
#[inline(always)]
fn prefetch<T>(data: &[T], at: usize) {
    let address = data.as_ptr().wrapping_add(at);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads and writes nothing, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
