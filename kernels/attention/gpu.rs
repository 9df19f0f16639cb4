//! Attention on a GPU: launches the kernels of the `.cu` files beside this one.

use super::Attention;
use super::tiling::{BACKWARD, Defines, Exact, FORWARD, THREADS, WIDTHS, tiling};
use crate::device::gpu::{Gpu, Grid, KernelArg};
use crate::device::program::Source;
use crate::op::Backward;
use crate::{Buffer, DType, Error, Result, Spec};
use std::f64::consts::LOG2_E;

const NAME: &str = "attention";

const ROWS: Source = Source::new("attention/attention_rows.cu", include_str!("attention_rows.cu"));
/// Threads of a block of `attention_rows.cu`.
const ROWS_THREADS: usize = 256;

const fn forward_source(defines: Defines) -> Source {
    Source { defines, ..Source::new("attention/attention_fwd.cu", include_str!("attention_fwd.cu")) }
}

const fn backward_source(defines: Defines) -> Source {
    Source { defines, ..Source::new("attention/attention_bwd.cu", include_str!("attention_bwd.cu")) }
}

const fn exact_source(defines: Defines) -> Source {
    Source { defines, ..Source::new("attention/attention_f32.cu", include_str!("attention_f32.cu")) }
}

/// Everything that [`forward`] and [`backward`] launch.
pub const PROGRAMS: [Source; 3 + 2 * WIDTHS] = {
    let mut all = [const { ROWS }; 3 + 2 * WIDTHS];
    all[1] = exact_source(Exact::new(Exact::WIDEST_OF_LARGE_TILES).defines);
    all[2] = exact_source(Exact::new(usize::MAX).defines);
    let mut i = 0;
    while i < WIDTHS {
        all[3 + i] = forward_source(FORWARD[i].defines);
        all[3 + WIDTHS + i] = backward_source(BACKWARD[i].defines);
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

    /// Blocks of one tile of `rows` rows, for each tile of the longest sequence, each of `heads` heads and each
    /// sequence; tiles run fastest. Returns the tiles too.
    fn grid(&self, rows: usize, heads: usize, threads: u32, shared_bytes: usize) -> Result<(Grid, u32)> {
        let tiles = self.op.max_len.min(self.tokens).div_ceil(rows);
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

/// Gives dqkv: first what backward needs of each query, then dk and dv, then dq.
pub fn backward(op: &Attention, gpu: &Gpu, io: &mut Backward) -> Result<()> {
    let mut dqkv = io.alloc(io.saved(0).spec())?;
    let (qkv, sequences, out, lse) = (io.saved(0), io.saved(1), io.saved(2), io.saved(3));
    let shape = Shape::new(op, qkv, sequences);
    let Passes { source, unit, keys, queries, entries } = passes(op, qkv.dtype())?;
    let (kv_grid, kv_tiles) = shape.grid(keys.rows, op.kv_heads, keys.threads, keys.shared_bytes)?;
    let (q_grid, q_tiles) = shape.grid(queries.rows, op.heads, queries.threads, queries.shared_bytes)?;
    if q_grid.blocks[0] > 0 {
        let mut scores = io.temp(Spec::new(DType::F32, [op.heads, shape.tokens, 2]))?;
        rows_of_scores(gpu, &shape, [out, io.dy(), lse], unit, &mut scores)?;
        let scale = [KernelArg::F32((op.scale * unit) as f32), KernelArg::F32(op.scale as f32)];
        let kv_blocks = number(NAME, "blocks", kv_grid.blocks[0] as usize * keys.parts)?;
        let kv_grid = Grid { blocks: [kv_blocks, 1, 1], ..kv_grid };
        for (entry, grid, tiles) in [(entries[0], kv_grid, kv_tiles), (entries[1], q_grid, q_tiles)] {
            let [tokens, tiles, heads, kv_heads, head_dim, causal] = shape.integers(tiles)?;
            let args = [
                KernelArg::read(qkv),
                KernelArg::read(sequences),
                KernelArg::read(io.dy()),
                KernelArg::read(&scores),
                KernelArg::write(&mut dqkv),
                tokens,
                tiles,
                heads,
                kv_heads,
                head_dim,
                causal,
                scale[0],
                scale[1],
            ];
            // SAFETY: arguments as in the signatures of attention_bwd_kv and attention_bwd_q, which are the same;
            // qkv and sequences are what forward saw, dout is like out, dqkv like qkv, scores has a pair for each
            // head and token, all on this device. Alignment, bounds and shared memory as in `forward`.
            unsafe { gpu.launch(NAME, &source, entry, grid, &args) }?;
        }
    }
    io.give(0, dqkv)
}

/// One of backward's two passes: what a block owns and takes.
struct Pass {
    rows: usize,
    threads: u32,
    shared_bytes: usize,
    /// Blocks that share the columns of the result.
    parts: usize,
}

/// How backward runs for one type of activation.
struct Passes {
    source: Source,
    /// What scores are multiplied by, beside the scale: exponentials are to the base e or 2.
    unit: f64,
    keys: Pass,
    queries: Pass,
    entries: [&'static str; 2],
}

fn passes(op: &Attention, dtype: DType) -> Result<Passes> {
    match dtype {
        DType::Bf16 => {
            let t = tiling(&BACKWARD, op.head_dim);
            let (kv_bytes, q_bytes) = t.shared_bytes();
            Ok(Passes {
                source: backward_source(t.defines),
                unit: LOG2_E,
                keys: Pass { rows: t.kv_keys(), threads: THREADS, shared_bytes: kv_bytes, parts: t.kv_parts },
                queries: Pass { rows: t.q_queries(), threads: THREADS, shared_bytes: q_bytes, parts: 1 },
                entries: ["attention_bwd_kv_bf16", "attention_bwd_q_bf16"],
            })
        }
        DType::F32 => {
            let t = Exact::new(op.head_dim);
            let pass = || Pass {
                rows: t.rows,
                threads: t.threads(),
                shared_bytes: t.backward_bytes(op.head_dim),
                parts: 1,
            };
            Ok(Passes {
                source: exact_source(t.defines),
                unit: 1.0,
                keys: pass(),
                queries: pass(),
                entries: ["attention_bwd_kv_f32", "attention_bwd_q_f32"],
            })
        }
        got => Err(Error::DType { op: NAME, expected: "f32 or bf16 on a GPU", got }),
    }
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
