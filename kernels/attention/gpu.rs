//! Attention on a GPU: launches the kernels of the `.cu` files beside this one.

use super::tiling::{
    BACKWARD, BackwardTiling, Defines, Exact, FORWARD, THREADS, WIDTHS, tiling, with_defines,
};
use super::{Attention, CachedAttention};
use crate::device::gpu::{Gpu, Grid, KernelArg};
use crate::device::program::Source;
use crate::op::{Backward, Forward};
use crate::{Buffer, DType, Error, Result, Role, Spec};
use std::f64::consts::LOG2_E;

const NAME: &str = "attention";

const ROWS: Source = Source::new("attention/attention_rows.cu", include_str!("attention_rows.cu"));
/// Threads of a block of `attention_rows.cu`.
const ROWS_THREADS: usize = 256;

const fn forward_source(defines: Defines) -> Source {
    let dynamic_bytes: fn(Defines, &str) -> usize =
        |defines, _| with_defines(&FORWARD, defines).shared_bytes();
    let text = include_str!("attention_fwd.cu");
    Source { defines, dynamic_bytes: Some(dynamic_bytes), ..Source::new("attention/attention_fwd.cu", text) }
}

const fn backward_source(defines: Defines) -> Source {
    let dynamic_bytes: fn(Defines, &str) -> usize = |defines, entry| {
        let tiling = with_defines(&BACKWARD, defines);
        if entry.contains("_kv_") { tiling.shared_bytes() } else { tiling.summed_bytes() }
    };
    let text = include_str!("attention_bwd.cu");
    Source { defines, dynamic_bytes: Some(dynamic_bytes), ..Source::new("attention/attention_bwd.cu", text) }
}

const fn exact_source(defines: Defines) -> Source {
    let dynamic_bytes: fn(Defines, &str) -> usize = |defines, entry| {
        let (forward, backward) = Exact::most_bytes(defines);
        if entry.contains("_fwd_") { forward } else { backward }
    };
    let text = include_str!("attention_f32.cu");
    Source { defines, dynamic_bytes: Some(dynamic_bytes), ..Source::new("attention/attention_f32.cu", text) }
}

/// Everything that [`forward`] and [`backward`] launch.
pub const PROGRAMS: [Source; 3 + 3 * WIDTHS] = {
    let mut all = [const { ROWS }; 3 + 3 * WIDTHS];
    all[1] = exact_source(Exact::new(Exact::WIDEST_OF_LARGE_TILES).defines);
    all[2] = exact_source(Exact::new(usize::MAX).defines);
    let mut i = 0;
    while i < WIDTHS {
        all[3 + i] = forward_source(FORWARD[i].defines);
        all[3 + WIDTHS + 2 * i] = backward_source(BACKWARD[2 * i].defines);
        all[4 + WIDTHS + 2 * i] = backward_source(BACKWARD[2 * i + 1].defines);
        i += 1;
    }
    all
};

/// A number of rows, heads or blocks as the kernels take it.
pub(super) fn number(op: &'static str, what: &str, n: usize) -> Result<u32> {
    let n32 = i32::try_from(n).map(|n| n as u32);
    n32.map_err(|_| Error::shape(op, format!("{n} {what} are too many, at most {}", i32::MAX)))
}

/// What all kernels of an op are launched with.
struct Shape<'a> {
    op: &'a Attention,
    tokens: usize,
    sequences: usize,
}

impl<'a> Shape<'a> {
    fn new(op: &'a Attention, qkv: &Buffer, sequences: &Buffer) -> Self {
        Shape { op, tokens: qkv.dims()[0], sequences: sequences.dims()[0] - 1 }
    }

    /// The most rows that a sequence has.
    fn longest(&self) -> usize {
        self.op.max_len.min(self.tokens)
    }

    /// Blocks of one tile of `rows` rows, for each tile of the longest sequence, each of `heads` heads and each
    /// sequence; tiles run fastest. Returns the tiles too.
    fn grid(&self, rows: usize, heads: usize, threads: u32, shared_bytes: usize) -> Result<(Grid, u32)> {
        let tiles = self.longest().div_ceil(rows);
        let blocks = number(NAME, "blocks", tiles * heads * self.sequences)?;
        let grid = Grid { blocks: [blocks, 1, 1], threads, shared_bytes: shared_bytes as u32 };
        Ok((grid, tiles as u32))
    }

    /// The integers at the end of each signature: tokens, tiles, heads, kv_heads, head_dim, causal.
    fn integers(&self, tiles: u32) -> Result<[KernelArg; 6]> {
        Ok([
            KernelArg::U32(number(NAME, "tokens", self.tokens)?),
            KernelArg::U32(tiles),
            KernelArg::U32(number(NAME, "heads", self.op.heads)?),
            KernelArg::U32(number(NAME, "heads", self.op.kv_heads)?),
            KernelArg::U32(self.op.head_dim as u32),
            KernelArg::U32(self.op.causal.into()),
        ])
    }
}

/// Gives out and, if asked, lse.
pub fn forward(
    op: &Attention,
    gpu: &Gpu,
    [qkv, sequences]: [&Buffer; 2],
    out: &mut Buffer,
    lse: Option<&mut Buffer>,
) -> Result<()> {
    let shape = Shape::new(op, qkv, sequences);
    let (source, rows, threads, bytes, entry, unit) = match qkv.dtype() {
        DType::Bf16 => {
            let t = tiling(&FORWARD, op.head_dim);
            (forward_source(t.defines), t.queries(), THREADS, t.shared_bytes(), "attention_fwd_bf16", LOG2_E)
        }
        DType::F32 => {
            let t = Exact::new(op.head_dim);
            (
                exact_source(t.defines),
                t.rows,
                t.threads(),
                t.forward_bytes(op.head_dim),
                "attention_fwd_f32",
                1.0,
            )
        }
        got => return Err(Error::DType { op: NAME, expected: "f32 or bf16 on a GPU", got }),
    };
    let (grid, tiles) = shape.grid(rows, op.heads, threads, bytes)?;
    if grid.blocks[0] == 0 {
        return Ok(());
    }
    let [tokens, tiles, heads, kv_heads, head_dim, causal] = shape.integers(tiles)?;
    let args = [
        KernelArg::read(qkv),
        KernelArg::read(sequences),
        KernelArg::write(out),
        KernelArg::write_or_null(lse),
        tokens,
        tiles,
        heads,
        kv_heads,
        head_dim,
        causal,
        KernelArg::F32((op.scale * unit) as f32),
    ];
    // SAFETY: arguments as in the signature of attention_fwd; `infer` made qkv [tokens, (heads + 2 kv_heads)
    // head_dim], out [tokens, heads head_dim] and lse [tokens, heads], all on this device. Rows begin at multiples of
    // 16 bytes, since head_dim is a multiple of 8. A block's sequence is below the `sequences` that the buffer has
    // the ends of, and the kernel keeps whatever they are within the tokens. Shared memory is what the macros of the
    // source take.
    unsafe { gpu.launch(NAME, &source, entry, grid, &args) }
}

/// Gives dqkv: first what backward needs of each query, then the rest, as the type has it.
pub fn backward(op: &Attention, gpu: &Gpu, io: &mut Backward) -> Result<()> {
    let mut dqkv = io.alloc(io.saved(0).spec())?;
    let (qkv, sequences, out, lse) = (io.saved(0), io.saved(1), io.saved(2), io.saved(3));
    let (run, unit): (Run, f64) = match qkv.dtype() {
        DType::Bf16 => (backward_bf16, LOG2_E),
        DType::F32 => (backward_f32, 1.0),
        got => return Err(Error::DType { op: NAME, expected: "f32 or bf16 on a GPU", got }),
    };
    let shape = Shape::new(op, qkv, sequences);
    if shape.sequences > 0 && shape.longest() > 0 {
        let mut scores = io.temp(Spec::new(DType::F32, [op.heads, shape.tokens, 2]))?;
        rows_of_scores(gpu, &shape, [out, io.dy(), lse], unit, &mut scores)?;
        run(gpu, &Kept { shape, io, qkv, sequences, scores: &scores }, &mut dqkv)?;
    }
    io.give(0, dqkv)
}

/// A kind of backward: writes the gradient of qkv.
type Run = fn(&Gpu, &Kept, &mut Buffer) -> Result<()>;

/// What both kinds of backward read: what forward saw, the gradient of out, and a pair for each head and token.
struct Kept<'a> {
    shape: Shape<'a>,
    io: &'a Backward<'a>,
    qkv: &'a Buffer,
    sequences: &'a Buffer,
    scores: &'a Buffer,
}

/// dk and dv, and the sums of dq beside them; then dq.
fn backward_bf16(gpu: &Gpu, kept: &Kept, dqkv: &mut Buffer) -> Result<()> {
    let Kept { shape, io, qkv, sequences, scores } = kept;
    let (op, in_order) = (shape.op, io.device().deterministic());
    let t = BackwardTiling::of(op.head_dim, gpu.shared_bytes());
    let source = backward_source(t.defines);
    let (grid, _) = shape.grid(t.keys(), op.kv_heads, t.threads(), t.shared_bytes())?;
    // Sequences begin anywhere: each may touch one group of 16 rows more than its tokens fill.
    let groups = shape.tokens / 16 + shape.sequences;
    let mut dq = io.temp(Spec::new(DType::F32, [op.heads, groups, 16 * t.head_width]))?;
    let turns = if in_order { shape.sequences * op.heads * shape.longest().div_ceil(t.queries()) } else { 0 };
    let mut words = Buffer::zeros(io.device(), Spec::new(DType::U32, [1 + turns]), Role::Workspace)?;
    if !in_order {
        dq.fill_zero()?; // in order, the first to come writes instead of adding
    }
    let integer = |what, n| Ok(KernelArg::U32(number(NAME, what, n)?));
    let [tokens, max_len, heads, kv_heads, head_dim, causal] = shape.integers(shape.longest() as u32)?;
    let (count, group) = (integer("sequences", shape.sequences)?, integer("heads", op.heads / op.kv_heads)?);
    let scale = [KernelArg::F32((op.scale * LOG2_E) as f32), KernelArg::F32(op.scale as f32)];
    let args = [
        KernelArg::read(qkv),
        KernelArg::read(sequences),
        KernelArg::read(io.dy()),
        KernelArg::read(scores),
        KernelArg::write(dqkv),
        KernelArg::write(&mut dq),
        KernelArg::write(&mut words),
        KernelArg::U32(in_order.into()),
        tokens,
        count,
        max_len,
        group,
        kv_heads,
        head_dim,
        causal,
        scale[0],
        scale[1],
    ];
    // SAFETY: arguments as in the signature of attention_bwd_kv_bf16; qkv and sequences are what forward saw, dout is
    // like out, dqkv like qkv, scores has a pair for each head and token, dq room for the 16 rows of every group,
    // and words the number of the next block and, if they come in order, one for each sequence, head and tile of
    // queries, all 0; all on this device. A block's pair of sequence and key head is one of as many as the grid has
    // per tile. Alignment, bounds and shared memory as in `forward`.
    unsafe { gpu.launch(NAME, &source, "attention_bwd_kv_bf16", grid, &args) }?;
    let (grid, _) = shape.grid(t.summed_queries(), op.heads, t.threads(), t.summed_bytes())?;
    let args = [
        KernelArg::read(sequences),
        KernelArg::read(&dq),
        KernelArg::write(dqkv),
        tokens,
        count,
        max_len,
        heads,
        kv_heads,
        head_dim,
        scale[1],
    ];
    // SAFETY: arguments as in the signature of attention_bwd_q_bf16; the launch before wrote the sums of every row of
    // every sequence. A block is some rows of one head of one sequence. Shared memory has 16 rows for each warp.
    unsafe { gpu.launch(NAME, &source, "attention_bwd_q_bf16", grid, &args) }
}

/// dk and dv, then dq.
fn backward_f32(gpu: &Gpu, kept: &Kept, dqkv: &mut Buffer) -> Result<()> {
    let Kept { shape, io, qkv, sequences, scores } = kept;
    let op = shape.op;
    let t = Exact::new(op.head_dim);
    for (entry, heads) in [("attention_bwd_kv_f32", op.kv_heads), ("attention_bwd_q_f32", op.heads)] {
        let (grid, tiles) = shape.grid(t.rows, heads, t.threads(), t.backward_bytes(op.head_dim))?;
        let [tokens, tiles, heads, kv_heads, head_dim, causal] = shape.integers(tiles)?;
        let args = [
            KernelArg::read(qkv),
            KernelArg::read(sequences),
            KernelArg::read(io.dy()),
            KernelArg::read(scores),
            KernelArg::write(dqkv),
            tokens,
            tiles,
            heads,
            kv_heads,
            head_dim,
            causal,
            KernelArg::F32(op.scale as f32),
            KernelArg::F32(op.scale as f32),
        ];
        // SAFETY: arguments as in the signatures of attention_bwd_kv_f32 and attention_bwd_q_f32, which are the same;
        // buffers as in `backward_bf16`. Alignment, bounds and shared memory as in `forward`.
        unsafe { gpu.launch(NAME, &exact_source(t.defines), entry, grid, &args) }?;
    }
    Ok(())
}

/// `scores` = lse times `unit`, and `<dout, out>`, for each head and token.
fn rows_of_scores(
    gpu: &Gpu,
    shape: &Shape,
    [out, dout, lse]: [&Buffer; 3],
    unit: f64,
    scores: &mut Buffer,
) -> Result<()> {
    let vectors = shape.op.head_dim * out.dtype().size() / 16;
    let lanes = vectors.next_power_of_two().min(32);
    let products = shape.tokens * shape.op.heads;
    let blocks = number(NAME, "blocks", (products * lanes).div_ceil(ROWS_THREADS))?;
    let [tokens, _, heads, _, head_dim, _] = shape.integers(0)?;
    let args = [
        KernelArg::read(out),
        KernelArg::read(dout),
        KernelArg::read(lse),
        KernelArg::write(scores),
        tokens,
        heads,
        head_dim,
        KernelArg::U32(lanes as u32),
        KernelArg::F32(unit as f32),
    ];
    let entry = format!("attention_bwd_rows_{}", out.dtype());
    let grid = Grid::linear(blocks, ROWS_THREADS as u32);
    // SAFETY: arguments as in the signature of attention_bwd_rows; out and dout are [tokens, heads head_dim], lse is
    // [tokens, heads] and scores has a pair of f32 for each of these, all on this device; the kernel leaves out what
    // the last block has too much. Rows begin at multiples of 16 bytes, since head_dim is a multiple of 8.
    unsafe { gpu.launch(NAME, &ROWS, &entry, grid, &args) }
}

const CACHED_NAME: &str = "cached_attention";
const SPLIT: Source = Source::new("attention/cached_attention.cu", include_str!("cached_attention.cu"));
/// Threads of a block of `cached_attention.cu`.
const SPLIT_THREADS: u32 = 128;
/// Keys of a block.
const CHUNK: usize = 128;
/// Query heads of a block.
const MOST_HEADS: usize = 4;
/// The most bytes that the sums of chunks take. More rows are more launches.
const MOST_CHUNK_BYTES: usize = 64 << 20;
/// From how many rows per slot on rows share tiles of keys.
const ROWS_PER_SLOT: usize = 8;

const fn tiles_source(defines: Defines) -> Source {
    let dynamic_bytes: fn(Defines, &str) -> usize =
        |defines, _| with_defines(&FORWARD, defines).cached_bytes();
    let (file, text) = ("attention/cached_attention_tiles.cu", include_str!("cached_attention_tiles.cu"));
    Source { defines, dynamic_bytes: Some(dynamic_bytes), ..Source::new(file, text) }
}

/// Everything that [`cached`] launches.
pub const CACHED_PROGRAMS: [Source; 1 + WIDTHS] = {
    let mut all = [const { SPLIT }; 1 + WIDTHS];
    let mut i = 0;
    while i < WIDTHS {
        all[1 + i] = tiles_source(FORWARD[i].defines);
        i += 1;
    }
    all
};

/// The inputs of [`CachedAttention`].
pub struct Cached<'a> {
    /// Rows of queries.
    pub qkv: &'a Buffer,
    /// Keys and values.
    pub cache: &'a Buffer,
    /// The slot of each row.
    pub slots: &'a Buffer,
    /// Its position.
    pub positions: &'a Buffer,
}

impl Cached<'_> {
    /// The integers at the end of the signatures: heads, kv_heads, head_dim, slot_count, capacity, max_len.
    fn integers(&self, op: &CachedAttention) -> Result<[KernelArg; 6]> {
        let integer = |what, n| Ok(KernelArg::U32(number(CACHED_NAME, what, n)?));
        Ok([
            integer("heads", op.heads)?,
            integer("heads", op.kv_heads)?,
            integer("values of a head", op.head_dim)?,
            integer("slots", self.cache.dims()[0])?,
            integer("positions", self.cache.dims()[1])?,
            integer("keys", op.max_len)?,
        ])
    }
}

/// Gives out. Rows share tiles of keys if some slot must have several; on tensor cores, that is, for bf16.
pub fn cached(op: &CachedAttention, gpu: &Gpu, io: &Forward, ins: &Cached, out: &mut Buffer) -> Result<()> {
    let rows = ins.qkv.dims()[0];
    if rows == 0 {
        return Ok(());
    }
    match ins.qkv.dtype() {
        DType::Bf16 if rows >= ROWS_PER_SLOT * ins.cache.dims()[0] => cached_tiles(op, gpu, ins, out),
        DType::Bf16 | DType::F32 => cached_split(op, gpu, io, ins, out),
        got => Err(Error::DType { op: CACHED_NAME, expected: "f32 or bf16 on a GPU", got }),
    }
}

fn cached_tiles(op: &CachedAttention, gpu: &Gpu, ins: &Cached, out: &mut Buffer) -> Result<()> {
    let tiling = tiling(&FORWARD, op.head_dim);
    let rows = ins.qkv.dims()[0];
    let tiles = rows.div_ceil(tiling.queries());
    let blocks = number(CACHED_NAME, "blocks", tiles * op.heads)?;
    let [heads, kv_heads, head_dim, slot_count, capacity, max_len] = ins.integers(op)?;
    let args = [
        KernelArg::read(ins.qkv),
        KernelArg::read(ins.cache),
        KernelArg::read(ins.slots),
        KernelArg::read(ins.positions),
        KernelArg::write(out),
        KernelArg::U32(number(CACHED_NAME, "rows", rows)?),
        KernelArg::U32(tiles as u32),
        heads,
        kv_heads,
        head_dim,
        slot_count,
        capacity,
        max_len,
        KernelArg::F32((op.scale * LOG2_E) as f32),
    ];
    let source = tiles_source(tiling.defines);
    let grid = Grid { blocks: [blocks, 1, 1], threads: THREADS, shared_bytes: tiling.cached_bytes() as u32 };
    // SAFETY: arguments as in the signature; `infer` made qkv [rows, (heads + 2 kv_heads) head_dim], cache
    // [slot_count, capacity, 2 kv_heads head_dim], slots and positions [rows] and out [rows, heads head_dim], all on
    // this device. Rows begin at multiples of 16 bytes, since head_dim is a multiple of 8. A block is one tile of one
    // head; the kernel reads no key of a row whose slot or position is not in the cache. Shared memory is what the
    // macros of the source take.
    unsafe { gpu.launch(CACHED_NAME, &source, "cached_attention_fwd_tiles_bf16", grid, &args) }
}

fn cached_split(op: &CachedAttention, gpu: &Gpu, io: &Forward, ins: &Cached, out: &mut Buffer) -> Result<()> {
    let (rows, dtype) = (ins.qkv.dims()[0], ins.qkv.dtype());
    let chunks = op.max_len.min(ins.cache.dims()[1]).div_ceil(CHUNK).max(1);
    let blocks_per_row = op.kv_heads * (op.heads / op.kv_heads).div_ceil(MOST_HEADS) * chunks;
    let bytes_per_row = op.heads * chunks * op.head_dim * DType::F32.size();
    let most_rows = if chunks == 1 { rows } else { (MOST_CHUNK_BYTES / bytes_per_row).clamp(1, rows) };
    let temp = |last: usize| -> Result<Option<Buffer>> {
        let spec = Spec::new(DType::F32, [most_rows * op.heads, chunks, last]);
        (chunks > 1).then(|| io.temp(spec)).transpose()
    };
    let (mut chunk_outs, mut chunk_sums) = (temp(op.head_dim)?, temp(2)?);
    let lanes = (op.head_dim * dtype.size() / 16).next_power_of_two().min(32) as u32;
    let [heads, kv_heads, head_dim, slot_count, capacity, max_len] = ins.integers(op)?;
    number(CACHED_NAME, "rows", rows)?;
    for first in (0..rows).step_by(most_rows) {
        let count = most_rows.min(rows - first);
        let blocks = number(CACHED_NAME, "blocks", count * blocks_per_row)?;
        let (first, launch_chunks) = (KernelArg::U32(first as u32), KernelArg::U32(chunks as u32));
        let args = [
            KernelArg::read(ins.qkv),
            KernelArg::read(ins.cache),
            KernelArg::read(ins.slots),
            KernelArg::read(ins.positions),
            KernelArg::write(out),
            KernelArg::write_or_null(chunk_outs.as_mut()),
            KernelArg::write_or_null(chunk_sums.as_mut()),
            first,
            launch_chunks,
            heads,
            kv_heads,
            head_dim,
            slot_count,
            capacity,
            max_len,
            KernelArg::U32(lanes),
            KernelArg::F32(op.scale as f32),
        ];
        let entry = format!("cached_attention_fwd_split_{dtype}");
        // SAFETY: as in `cached_tiles`, with the arguments of this signature; a block is one chunk of up to
        // MOST_HEADS heads of one key head of one of the rows from `first` on, and the sums have room for the
        // chunks of all of these.
        unsafe { gpu.launch(CACHED_NAME, &SPLIT, &entry, Grid::linear(blocks, SPLIT_THREADS), &args) }?;
        let (Some(outs), Some(sums)) = (&chunk_outs, &chunk_sums) else { continue };
        let args = [
            KernelArg::read(ins.slots),
            KernelArg::read(ins.positions),
            KernelArg::read(outs),
            KernelArg::read(sums),
            KernelArg::write(out),
            first,
            launch_chunks,
            heads,
            head_dim,
            slot_count,
            capacity,
            max_len,
        ];
        let entry = format!("cached_attention_fwd_sum_{dtype}");
        let grid = Grid::linear((count * op.heads) as u32, SPLIT_THREADS);
        // SAFETY: arguments as in the signature; the launch before wrote the sums of every chunk that a row sees, and
        // the kernel reads no others; a block is one head of one of the same rows.
        unsafe { gpu.launch(CACHED_NAME, &SPLIT, &entry, grid, &args) }?;
    }
    Ok(())
}
