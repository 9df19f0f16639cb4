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

/// Where a packed block of A has its elements.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Distance of rows of one panel.
    pub row: usize,
    /// Distance of columns.
    pub col: usize,
    /// Distance of panels of as many rows as the tile has.
    pub panel: usize,
}

/// How blocks of `height` rows and up to `depth` columns of `a` are packed for a tile of `rows` rows, and how many
/// elements they take.
///
/// The micro-kernel reads single elements of A at any distance, so A is never transposed: where k is contiguous
/// whole rows are copied, where i is contiguous the panels lie one behind the other, k by k.
pub fn layout<T>(a: &Matrix<T>, rows: usize, height: usize, depth: usize) -> (Layout, usize) {
    if a.col == 1 {
        // A line more than the row takes: rows at a distance of a power of two would share few cache sets.
        let row = depth.next_multiple_of(16) + 16;
        (Layout { row, col: 1, panel: rows * row }, height * row)
    } else {
        (Layout { row: 1, col: rows, panel: rows * depth }, height.next_multiple_of(rows) * depth)
    }
}

/// Packs `height` rows and `depth` columns of `a`.
pub fn block_a<T: Real>(
    a: Matrix<T>,
    rows: usize,
    height: usize,
    depth: usize,
    layout: Layout,
    out: &mut [T::Acc],
) {
    if depth == 0 {
        return;
    }
    if a.col == 1 {
        vectorize(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_mut(layout.row).take(height).enumerate() {
                    let from = &a.data[i * a.row..][..depth];
                    for k in (0..depth).step_by(16) {
                        prefetch(a.data, (i + 2) * a.row + k);
                    }
                    for (to, from) in out.iter_mut().zip(from) {
                        *to = from.to_acc();
                    }
                }
            },
        );
        return;
    }
    for (p, out) in out.chunks_mut(layout.panel).take(height.div_ceil(rows)).enumerate() {
        let a = a.from(p * rows, 0);
        let height = rows.min(height - p * rows);
        match rows {
            8 => copy_rows::<T, 8>(a.data, a.col, height, depth, out),
            6 => copy_rows::<T, 6>(a.data, a.col, height, depth, out),
            4 => copy_rows::<T, 4>(a.data, a.col, height, depth, out),
            other => unreachable!("no tile has {other} rows"),
        }
    }
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
