//! Products of bf16 by instructions that multiply pairs of steps of k and sum in f32.
//!
//! ```text
//! for each block of steps of k, `depth` at most
//!   pack these rows of the right operand, strip by strip             second-level cache
//!   for each few rows
//!     pack them, or leave them where they lie                        first-level cache
//!     for each strip: the micro-kernel, from sums and onto them      registers
//!       if these were the last steps: sums into C
//! ```
//!
//! So C is written along its rows, which the hardware foresees: with strips outside, each call would wait for lines
//! of C from further away than it has arithmetic to hide them behind.
//!
//! **Each element is one chain over k**, from zero: a block continues the sums of the block before it, so no size
//! above has a part in a result, and rows that are not there are zeros that are not stored. The two micro-kernels
//! group the steps of the chain differently ([`crate::amx`] and [`micro_avx512`] have the formulas).
//!
//! **Few rows** of AMX are computed turned, C^T = B^T A^T, if both operands lie along k: then B, a weight, is the left
//! operand, which tiles read where it lies, and it streams from memory once. Factors may be exchanged, so the
//! bits are the same.

mod micro_amx;
mod micro_avx512;
mod pack;
mod store;

use super::cpu::{Grain, Product, even, pieces};
use super::pack::{Matrix, Scratch};
use crate::amx::Tiles;
use crate::dtype::{DType, Real, bf16};
use crate::simd::Path;
use bytemuck::cast_slice;
use pack::{LANES, STEPS, UNIT};
use std::ops::Range;

/// The most elements of the right operand packed at once: 768 KiB of a second-level cache of 2 MiB.
const MAX_RIGHT: usize = 384 << 10;

/// About the most elements of the left operand packed at once.
const MAX_TURNED: usize = 192 << 10;

/// The most rows whose sums are kept from one block of k to the next.
const MAX_ROWS: usize = 1024;

/// The most rows that are computed turned.
const TURNED_ROWS: usize = 2 * LANES;

/// A micro-kernel and the sizes it works in.
#[derive(Clone, Copy)]
pub struct Tile {
    /// The most rows of one call; a panel has a multiple of them, or they are whole panels.
    pub rows: usize,
    /// The most columns of one call.
    pub cols: usize,
    /// The most steps of k packed at once.
    pub depth: usize,
    /// The most of one call, if there are many strips: rows of the left operand that stay in a first-level cache.
    pub near: usize,
    /// The least floating-point operations that are worth a task of their own: some 20 us.
    pub task_flops: usize,
    /// The micro-kernel.
    pub run: Run,
}

impl Tile {
    /// That of a path, if it has one.
    pub fn of(path: Path) -> Option<Tile> {
        match path {
            Path::Amx => Some(micro_amx::BF16),
            Path::Avx512Bf16 => Some(micro_avx512::BF16),
            _ => None,
        }
    }

    /// Columns of the next strip if `left` are left: whole registers, and no single one behind three.
    fn strip(&self, left: usize) -> usize {
        let (most, registers) = (self.cols / LANES, left.div_ceil(LANES));
        let take = if registers == most + 1 && most > 2 { most - 1 } else { most.min(registers) };
        take * LANES
    }
}

/// A micro-kernel.
///
/// # Safety
/// The pointers of the call are valid as its fields say, and this machine has the kernel's instructions.
pub type Run = unsafe fn(&Call);

/// The operands of one run of a micro-kernel.
pub struct Call<'a> {
    /// Rows, 1 to [`Tile::rows`]. Panels are read and sums written to the end of 16 rows all the same by AMX.
    pub rows: usize,
    /// Columns: whole registers.
    pub width: usize,
    /// Steps of k, in units of 32.
    pub units: usize,
    /// The first row of the left operand, at its first step.
    pub left: *const bf16,
    /// Elements from a row of a panel to the next.
    pub left_row: usize,
    /// Elements from a unit to the next.
    pub left_unit: usize,
    /// Elements from a panel of 16 rows to the next.
    pub left_panel: usize,
    /// The strip: `16 * units` rows of `width` pairs.
    pub right: *const bf16,
    /// The block of sums, [`Tile::rows`] by `width`.
    pub sums: *mut f32,
    /// Whether to sum from zero, and not onto what the block holds.
    pub first: bool,
    /// The tiles of this thread, on the path that has them.
    pub tiles: Option<&'a Tiles>,
}

/// How the left operand lies.
#[derive(Clone, Copy)]
struct Left {
    row: usize,
    unit: usize,
    panel: usize,
}

/// A block of finished sums: the first and the number of its rows and columns.
struct Done {
    sums: *mut f32,
    width: usize,
    rows: (usize, usize),
    cols: (usize, usize),
}

/// A block of rows and columns of one product, with the operand called `left` giving the rows.
struct Part<'a, C> {
    tile: Tile,
    tiles: Option<&'a Tiles>,
    k: usize,
    left: Matrix<'a, bf16>,
    right: Matrix<'a, bf16>,
    bias: Option<&'a [bf16]>,
    accumulate: bool,
    /// Whether C lies by columns of this part.
    turned: bool,
    /// The first element of this product's C.
    c: *mut C,
    /// The distance of its lines.
    c_line: usize,
}

/// A product of bf16 on a path that multiplies pairs.
pub struct Pairs<'a> {
    path: Path,
    tile: Tile,
    product: Product<'a, bf16>,
}

impl<'a> Pairs<'a> {
    /// A product as one of pairs, if its type and the path are for that.
    pub fn of<T: Real>(path: Path, p: &Product<'a, T>) -> Option<Self> {
        let tile = Tile::of(path).filter(|_| T::DTYPE == DType::Bf16)?;
        let matrix = |x: Matrix<'a, T>| Matrix { data: cast_slice(x.data), row: x.row, col: x.col };
        let Product { batch, m, n, k, accumulate, .. } = *p;
        let (a, b, bias) = (matrix(p.a), matrix(p.b), p.bias.map(cast_slice));
        Some(Pairs { path, tile, product: Product { batch, m, n, k, a, b, bias, accumulate } })
    }

    /// What tasks are made of.
    pub fn grain(&self) -> Grain {
        Grain { rows: self.tile.rows, cols: self.tile.cols, flops: self.tile.task_flops }
    }

    /// Computes rows and columns of product number `batch`; `c` is its first element.
    ///
    /// # Safety
    /// Nobody else reads or writes these rows and columns of C; the path is one that this machine has.
    pub unsafe fn run<C: Real>(
        &self,
        batch: usize,
        part: (&Range<usize>, &Range<usize>),
        c: *mut C,
        scratch: &mut Scratch,
    ) {
        // SAFETY: the caller's promise; C is the type that is asked for.
        unsafe {
            match C::DTYPE {
                DType::Bf16 => self.part(batch, part, c.cast::<bf16>(), scratch),
                DType::F32 => self.part(batch, part, c.cast::<f32>(), scratch),
                other => unreachable!("no product of bf16 is stored as {other}"),
            }
        }
    }

    /// # Safety
    /// As [`Pairs::run`].
    unsafe fn part<C: Real<Acc = f32>>(
        &self,
        batch: usize,
        (rows, cols): (&Range<usize>, &Range<usize>),
        c: *mut C,
        scratch: &mut Scratch,
    ) {
        let p = &self.product;
        // SAFETY: the path says that tiles are available; none are held here, as tasks do not nest.
        let tiles = (self.path == Path::Amx).then(|| unsafe { Tiles::configure() });
        let a = Matrix { data: &p.a.data[batch * p.m * p.k..], ..p.a };
        let b = Matrix { data: &p.b.data[batch * p.k * p.n..], ..p.b };
        let turned = self.path == Path::Amx
            && rows.len() <= TURNED_ROWS
            && rows.len() < cols.len()
            && (a.col, b.row) == (1, 1)
            && p.k.is_multiple_of(STEPS);
        let (left, right) = if turned { (turn(b), turn(a)) } else { (a, b) };
        let part = Part {
            tile: self.tile,
            tiles: tiles.as_ref(),
            k: p.k,
            left,
            right,
            bias: p.bias,
            accumulate: p.accumulate,
            turned,
            c,
            c_line: p.n,
        };
        // SAFETY: the caller's promise.
        unsafe { if turned { part.run(cols, rows, scratch) } else { part.run(rows, cols, scratch) } }
    }
}

/// The transpose.
fn turn(x: Matrix<bf16>) -> Matrix<bf16> {
    Matrix { data: x.data, row: x.col, col: x.row }
}

impl<C: Real<Acc = f32>> Part<'_, C> {
    /// # Safety
    /// As [`Pairs::run`], rows being those of the left operand.
    unsafe fn run(&self, rows: &Range<usize>, cols: &Range<usize>, scratch: &mut Scratch) {
        // Turned, the strip is small, and rows are read where they lie: from their first step to the last.
        let deep = if self.turned { self.k.max(STEPS) } else { even(self.k, self.tile.depth, STEPS) };
        let height = if self.k <= deep { rows.len() } else { even(rows.len(), MAX_ROWS, self.tile.rows) };
        let width = even(cols.len(), (MAX_RIGHT / deep).max(self.tile.cols), self.tile.cols);
        for cols in pieces(cols, width) {
            for rows in pieces(rows, height) {
                // Rows that fill no panel are packed, since nothing may be read behind the last one.
                let panel = self.tile.rows.max(LANES);
                let whole = if self.in_place(deep) { rows.len() / panel * panel } else { 0 };
                let direct = rows.start + whole;
                // SAFETY: the caller's promise.
                unsafe { self.sum((&rows, direct), &cols, deep, scratch) };
            }
        }
    }

    /// Whether the left operand is read where it lies: whole units, whose rows begin at lines of the cache, or tiles take
    /// twice as long to load; and all of k at once, since rows pages apart would share few sets of the cache.
    fn in_place(&self, deep: usize) -> bool {
        let whole = self.left.col == 1 && self.k.is_multiple_of(STEPS) && self.k > 0;
        let aligned = self.left.data.as_ptr().addr().is_multiple_of(64);
        self.turned || (self.tiles.is_some() && whole && aligned && self.k <= deep)
    }

    /// Sums and stores a block of C. Rows before `direct` are whole panels with whole units along k, read in place.
    ///
    /// # Safety
    /// As [`Pairs::run`].
    unsafe fn sum(
        &self,
        (rows, direct): (&Range<usize>, usize),
        cols: &Range<usize>,
        deep: usize,
        scratch: &mut Scratch,
    ) {
        let tile = &self.tile;
        let blocks = self.k.div_ceil(deep).max(1);
        let panel = tile.rows.max(LANES);
        // Rows that are packed together: many if they are contiguous, so that lines are read whole and one after the other.
        let group = match self.left.col {
            1 => panel,
            _ => (MAX_TURNED / deep).next_multiple_of(panel).min(rows.len().next_multiple_of(panel)),
        };
        let padded = cols.len().next_multiple_of(LANES);
        let block = tile.rows * tile.cols;
        let Scratch { a, b, c, .. } = scratch;
        let packed_left = a.take::<bf16>(group * deep);
        let packed_right = b.take::<bf16>(deep * padded);
        // Steps of one call: if there are many strips, so few that the left operand stays in a first-level cache.
        let units_of = |depth: usize| depth.div_ceil(STEPS).max(1);
        let step = if cols.len() > 2 * tile.cols {
            even(units_of(deep), tile.near / STEPS, 1)
        } else {
            units_of(deep)
        };
        // Sums that wait for the next block of k, for the next steps of it, or for the next call.
        let alone = step >= units_of(deep);
        let sums_len = match (blocks, alone) {
            (1, true) => 2 * block,
            (1, false) => panel * padded,
            _ => rows.len().next_multiple_of(tile.rows) * padded,
        };
        let sums = c.take::<f32>(sums_len);
        // Stored behind the next call: reading sums at once would wait for the arithmetic to end.
        let mut pending: Option<Done> = None;
        let mut calls = 0;
        for number in 0..blocks {
            let (first, last) = (number * deep, number + 1 == blocks);
            let depth = deep.min(self.k - first);
            let units = depth.div_ceil(STEPS);
            let strips = || {
                let next = |&(j, width): &(usize, usize)| Some(j + width).filter(|&j| j < cols.end);
                let strip = |j: usize| (j, tile.strip(cols.end - j));
                std::iter::successors(Some(strip(cols.start)), move |last| next(last).map(strip))
            };
            // Rows of the right operand, if contiguous, are read to their end, and not piece by piece.
            let run = if self.right.col == 1 { STEPS } else { depth.max(1) };
            for k in (0..depth).step_by(run) {
                for (j, width) in strips() {
                    let to = &mut packed_right[(j - cols.start) * deep + k * width..];
                    let from = self.right.from(first + k, j);
                    // SAFETY: the path is one that this machine has.
                    unsafe { pack::right(from, run.min(depth - k), width.min(cols.end - j), width, to) };
                }
            }
            let layout = Left { row: STEPS, unit: UNIT, panel: units * UNIT };
            for i in rows.clone().step_by(panel) {
                let height = panel.min(rows.end - i);
                let left = self.left.from(i, first);
                let (left, layout) = if i < direct {
                    let row = self.left.row;
                    (left.data.as_ptr(), Left { row, unit: STEPS, panel: LANES * row })
                } else {
                    let within = (i - rows.start) % group;
                    if within == 0 {
                        // SAFETY: the path is one that this machine has.
                        unsafe { pack::left(left, group.min(rows.end - i), depth, packed_left) };
                    }
                    (packed_left[within / LANES * layout.panel..].as_ptr(), layout)
                };
                for unit in (0..units_of(depth)).step_by(step) {
                    let done = last && unit + step >= units;
                    for (j, width) in strips() {
                        for row in (0..height).step_by(tile.rows) {
                            let beside = (j - cols.start) * tile.rows;
                            let at = match (blocks, alone) {
                                (1, true) => calls % 2 * block,
                                (1, false) => row * padded + beside,
                                _ => (i - rows.start + row) * padded + beside,
                            };
                            calls += 1;
                            let sums = sums[at..][..tile.rows * width].as_mut_ptr();
                            let rows = tile.rows.min(height - row);
                            let right = &packed_right[(j - cols.start) * deep + unit * STEPS * width..];
                            let call = Call {
                                rows,
                                width,
                                units: step.min(units - unit),
                                left: left.wrapping_add(row * layout.row + unit * layout.unit),
                                left_row: layout.row,
                                left_unit: layout.unit,
                                left_panel: layout.panel,
                                right: right.as_ptr(),
                                sums,
                                first: number == 0 && unit == 0,
                                tiles: self.tiles,
                            };
                            // SAFETY: the caller's promise.
                            unsafe { self.store(pending.take_if(|pending| pending.sums == sums)) };
                            // SAFETY: the left operand lies or was packed as `layout` says, the strip was packed for
                            // these columns, and the block of sums is of this size.
                            unsafe { (tile.run)(&call) };
                            if done {
                                let cols = (j, width.min(cols.end - j));
                                let done = Done { sums, width, rows: (i + row, rows), cols };
                                // SAFETY: the caller's promise.
                                unsafe { self.store(pending.replace(done)) };
                            }
                        }
                    }
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.store(pending) };
    }

    /// Stores a block of sums, if there is one.
    ///
    /// # Safety
    /// As [`run`].
    unsafe fn store(&self, done: Option<Done>) {
        let Some(Done { sums, width, rows, cols }) = done else { return };
        let (along, across) = if self.turned { (rows, cols) } else { (cols, rows) };
        let block = store::Block {
            sums,
            width,
            rows: rows.1,
            cols: cols.1,
            c: self.c.wrapping_add(across.0 * self.c_line + along.0),
            row: self.c_line,
            turned: self.turned,
            accumulate: self.accumulate,
        };
        // SAFETY: the caller's promise; paths with a tile have these instructions.
        unsafe { store::store(&block, self.bias.map(|bias| &bias[along.0..][..along.1])) };
    }
}
