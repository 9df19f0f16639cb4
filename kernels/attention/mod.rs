//! Attention by FlashAttention-2's algorithm: softmax(scale q k^T) v without the matrix of scores.
//!
//! Dao, *FlashAttention-2* (2023), algorithms 1 and 2. Per head and query i, over the keys j it sees:
//!
//! ```text
//! s_ij = scale <q_i, k_j>     lse_i = ln sum_j exp(s_ij)     p_ij = exp(s_ij - lse_i)     out_i = sum_j p_ij v_j
//! dp_ij = <dout_i, v_j>       D_i = <dout_i, out_i>          ds_ij = p_ij (dp_ij - D_i)
//! dq_i = scale sum_j ds_ij k_j          dk_j = scale sum_i ds_ij q_i          dv_j = sum_i p_ij dout_i
//! ```
//!
//! Keys come in tiles; a running maximum and sum per query are corrected from tile to tile.
//!
//! | [`Attention`] | shape | type | kept for backward |
//! |---|---|---|---|
//! | qkv | [T, (heads + 2 kv_heads) head_dim]: a row is all q heads, all k heads, all v heads | T | yes |
//! | sequences | [B + 1]: sequence b owns the rows `sequences[b]..sequences[b + 1]`, maybe none | u32 | yes |
//! | out | [T, heads head_dim] | T | yes |
//! | lse | [T, heads] | T::Acc | yes |
//!
//! Query head h reads key head h / (heads / kv_heads). Sequences of one pack never see each other.
//! [`CachedAttention`] is the same for generation: keys and values lie in a cache.
//!
//! **A row's result depends on that row and the keys it sees, bit for bit**: alone or in a batch, behind other
//! sequences in a pack, with any number of threads, from a cache or not. Tiles start at the sequence's first token,
//! and a key that is not seen is not multiplied at all. (On a GPU, and in AMX's tiles, it is multiplied by 0 where its
//! tile is seen in part; on a GPU a row from a cache has other bits.)
//!
//! Numerics: everything between qkv and out is in `T::Acc`; the scale is multiplied into q. Scratch per worker:
//! tiles, whatever the length; in backward also dq of the heads that share one key head, in `T::Acc`, since every
//! tile of keys adds to it: linear in the length, as dq itself. In AMX's tiles (bf16, where the processor has them) p
//! and ds are rounded to bf16 for the products, and backward holds dq, dk, dv and packed q and dout of one head. Cost: 4 flops per (query, key) pair, head and element forward, 10 backward.
//!
//! On a GPU, f32 and bf16 alone. In bf16, p and ds are rounded to bf16 for the products with v, k, q and dout, and dq is
//! added up across blocks: in a fixed order, or, if the device need not be deterministic, as they come. What
//! `sequences` holds is not checked there: rows beyond T are never touched, whatever it says, but what out and the
//! gradients hold for a sequence longer than `max_len`, or for rows of no sequence, or of two, is unspecified.
//! Errors: a scale that is not positive, widths that do not fit the heads, a head_dim that is not a multiple of 8 up to 256, sequences that are
//! not ascending from 0 to T or longer than `max_len`.

mod cached;
mod cases;
mod cpu;
mod gpu;
mod tiling;

pub use cached::{CACHED_ENTRY, CachedAttention};
pub use cases::ENTRY;
pub(crate) use cases::of_lengths;
pub(crate) use cpu::{Kernel, Lanes, OnPath};

use crate::device::Kind;
use crate::op::{Backward, Cost, Forward, Made, Needs, Op, Run, Shapes, Slot, check, float, take};
use crate::{Buffer, DType, Result, Spec, on_cpu};
use cpu::Tiles;

/// Attention of packed sequences to themselves. See the module.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Heads of queries, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and of values.
    pub kv_heads: usize,
    /// Width of a head: a multiple of 8 up to 256.
    pub head_dim: usize,
    /// Whether a token sees itself and what is before it, or its whole sequence.
    pub causal: bool,
    /// What scores are multiplied by, 1 / sqrt(head_dim) as a rule; positive.
    pub scale: f64,
    /// Tokens of the longest sequence: how much scratch is needed.
    pub max_len: usize,
    /// (query, key) pairs that see each other, summed over the sequences: for the cost.
    pub pairs: u64,
}

/// How heads lie in a row.
#[derive(Debug, Clone, Copy)]
struct Layout {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Layout {
    /// Query heads that share one key head.
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }
    /// Width of the q part of a row, which is the width of a row of out.
    fn q_width(self) -> usize {
        self.heads * self.head_dim
    }
    /// Width of the k and v parts, which is the width of a row of a cache.
    fn kv_width(self) -> usize {
        2 * self.kv_heads * self.head_dim
    }
    /// Width of a row of qkv.
    fn width(self) -> usize {
        self.q_width() + self.kv_width()
    }
    /// First column of a query head.
    fn q(self, head: usize) -> usize {
        head * self.head_dim
    }
    /// First column of a key head.
    fn k(self, head: usize) -> usize {
        self.q_width() + head * self.head_dim
    }
    /// First column of a value head.
    fn v(self, head: usize) -> usize {
        self.k(self.kv_heads + head)
    }

    /// Checks the scale, the heads, and that qkv is as wide as they say; returns the spec of out.
    fn infer(self, op: &'static str, qkv: Spec, scale: f64) -> Result<Spec> {
        float(op, qkv)?;
        check(op, scale > 0.0 && scale.is_finite(), || format!("scale {scale} is not a positive number"))?;
        let Layout { heads, kv_heads, head_dim } = self;
        check(op, kv_heads > 0 && heads > 0 && heads % kv_heads == 0, || {
            format!("{heads} query heads cannot share {kv_heads} key heads evenly")
        })?;
        check(op, (8..=256).contains(&head_dim) && head_dim % 8 == 0, || {
            format!("head_dim {head_dim} is not a multiple of 8 between 8 and 256")
        })?;
        check(op, qkv.dims().len() == 2 && qkv.last() == self.width(), || {
            format!("qkv {qkv} is not [tokens, ({heads} + 2 * {kv_heads}) * {head_dim}]")
        })?;
        Ok(qkv.with_last(self.q_width()))
    }
}

impl Attention {
    const NAME: &'static str = "attention";

    fn layout(&self) -> Layout {
        Layout { heads: self.heads, kv_heads: self.kv_heads, head_dim: self.head_dim }
    }

    fn setting(&self, tiles: Tiles) -> cpu::Setting {
        cpu::Setting { layout: self.layout(), causal: self.causal, scale: self.scale, tiles }
    }

    /// Checks the contents of `sequences`, which `infer` cannot see. On a plan there are none.
    fn check_sequences(&self, sequences: &Buffer, tokens: usize) -> Result<()> {
        let sequences = sequences.slice::<u32>();
        let (Some(first), Some(last)) = (sequences.first(), sequences.last()) else { return Ok(()) };
        check(Self::NAME, *first == 0 && *last as usize == tokens, || {
            format!("sequences run from {first} to {last}, not from 0 to the {tokens} tokens of qkv")
        })?;
        for (b, pair) in sequences.windows(2).enumerate() {
            check(Self::NAME, pair[0] <= pair[1] && (pair[1] - pair[0]) as usize <= self.max_len, || {
                format!(
                    "sequence {b} runs from {} to {}: not ascending, or longer than max_len {}",
                    pair[0], pair[1], self.max_len
                )
            })?;
        }
        Ok(())
    }

    fn run_forward(&self, io: &mut Forward, tiles: Tiles) -> Result<Made> {
        let (qkv, sequences) = (io.input(0), io.input(1));
        if let Kind::Gpu(gpu) = io.device().kind() {
            let (mut out, mut lse) = (io.output(0)?, io.stat(0)?);
            gpu::forward(self, gpu, [qkv, sequences], &mut out, lse.as_mut())?;
            return Ok(Made::with_stats([out], [lse]));
        }
        self.check_sequences(sequences, qkv.dims()[0])?;
        let mut out = io.output(0)?;
        let mut lse = io.stat(0)?;
        let layout = self.layout();
        let shape = cpu::forward_scratch(qkv.dtype(), layout, sequences.dims()[0] - 1, self.max_len, tiles);
        let mut scratch = io.temp(Spec::new(qkv.dtype().acc(), shape))?;
        on_cpu!(io.device(), Self::NAME, qkv.dtype(), T => {
            let (qkv, sequences) = (qkv.slice::<T>(), sequences.slice());
            let lse = lse.as_mut().map(|lse| lse.slice_mut());
            let scratch = (scratch.slice_mut(), shape[0]);
            cpu::forward(self.setting(tiles), qkv, sequences, out.slice_mut(), lse, scratch)
        });
        Ok(Made::with_stats([out], [lse]))
    }

    fn run_backward(&self, io: &mut Backward, tiles: Tiles) -> Result<()> {
        if let Kind::Gpu(gpu) = io.device().clone().kind() {
            return gpu::backward(self, gpu, io);
        }
        let (qkv, sequences, out, lse) = (io.saved(0), io.saved(1), io.saved(2), io.saved(3));
        let layout = self.layout();
        let mut dqkv = io.alloc(qkv.spec())?;
        let shape = cpu::backward_scratch(qkv.dtype(), layout, sequences.dims()[0] - 1, self.max_len, tiles);
        let mut scratch = io.temp(Spec::new(lse.dtype(), shape))?;
        on_cpu!(io.device(), Self::NAME, qkv.dtype(), T => {
            let (qkv, out) = (qkv.slice::<T>(), out.slice());
            let kept = cpu::Kept { qkv, sequences: sequences.slice(), out, lse: lse.slice() };
            let scratch = (scratch.slice_mut(), shape[0]);
            cpu::backward(self.setting(tiles), kept, io.dy().slice(), dqkv.slice_mut(), scratch)
        });
        io.give(0, dqkv)
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [qkv, sequences] = take(self.name(), ins)?;
        let out = self.layout().infer(self.name(), qkv, self.scale)?;
        let fits = sequences.dtype == DType::U32 && sequences.dims().len() == 1 && sequences.last() >= 1;
        check(self.name(), fits, || format!("sequences {sequences} is not u32[sequences + 1]"))?;
        Ok(Shapes::new([out]).stat(Spec::new(qkv.dtype.acc(), [qkv.rows(), self.heads])))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        self.run_forward(io, Tiles::BEST)
    }

    fn saves(&self, _needs: Needs) -> &'static [Slot] {
        &[Slot::In(0), Slot::In(1), Slot::Out(0), Slot::Stat(0)]
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        self.run_backward(io, Tiles::BEST)
    }

    fn differentiable(&self, input: usize) -> bool {
        input == 0
    }

    fn cost(&self, ins: &[Spec], run: Run) -> Cost {
        let products = 2 * self.pairs * self.layout().q_width() as u64;
        let (qkv, out) = (ins[0].bytes() as u64, ins[0].with_last(self.layout().q_width()).bytes() as u64);
        match run {
            Run::Forward => Cost { flops: 2 * products, bytes: qkv + out },
            Run::Backward(_) => Cost { flops: 5 * products, bytes: 2 * qkv + 2 * out },
        }
    }
}
