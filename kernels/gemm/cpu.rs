//! The matrix product on the CPU: one driver for every kind, type and instruction set.
//!
//! ```text
//! task: a block of rows and columns of C, all of k (tasks run in parallel, none shares a sum with another)
//!   for each block of at most `depth` steps of k               in order: sums are joined block after block
//!     pack these columns of A                                  second-level cache
//!     for each strip of columns
//!       pack this strip of B                                   first-level cache
//!       for each few rows: the micro-kernel                    registers
//! ```
//!
//! A strip of B is packed when it is needed and used while it is near, so a product with one row packs no more
//! than one with a thousand, and nothing larger than a strip is ever written back.
//!
//! **A row of C depends on its own row of A alone.** The blocks of k follow from K and nothing else, the
//! micro-kernel adds within a block in the order of k, and blocks are joined in order. How C is cut into tasks, tiles
//! and edges decides only who computes an element: one row or a batch, one thread or many give equal bits.

use super::bf16::Pairs;
use super::pack::{self, Layout, Matrix, Scratch};
use super::tile::{Accumulator, Call, MAX_STRIP, Tile};
use crate::dtype::{Element, Float, Real};
use crate::simd::Path;
use rayon::prelude::*;
use std::ops::Range;

/// `c = [c +] a b [+ bias]` for a batch of matrices.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a, T> {
    /// How many products.
    pub batch: usize,
    /// Rows of a and c.
    pub m: usize,
    /// Columns of b and c.
    pub n: usize,
    /// Columns of a and rows of b.
    pub k: usize,
    /// The first [m, k]; the next one lies m k elements further.
    pub a: Matrix<'a, T>,
    /// The first [k, n]; the next one lies k n elements further.
    pub b: Matrix<'a, T>,
    /// Added to every row: `[n]`.
    pub bias: Option<&'a [T]>,
    /// Whether to add to what c holds.
    pub accumulate: bool,
}

/// The least floating-point operations that are worth a task of their own: about 30 us.
const TASK_FLOPS: usize = 4 << 20;

/// The least bytes of B that are: about as long, from memory.
const TASK_BYTES: usize = 512 << 10;

/// Rows of A that are packed at once. Their blocks of k take a fifth of a second-level cache of 2 MiB: with more, the
/// strips of B and the rows of C that pass through push them out.
const MAX_ROWS: usize = 512;

/// The most elements of A packed at once, if there are so few rows that several blocks of k fit.
const MAX_PACKED: usize = 1 << 17;

/// The most columns of B packed at once.
const MAX_COLS: usize = 2016;

/// The most columns for which A is read where it lies: used by so few strips, packing it does not pay.
const DIRECT_COLS: usize = 192;

/// The same if all of k is one block.
const DIRECT_COLS_SHALLOW: usize = 400;

/// The most columns whose sums are kept aside, in a buffer of their own.
const MAX_SUMS: usize = 960;

/// With more steps of k than this, sums of a wide C are kept aside even if C could hold them: its rows lie pages
/// apart, and every block of k would fetch and write them all.
const FAR_DEPTH: usize = 768;

/// Computes `p` into `c`, [batch, m, n], on the chosen path.
pub fn multiply<T: Real<Acc: Accumulator>, C: Real<Acc = T::Acc>>(p: &Product<T>, c: &mut [C]) {
    let tile = T::Acc::tile(Path::current());
    // SAFETY: the current path is one that this machine has.
    unsafe { run(Path::current(), &tile, p, c) }
}

/// As [`multiply`], on a path of choice.
///
/// Panics if this machine lacks it.
pub fn multiply_on<T: Real<Acc: Accumulator>, C: Real<Acc = T::Acc>>(
    path: Path,
    p: &Product<T>,
    c: &mut [C],
) {
    assert!(Path::available().contains(&path), "this machine has no {}", path.name());
    let tile = T::Acc::tile(path);
    // SAFETY: the path was found to be available.
    unsafe { run(path, &tile, p, c) }
}

/// # Safety
/// This machine has the instructions of `path`.
unsafe fn run<T: Real<Acc: Accumulator>, C: Real<Acc = T::Acc>>(
    path: Path,
    tile: &Tile<T::Acc>,
    p: &Product<T>,
    c: &mut [C],
) {
    let fits = |x: &Matrix<T>, rows: usize, cols: usize| {
        (x.row == 1 || x.col == 1)
            && (p.batch * rows * cols == 0
                || (p.batch - 1) * rows * cols + (rows - 1) * x.row + (cols - 1) * x.col < x.data.len())
    };
    assert!(fits(&p.a, p.m, p.k), "gemm: a holds its rows and columns");
    assert!(fits(&p.b, p.k, p.n), "gemm: b holds its rows and columns");
    assert!(p.bias.is_none_or(|bias| bias.len() == p.n), "gemm: bias is as wide as c");
    assert_eq!(c.len(), p.batch * p.m * p.n, "gemm: c holds its rows and columns");
    if c.is_empty() {
        return;
    }
    let pairs = Pairs::of(path, p);
    let widened = Grain { rows: tile.rows, cols: tile.cols, flops: TASK_FLOPS };
    let grain = pairs.as_ref().map_or(widened, Pairs::grain);
    let (rows, cols) = task_size(p, grain, rayon::current_num_threads());
    let (down, across) = (p.m.div_ceil(rows), p.n.div_ceil(cols));
    let tasks = p.batch * down * across;
    let c = Shared(c.as_mut_ptr());
    let task = |t: usize| {
        let (batch, i, j) = (t / (down * across), t / across % down * rows, t % across * cols);
        let (rows, cols) = (i..p.m.min(i + rows), j..p.n.min(j + cols));
        // SAFETY: the batch begins within c.
        let c = unsafe { c.at(batch * p.m * p.n) };
        // SAFETY: no other task covers these rows and columns of c.
        Scratch::with(|scratch| unsafe {
            match &pairs {
                Some(pairs) => pairs.run(batch, (&rows, &cols), c, scratch),
                None => Part { path, tile, product: p, batch, rows, cols, c }.run(scratch),
            }
        });
    };
    if tasks == 1 { task(0) } else { (0..tasks).into_par_iter().with_max_len(1).for_each(task) }
}

/// What tasks are made of.
pub struct Grain {
    /// A task has a multiple of these rows,
    pub rows: usize,
    /// of these columns,
    pub cols: usize,
    /// and is worth the overhead from these floating-point operations on.
    pub flops: usize,
}

/// Rows and columns of one task: whole tiles, near to square, several tasks per thread if each is worth it.
fn task_size<T>(p: &Product<T>, grain: Grain, threads: usize) -> (usize, usize) {
    let flops = 2 * p.m * p.n * p.k.max(1);
    let bytes = p.n * p.k * size_of::<T>();
    let worth = (p.batch * flops / grain.flops).max(p.batch * bytes / TASK_BYTES);
    let wanted = if threads == 1 { 1 } else { worth.min(4 * threads) };
    let wanted = wanted.div_ceil(p.batch);
    let (mut down, mut across) = (1, 1);
    while down * across < wanted {
        let (rows, cols) = (p.m / down, p.n / across);
        if rows > cols && rows >= 2 * grain.rows {
            down += 1;
        } else if cols >= 2 * grain.cols {
            across += 1;
        } else {
            break;
        }
    }
    (p.m.div_ceil(down).next_multiple_of(grain.rows), p.n.div_ceil(across).next_multiple_of(grain.cols))
}

/// A pointer that tasks share; each writes elements of its own.
struct Shared<C>(*mut C);
// SAFETY: tasks write disjoint parts.
unsafe impl<C: Send> Sync for Shared<C> {}

impl<C> Shared<C> {
    /// # Safety
    /// `offset` is within the elements pointed to.
    unsafe fn at(&self, offset: usize) -> *mut C {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// A block of rows and columns of one product.
struct Part<'a, T: Real<Acc: 'static>, C> {
    path: Path,
    tile: &'a Tile<T::Acc>,
    product: &'a Product<'a, T>,
    batch: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    /// The first element of this product's C, [m, n].
    c: *mut C,
}

impl<T: Real<Acc: Accumulator>, C: Real<Acc = T::Acc>> Part<'_, T, C> {
    /// # Safety
    /// Nobody else reads or writes these rows and columns of C; the path is one that this machine has.
    unsafe fn run(&self, scratch: &mut Scratch) {
        let far = self.product.k > FAR_DEPTH && self.cols.len() > MAX_SUMS;
        let in_place = C::DTYPE == T::Acc::DTYPE && !far;
        let most = if in_place { [usize::MAX, MAX_COLS] } else { [MAX_ROWS, MAX_SUMS] };
        let height = even(self.rows.len(), most[0], self.tile.rows);
        let width = even(self.cols.len(), most[1], self.tile.cols);
        for rows in pieces(&self.rows, height) {
            for cols in pieces(&self.cols, width) {
                // SAFETY: these rows and columns belong to this part.
                unsafe {
                    let c = self.c.add(rows.start * self.product.n + cols.start);
                    if in_place {
                        self.sum(&rows, &cols, scratch, c.cast(), self.product.n, self.product.accumulate);
                    } else {
                        let mut sums = std::mem::take(&mut scratch.c);
                        self.sum_aside(&rows, &cols, scratch, c, &mut sums);
                        scratch.c = sums;
                    }
                }
            }
        }
    }

    /// As [`Part::sum`] in a buffer aside, then rounded to C once.
    ///
    /// # Safety
    /// As [`Part::sum`].
    unsafe fn sum_aside(
        &self,
        rows: &Range<usize>,
        cols: &Range<usize>,
        scratch: &mut Scratch,
        c: *mut C,
        sums: &mut pack::Block,
    ) {
        let (height, width) = (rows.len(), cols.len());
        let sums = sums.take::<T::Acc>(height * width);
        let row = |i: usize| {
            // SAFETY: rows of C lie n apart, and this part alone uses `width` elements of each.
            unsafe { std::slice::from_raw_parts_mut(c.add(i * self.product.n), width) }
        };
        if self.product.accumulate {
            for (i, sums) in sums.chunks_exact_mut(width).enumerate() {
                for (sum, c) in sums.iter_mut().zip(row(i)) {
                    *sum = c.to_acc();
                }
            }
        }
        // SAFETY: `sums` holds these rows and columns.
        unsafe { self.sum(rows, cols, scratch, sums.as_mut_ptr(), width, self.product.accumulate) };
        crate::simd::vectorize(
            #[inline(always)]
            || {
                for (i, sums) in sums.chunks_exact(width).enumerate() {
                    for (sum, c) in sums.iter().zip(row(i)) {
                        *c = C::from_acc(*sum);
                    }
                }
            },
        );
    }

    /// Sums these rows and columns into `c`, whose rows lie `c_row` apart.
    ///
    /// # Safety
    /// `c` is valid for these rows and columns, and nobody else uses them.
    unsafe fn sum(
        &self,
        rows: &Range<usize>,
        cols: &Range<usize>,
        scratch: &mut Scratch,
        c: *mut T::Acc,
        c_row: usize,
        accumulate: bool,
    ) {
        let (p, tile) = (self.product, self.tile);
        let a = Matrix { data: &p.a.data[self.batch * p.m * p.k..], ..p.a };
        let b = Matrix { data: &p.b.data[self.batch * p.k * p.n..], ..p.b };
        let depth = even(p.k, tile.depth, 16);
        let height = even(rows.len(), MAX_ROWS, tile.rows);
        let few = if p.k <= depth { DIRECT_COLS_SHALLOW } else { DIRECT_COLS };
        let direct = T::DTYPE == T::Acc::DTYPE && a.col == 1 && cols.len() <= few;
        let (layout, a_len) = if direct {
            (Layout { row: a.row, col: 1, panel: tile.rows * a.row }, 0)
        } else {
            pack::layout(&a, tile.rows, height, depth)
        };
        let blocks = p.k.div_ceil(depth).max(1);
        // With few rows, several blocks of k are packed at once, so that B is read in long runs. With many, the
        // strips of B are kept for the next rows.
        let once = rows.len() <= height;
        let group = if once { (MAX_PACKED / a_len.max(1)).clamp(1, blocks) } else { 1 };
        let packed_a = scratch.a.take(group * a_len);
        let packed_b = scratch.b.take(depth * if once { tile.cols } else { cols.len() + tile.lanes });
        for first in (0..blocks).step_by(group) {
            let group = first..blocks.min(first + group);
            let depth_of = |block: usize| depth.min(p.k - block * depth);
            for i in rows.clone().step_by(height) {
                let height = height.min(rows.end - i);
                for block in group.clone().filter(|_| !direct) {
                    let (a, out) = (a.from(i, block * depth), &mut packed_a[(block - first) * a_len..]);
                    pack::block_a(a, tile.rows, height, depth_of(block), layout, out);
                }
                let mut j = cols.start;
                while j < cols.end {
                    let width = tile.strip(cols.end - j);
                    let used = width.min(cols.end - j);
                    for block in group.clone() {
                        let slot = if once { 0 } else { (j - cols.start) * depth };
                        let strip = &mut packed_b[slot..][..depth_of(block) * width];
                        if i == rows.start {
                            let b = b.from(block * depth, j);
                            // SAFETY: the path is one that this machine has.
                            unsafe { pack::strip(self.path, b, depth_of(block), used, width, strip) };
                        }
                        let panels = if direct {
                            a.from(i, block * depth).data.as_ptr().cast()
                        } else {
                            packed_a[(block - first) * a_len..].as_ptr()
                        };
                        let bias = p.bias.filter(|_| block + 1 == blocks).map(|bias| {
                            let mut wide = [T::Acc::ZERO; MAX_STRIP];
                            for (wide, b) in wide.iter_mut().zip(&bias[j..j + used]) {
                                *wide = b.to_acc();
                            }
                            wide
                        });
                        for row in (0..height).step_by(tile.rows) {
                            let call = Call {
                                rows: tile.rows.min(height - row),
                                cols: used,
                                depth: depth_of(block),
                                a: panels.wrapping_add(row / tile.rows * layout.panel),
                                a_row: layout.row,
                                a_col: layout.col,
                                b: strip.as_ptr(),
                                b_row: width,
                                c: c.wrapping_add((i - rows.start + row) * c_row + (j - cols.start)),
                                c_row,
                                accumulate: accumulate || block > 0,
                                bias: bias.as_ref(),
                            };
                            // SAFETY: A lies or was packed as `layout` says, the strip was packed for these columns,
                            // and c is the caller's promise.
                            unsafe { (tile.run)(&call) };
                        }
                    }
                    j += width;
                }
            }
        }
    }
}

/// Pieces of a range, all of length `most` but the last.
pub fn pieces(range: &Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.clone().step_by(most).map(move |start| start..end.min(start + most))
}

/// The length of equal pieces of `total` that are at most `most` long (before rounding up to whole `unit`s).
pub fn even(total: usize, most: usize, unit: usize) -> usize {
    let pieces = total.div_ceil(most).max(1);
    total.div_ceil(pieces).max(1).next_multiple_of(unit)
}
