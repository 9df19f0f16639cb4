//! The matrix product on the CPU: one driver for every kind, type and instruction set.
//!
//! ```text
//! task: a block of rows and columns of C, all of k (tasks run in parallel, none shares a sum with another)
//!   for some hundred columns
//!     for each block of at most `depth` steps of k             in order: sums are joined block after block
//!       pack this block of B, strip by strip                   second-level cache
//!       for each few rows
//!         pack this panel of A                                 first-level cache
//!         for each strip: the micro-kernel                     registers
//! ```
//!
//! So C is written along its rows, and between two visits of an element lie as many steps of k as a strip is long. While
//! the micro-kernels of a panel run they ask for the panel that will be packed next, and near their end for the rows of C that
//! they will add to: memory works while they do.
//!
//! With few rows, it is B that takes the time. Then A is packed once, and B strip by strip as it is needed, or, for the very
//! fewest, not at all.
//!
//! **A row of C depends on its own row of A alone.** The blocks of k follow from K and nothing else, the
//! micro-kernel adds within a block in the order of k, and blocks are joined in order. How C is cut into tasks, tiles
//! and edges decides only who computes an element: one row or a batch, one thread or many give equal bits.

use super::bf16::Pairs;
use super::pack::{self, Matrix, Scratch};
use super::tile::{Accumulator, Ahead, Call, LINE, Tile};
use crate::dtype::Real;
use crate::simd::{Path, vectorize};
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

/// The most rows that are few: what is packed of B is used so seldom that it should lie near when it is.
const FEW_ROWS: usize = 64;

/// Strips of a block of B for few rows, if rows of B are contiguous. If columns are, one strip is packed at a time.
const FEW_STRIPS: usize = 4;

/// The most elements of A that are packed once for all columns.
const MAX_KEPT: usize = 1 << 18;

/// Panels of A that are packed together where its columns are contiguous, so that more of a line is used at once.
const GROUP: usize = 4;

/// Steps of k that are packed of one strip before the next strip, where rows of B are contiguous.
const NEAR: usize = 64;

/// The most rows whose sums are kept aside from one block of k to the next.
const MAX_SUMMED: usize = 2048;

/// Bytes of a page, at a multiple of which lines share sets of the cache.
const PAGE: usize = 4096;

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

/// In which blocks some rows are computed.
struct Blocks {
    /// How many blocks of k there are.
    count: usize,
    /// The most columns of a block of B, and how many that is in whole registers.
    width: usize,
    padded: usize,
    /// Rows of A that are packed together.
    group: usize,
    /// Whether all of A is packed once, for all columns.
    kept: bool,
    /// Whether B is read where it lies.
    direct: bool,
}

/// Some rows and steps of k of A.
struct Piece<'a, T> {
    a: Matrix<'a, T>,
    rows: usize,
    depth: usize,
}

impl<T: Real<Acc: Accumulator>, C: Real<Acc = T::Acc>> Part<'_, T, C> {
    /// Whether sums are kept in a buffer of their own, since C has not their type.
    const ASIDE: bool = size_of::<C>() != size_of::<T::Acc>();

    /// # Safety
    /// Nobody else reads or writes these rows and columns of C; the path is one that this machine has.
    unsafe fn run(&self, scratch: &mut Scratch) {
        let depth = even(self.product.k, self.tile.depth, 16);
        let height = if Self::ASIDE && self.product.k > depth {
            even(self.rows.len(), MAX_SUMMED, self.tile.rows)
        } else {
            self.rows.len()
        };
        for rows in pieces(&self.rows, height) {
            // SAFETY: these rows and columns belong to this part.
            unsafe { self.sum(&rows, depth, scratch) };
        }
    }

    /// How `rows` rows are computed in blocks of `depth` steps of k.
    fn blocks(&self, rows: usize, depth: usize) -> Blocks {
        let (p, tile) = (self.product, self.tile);
        let count = p.k.div_ceil(depth).max(1);
        let kept = rows * count * depth <= MAX_KEPT;
        let few = rows <= FEW_ROWS;
        let narrow = few && kept && p.b.col != 1;
        let direct = narrow && rows <= tile.direct;
        let (most, unit) = match () {
            _ if direct => (tile.lanes, tile.lanes),
            _ if narrow => (tile.cols, tile.cols),
            _ if few => (FEW_STRIPS * tile.cols, tile.cols),
            _ => (tile.width, tile.cols),
        };
        let width = even(self.cols.len(), most, unit);
        let padded = self.cols.len().min(width).next_multiple_of(tile.lanes);
        let panels = match p.a.col {
            _ if kept => rows.div_ceil(tile.rows),
            1 => 1,
            _ => GROUP,
        };
        Blocks { count, width, padded, group: rows.min(panels * tile.rows), kept, direct }
    }

    /// Computes these rows, in blocks of `depth` steps of k.
    ///
    /// # Safety
    /// As [`Part::run`].
    unsafe fn sum(&self, rows: &Range<usize>, depth: usize, scratch: &mut Scratch) {
        let (p, tile) = (self.product, self.tile);
        let a = Matrix { data: &p.a.data[self.batch * p.m * p.k..], ..p.a };
        let b = Matrix { data: &p.b.data[self.batch * p.k * p.n..], ..p.b };
        let blocks = self.blocks(rows.len(), depth);
        let Blocks { width, padded, group, kept, direct, .. } = blocks;
        let summed = match blocks.count {
            _ if !Self::ASIDE => 0,
            1 => tile.rows,
            _ => rows.len(),
        };
        let packed_a = scratch.a.take::<T::Acc>(group * depth * if kept { blocks.count } else { 1 });
        let packed_b = scratch.b.take::<T::Acc>(if direct { 0 } else { depth * padded });
        let sums = scratch.c.take::<T::Acc>(summed * padded);
        let wide = scratch.bias.take::<T::Acc>(padded);
        for cols in pieces(&self.cols, width) {
            for (wide, bias) in wide.iter_mut().zip(p.bias.iter().flat_map(|bias| &bias[cols.clone()])) {
                *wide = bias.to_acc();
            }
            for block in 0..blocks.count {
                let (first, steps) = (block * depth, depth.min(p.k - block * depth));
                let last = block + 1 == blocks.count;
                if !direct {
                    // SAFETY: the path is one that this machine has.
                    unsafe { self.pack_b(b.from(first, 0), steps, &cols, depth, packed_b) };
                }
                for together in pieces(rows, group) {
                    let panels = &mut packed_a[if kept { block * group * depth } else { 0 }..];
                    if !kept || cols.start == self.cols.start {
                        let a = a.from(together.start, first);
                        // SAFETY: the path is one that this machine has.
                        unsafe { pack::panels(self.path, a, tile.rows, together.len(), steps, panels) };
                    }
                    let (i, k) = match together.end {
                        end if end < rows.end => (end, first),
                        _ => (rows.start, first + depth),
                    };
                    let wanted = if kept || k >= p.k { 0 } else { group.min(rows.end - i) };
                    let next =
                        Piece { a: a.from(i, k), rows: wanted, depth: depth.min(p.k.saturating_sub(k)) };
                    let calls = group.div_ceil(tile.rows) * strips(tile, &cols).count();
                    let mut ahead = next.shared_by(calls);
                    for these in pieces(&together, tile.rows) {
                        // SAFETY: rows and columns of C, which belong to this part.
                        let to = unsafe { self.c.add(these.start * p.n + cols.start) };
                        let size = (these.len(), cols.len());
                        let (c, c_row) = if Self::ASIDE {
                            let at = if blocks.count == 1 { 0 } else { (these.start - rows.start) * padded };
                            (sums[at..].as_mut_ptr(), padded)
                        } else {
                            (to.cast::<T::Acc>(), p.n)
                        };
                        let panel = panels[(these.start - together.start) * steps..].as_ptr();
                        if Self::ASIDE && block == 0 && p.accumulate {
                            // SAFETY: rows of C lie n apart, and this part alone uses these columns of each.
                            unsafe { widen(to, p.n, c, c_row, size) };
                        }
                        for (j, width) in strips(tile, &cols) {
                            let beside = j - cols.start;
                            let call = Call {
                                rows: these.len(),
                                cols: width.min(cols.end - j),
                                depth: steps,
                                a: panel,
                                b: packed_b[if direct { 0 } else { beside * depth }..].as_ptr(),
                                c: c.wrapping_add(beside),
                                c_row,
                                accumulate: p.accumulate || block > 0,
                                bias: p.bias.filter(|_| last).map(|_| wide[beside..].as_ptr()),
                                ahead: ahead.next().unwrap_or_else(|| Ahead::nothing(panel)),
                            };
                            // SAFETY: both operands were packed for these rows, columns and steps, or B holds them;
                            // C or the sums have these rows and columns, which belong to this part.
                            unsafe {
                                if direct {
                                    T::Acc::direct(self.path, b.from(first, j), &call);
                                } else {
                                    (tile.run)(&call);
                                }
                            }
                        }
                        if Self::ASIDE && last {
                            // SAFETY: as for widening.
                            unsafe { round(c, c_row, to, p.n, size) };
                        }
                    }
                }
            }
        }
    }

    /// Packs `steps` steps of k of some columns, strip by strip, with room for `depth` steps of each.
    ///
    /// # Safety
    /// This machine has the instructions of the path.
    unsafe fn pack_b(
        &self,
        b: Matrix<T>,
        steps: usize,
        cols: &Range<usize>,
        depth: usize,
        out: &mut [T::Acc],
    ) {
        // Rows of B, if contiguous, are read further than a strip before the next rows, which lie pages apart.
        let run = if b.col == 1 { NEAR } else { depth };
        for k in (0..steps).step_by(run) {
            let run = run.min(steps - k);
            for (j, width) in strips(self.tile, cols) {
                let to = &mut out[(j - cols.start) * depth + k * width..][..run * width];
                // SAFETY: the caller's promise.
                unsafe { pack::strip(self.path, b.from(k, j), run, width.min(cols.end - j), width, to) };
            }
        }
    }
}

impl<T> Piece<'_, T> {
    /// The lines of it, a share for each of `calls` micro-kernels.
    fn shared_by(&self, calls: usize) -> impl Iterator<Item = Ahead> + use<T> {
        let (a, size) = (&self.a, size_of::<T>());
        let (along, across, distance) =
            if a.col == 1 { (self.depth, self.rows, a.row) } else { (self.rows, self.depth, a.col) };
        // Lines that lie pages apart share few sets of a cache: they would push each other out.
        let across = if along == 0 || (a.col * size).is_multiple_of(PAGE) { 0 } else { across };
        let run = (along * size).div_ceil(LINE);
        let start = a.data.as_ptr();
        let share = across.div_ceil(calls).max(1);
        (0..across).step_by(share).map(move |first| Ahead {
            at: start.wrapping_add(first * distance).cast(),
            left: run,
            run,
            jump: (distance * size).wrapping_sub((run - 1) * LINE),
            runs: share.min(across - first),
        })
    }
}

/// Columns cut into strips: the first of each, and how wide it is, in whole registers.
fn strips<A>(tile: &Tile<A>, cols: &Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    let strip = move |j: usize| (j, tile.strip(cols.end - j));
    let next = move |&(j, width): &(usize, usize)| Some(j + width).filter(|&j| j < cols.end).map(strip);
    std::iter::successors(Some(strip(cols.start)), next)
}

/// Elements of C as sums.
///
/// # Safety
/// Both are valid for these rows and columns, and nobody else uses them.
unsafe fn widen<C: Real>(
    c: *const C,
    c_row: usize,
    sums: *mut C::Acc,
    sums_row: usize,
    size: (usize, usize),
) {
    for i in 0..size.0 {
        // SAFETY: the caller's promise.
        let (c, sums) = unsafe {
            (
                std::slice::from_raw_parts(c.add(i * c_row), size.1),
                std::slice::from_raw_parts_mut(sums.add(i * sums_row), size.1),
            )
        };
        vectorize(
            #[inline(always)]
            || sums.iter_mut().zip(c).for_each(|(sum, c)| *sum = c.to_acc()),
        );
    }
}

/// Sums as elements of C.
///
/// # Safety
/// As [`widen`].
unsafe fn round<C: Real>(
    sums: *const C::Acc,
    sums_row: usize,
    c: *mut C,
    c_row: usize,
    size: (usize, usize),
) {
    for i in 0..size.0 {
        // SAFETY: the caller's promise.
        let (sums, c) = unsafe {
            (
                std::slice::from_raw_parts(sums.add(i * sums_row), size.1),
                std::slice::from_raw_parts_mut(c.add(i * c_row), size.1),
            )
        };
        vectorize(
            #[inline(always)]
            || c.iter_mut().zip(sums).for_each(|(c, sum)| *c = C::from_acc(*sum)),
        );
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
