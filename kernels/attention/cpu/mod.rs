//! Attention on the CPU: what is done in parallel, and on which path.
//!
//! Work is cut into units that write nothing in common: forward a block of queries of one head, backward one head of
//! keys and values of one sequence. Each unit is computed in one order by one thread, so results depend neither on
//! the number of threads nor on which of them took it. Scratch belongs to a worker, not to a unit.
//!
//! `forward` and `backward` compute a unit of any type in registers of the chosen path, `amx` one of bf16 in tiles.

#[cfg(target_arch = "x86_64")]
mod amx;
mod backward;
mod block;
mod columns;
mod forward;
#[cfg(target_arch = "x86_64")]
mod tiles;

use super::Layout;
use crate::DType;
use crate::dtype::{Float, Real};
use crate::simd::{Path, vectorize};
use backward::Group;
pub use block::Lanes;
use block::Portable;
use columns::{Columns, ColumnsMut};
use forward::{Queries, Sees};
use rayon::prelude::*;
use std::sync::Mutex;

/// Keys of a tile: 64 keys of width 64 in f32 are 16 KiB, so a tile of keys and one of values lie in the L1 cache.
pub const TILE: usize = 64;

/// The most queries of one unit. Each unit copies the keys it sees, so this is what pays for the copy.
pub const QUERIES: usize = 128;

/// How attention is cut up: the most keys of a tile and the most queries of a unit, multiples of 8.
#[derive(Debug, Clone, Copy)]
pub struct Tiles {
    /// Keys, at most [`TILE`].
    pub keys: usize,
    /// Queries.
    pub queries: usize,
}

impl Tiles {
    /// What everything but a test uses.
    pub const BEST: Tiles = Tiles { keys: TILE, queries: QUERIES };

    /// How many queries a unit takes, to cut `len` of them evenly.
    fn even(self, len: usize) -> usize {
        let blocks = len.div_ceil(self.queries).max(1);
        len.div_ceil(blocks).next_multiple_of(8).max(8)
    }
}

/// Whether attention of this type is computed in AMX's tiles.
#[cfg(target_arch = "x86_64")]
fn in_amx_tiles(dtype: DType) -> bool {
    dtype == DType::Bf16 && Path::current() == Path::Amx
}

/// Scratch of a run: how many workers, and how many elements of `Acc` for each.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub fn forward_scratch(
    dtype: DType,
    layout: Layout,
    units: usize,
    max_len: usize,
    tiles: Tiles,
) -> [usize; 2] {
    let (queries, d) = (tiles.queries.min(max_len), layout.head_dim);
    let units = units * layout.heads * max_len.div_ceil(tiles.queries);
    #[cfg(target_arch = "x86_64")]
    if in_amx_tiles(dtype) {
        return [workers(units), amx::forward_scratch(queries, d)];
    }
    [workers(units), forward::scratch(queries, tiles.keys, d)]
}

/// As [`forward_scratch`], for backward.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub fn backward_scratch(
    dtype: DType,
    layout: Layout,
    sequences: usize,
    max_len: usize,
    tiles: Tiles,
) -> [usize; 2] {
    let (workers, d) = (workers(sequences * layout.kv_heads), layout.head_dim);
    #[cfg(target_arch = "x86_64")]
    if in_amx_tiles(dtype) {
        return [workers, amx::backward_scratch(max_len, d)];
    }
    [workers, backward::scratch(layout.group(), max_len, tiles.keys, d)]
}

fn workers(units: usize) -> usize {
    rayon::current_num_threads().min(units).max(1)
}

/// Takes units from the end until none is left, one at a time per worker.
fn work<U: Send, A: Real>(units: Vec<U>, (scratch, workers): Scratch<A>, run: impl Fn(U, &mut [A]) + Sync) {
    let each = scratch.len() / workers;
    let units = Mutex::new(units);
    let next = || units.lock().unwrap_or_else(|e| e.into_inner()).pop();
    scratch.par_chunks_mut(each).for_each(|scratch| {
        while let Some(unit) = next() {
            run(unit, scratch);
        }
    });
}

/// Work that is written for any [`Lanes`].
pub trait Kernel<A> {
    /// Does it, in blocks of M rows and, if `TWO`, up to two registers.
    fn run<L: Lanes<Elem = A>, const M: usize, const TWO: bool>(self);
}

/// A type that attention is computed in.
pub trait OnPath: Float {
    /// Runs `kernel` with the registers of the chosen path.
    fn on_path(kernel: impl Kernel<Self>);
}

impl OnPath for f32 {
    fn on_path(kernel: impl Kernel<f32>) {
        match Path::current() {
            // 16 of the 32 registers hold the block.
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 | Path::Avx512Bf16 | Path::Amx => vectorize(
                #[inline(always)]
                || kernel.run::<block::Zmm, 8, true>(),
            ),
            _ => vectorize(
                #[inline(always)]
                || kernel.run::<Portable<f32>, 4, false>(),
            ),
        }
    }
}

impl OnPath for f64 {
    fn on_path(kernel: impl Kernel<f64>) {
        kernel.run::<Portable<f64>, 4, false>()
    }
}

/// What to compute, apart from the data.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// How heads lie in a row.
    pub layout: Layout,
    /// Whether a token sees only itself and what is before it.
    pub causal: bool,
    /// What scores are multiplied by.
    pub scale: f64,
    /// How it is cut up.
    pub tiles: Tiles,
}

/// What forward kept for backward, and the sequences.
pub struct Kept<'a, T: Real> {
    /// As in [`forward`].
    pub qkv: &'a [T],
    /// As in [`forward`].
    pub sequences: &'a [u32],
    /// As in [`forward`].
    pub out: &'a [T],
    /// As in [`forward`].
    pub lse: &'a [T::Acc],
}

/// Keys and values of earlier rows.
pub struct Cache<'a, T> {
    /// [slots, capacity, k and v heads].
    pub rows: &'a [T],
    /// Rows of a slot.
    pub capacity: usize,
}

/// Scratch of some workers, side by side.
pub type Scratch<'a, A> = (&'a mut [A], usize);

fn run_queries<T: Real<Acc: OnPath>>(setting: Setting, units: Vec<Queries<T>>, scratch: Scratch<T::Acc>) {
    let Setting { layout, scale, tiles, .. } = setting;
    work(units, scratch, |queries, scratch| {
        #[cfg(target_arch = "x86_64")]
        if in_amx_tiles(T::DTYPE) {
            let scratch = bytemuck::cast_slice_mut(scratch);
            // SAFETY: the path is that of AMX, and a worker that computes a unit does nothing else meanwhile.
            return unsafe { amx::forward(queries.cast(), layout.head_dim, scale as f32, scratch) };
        }
        T::Acc::on_path(forward::Task { queries, d: layout.head_dim, scale, tile: tiles.keys, scratch })
    });
}

/// Packed sequences against themselves.
pub fn forward<T: Real<Acc: OnPath>>(
    setting: Setting,
    qkv: &[T],
    sequences: &[u32],
    out: &mut [T],
    lse: Option<&mut [T::Acc]>,
    scratch: Scratch<T::Acc>,
) {
    let Setting { layout, causal, tiles, .. } = setting;
    let mut units = vec![];
    let mut out = ColumnsMut::new(out, layout.q_width());
    let mut lse = lse.map(|lse| ColumnsMut::new(lse, layout.heads));
    for pair in sequences.windows(2) {
        let (first, len) = (pair[0] as usize, (pair[1] - pair[0]) as usize);
        let mut sequence = out.cut_rows(len);
        let mut sequence_lse = lse.as_mut().map(|lse| lse.cut_rows(len));
        for head in 0..layout.heads {
            let at = |column| Columns::new(qkv, layout.width(), first, column);
            let mut out = sequence.cut_columns(layout.head_dim);
            let mut lse = sequence_lse.as_mut().map(|lse| lse.cut_columns(1));
            let step = tiles.even(len);
            for start in (0..len).step_by(step) {
                let count = step.min(len - start);
                units.push(Queries {
                    q: at(layout.q(head)).from(start),
                    k: at(layout.k(head / layout.group())),
                    v: at(layout.v(head / layout.group())),
                    count,
                    sees: if causal {
                        Sees { first: start + 1, step: 1 }
                    } else {
                        Sees { first: len, step: 0 }
                    },
                    out: out.cut_rows(count),
                    lse: lse.as_mut().map(|lse| lse.cut_rows(count)),
                });
            }
        }
    }
    run_queries(setting, units, scratch);
}

/// Rows of q against a cache: row i sees keys `0..=positions[i]` of `slots[i]`.
pub fn cached<T: Real<Acc: OnPath>>(
    setting: Setting,
    qkv: &[T],
    cache: Cache<T>,
    (slots, positions): (&[u32], &[u32]),
    out: &mut [T],
    scratch: Scratch<T::Acc>,
) {
    let Setting { layout, tiles, .. } = setting;
    let mut units = vec![];
    let mut out = ColumnsMut::new(out, layout.q_width());
    let mut first = 0;
    while first < slots.len() {
        // Rows that follow each other in one slot share tiles.
        let follows = |i: usize| {
            slots[i] == slots[first] && positions[i] as usize == positions[first] as usize + i - first
        };
        let count = (first..slots.len().min(first + tiles.queries)).take_while(|&i| follows(i)).count();
        let mut rows = out.cut_rows(count);
        for head in 0..layout.heads {
            let row = slots[first] as usize * cache.capacity;
            let at =
                |column: usize| Columns::new(cache.rows, layout.kv_width(), row, column - layout.q_width());
            units.push(Queries {
                q: Columns::new(qkv, layout.width(), first, layout.q(head)),
                k: at(layout.k(head / layout.group())),
                v: at(layout.v(head / layout.group())),
                count,
                sees: Sees { first: positions[first] as usize + 1, step: 1 },
                out: rows.cut_columns(layout.head_dim),
                lse: None,
            });
        }
        first += count;
    }
    run_queries(setting, units, scratch);
}

/// dq, dk and dv of packed sequences, in one packed buffer.
pub fn backward<T: Real<Acc: OnPath>>(
    setting: Setting,
    kept: Kept<T>,
    dout: &[T],
    dqkv: &mut [T],
    scratch: Scratch<T::Acc>,
) {
    let Setting { layout, causal, scale, tiles } = setting;
    let Kept { qkv, sequences, out, lse } = kept;
    let mut units = vec![];
    let mut rest = ColumnsMut::new(dqkv, layout.width());
    let (group, d) = (layout.group(), layout.head_dim);
    for pair in sequences.windows(2) {
        let (first, len) = (pair[0] as usize, (pair[1] - pair[0]) as usize);
        let mut dkv = rest.cut_rows(len);
        let mut dq = dkv.cut_columns(layout.q_width());
        let mut dk = dkv.cut_columns(layout.kv_width() / 2);
        let mut dv = dkv;
        for head in 0..layout.kv_heads {
            let at = |column| Columns::new(qkv, layout.width(), first, column);
            let beside = |matrix, head| Columns::new(matrix, layout.q_width(), first, layout.q(head));
            units.push(Group {
                len,
                sees: if causal { Sees { first: 1, step: 1 } } else { Sees { first: len, step: 0 } },
                q: at(layout.q(head * group)),
                k: at(layout.k(head)),
                v: at(layout.v(head)),
                out: beside(out, head * group),
                dout: beside(dout, head * group),
                lse: Columns::new(lse, layout.heads, first, head * group),
                dq: dq.cut_columns(group * d),
                dk: dk.cut_columns(d),
                dv: dv.cut_columns(d),
            });
        }
    }
    work(units, scratch, |group, scratch| {
        #[cfg(target_arch = "x86_64")]
        if in_amx_tiles(T::DTYPE) {
            let scratch = bytemuck::cast_slice_mut(scratch);
            // SAFETY: the path is that of AMX, and a worker that computes a unit does nothing else meanwhile.
            return unsafe { amx::backward(group.cast(), layout.group(), d, scale as f32, scratch) };
        }
        T::Acc::on_path(backward::Task { group, heads: layout.group(), d, scale, tile: tiles.keys, scratch })
    });
}
