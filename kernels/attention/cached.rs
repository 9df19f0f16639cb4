//! Attention of new rows to a cache of keys and values, for generation.

use super::cpu::{self, Tiles};
use super::{Layout, gpu};
use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::op::{Cost, Forward, Made, Op, Run, Shapes, check, take};
use crate::{DType, Result, Spec, on_cpu};

/// Causal attention of rows of q to the keys and values in a cache, which `KvAppend` put there.
///
/// | | shape | type |
/// |---|---|---|
/// | qkv | [T, (heads + 2 kv_heads) head_dim], of which only the q part is read | T |
/// | cache | [slots, capacity, 2 kv_heads head_dim]: a row is all k heads, all v heads | T |
/// | slots | `[T]`: the slot of each row | u32 |
/// | positions | `[T]`: the row sees keys `0..=position` of its slot | u32 |
/// | out | [T, heads head_dim] | T |
///
/// The result has the bits that [`Attention`](super::Attention) gives for the same row in its whole sequence. Rows
/// that follow each other in a slot share the work of a tile; no order of rows is required.
///
/// On a GPU the bits are the same whatever else is in the batch, as long as there are fewer than eight rows per slot of
/// the cache; with more, which share tiles in bf16, they are others, as they are in the whole sequence. Contents are
/// not checked there: a row whose slot or position is beyond the cache or `max_len` gives NaN.
///
/// It has no gradient. Errors: shapes that do not fit, a slot that the cache has not, a position beyond its
/// capacity or `max_len`.
#[derive(Debug, Clone)]
pub struct CachedAttention {
    /// Heads of queries, a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and of values.
    pub kv_heads: usize,
    /// Width of a head: a multiple of 8 up to 256.
    pub head_dim: usize,
    /// What scores are multiplied by, 1 / sqrt(head_dim) as a rule; positive.
    pub scale: f64,
    /// The most keys a row sees.
    pub max_len: usize,
    /// Keys seen, summed over the rows: for the cost.
    pub pairs: u64,
}

impl CachedAttention {
    fn layout(&self) -> Layout {
        Layout { heads: self.heads, kv_heads: self.kv_heads, head_dim: self.head_dim }
    }
}

impl Op for CachedAttention {
    fn name(&self) -> &'static str {
        "cached_attention"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [qkv, cache, slots, positions] = take(self.name(), ins)?;
        let layout = self.layout();
        let out = layout.infer(self.name(), qkv, self.scale)?;
        let fits = cache.dims().len() == 3 && cache.last() == layout.kv_width() && cache.dtype == qkv.dtype;
        check(self.name(), fits, || {
            format!("cache {cache} is not {}[slots, capacity, {}]", qkv.dtype, layout.kv_width())
        })?;
        let rows = Spec::new(DType::U32, [qkv.rows()]);
        check(self.name(), slots == rows && positions == rows, || {
            format!("slots {slots} and positions {positions} are not both {rows}")
        })?;
        Ok(Shapes::new([out]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let (qkv, cache) = (io.input(0), io.input(1));
        if let Kind::Gpu(gpu) = io.device().kind() {
            let mut out = io.output(0)?;
            let ins = gpu::Cached { qkv, cache, slots: io.input(2), positions: io.input(3) };
            gpu::cached(self, gpu, io, &ins, &mut out)?;
            return Ok(Made::outs([out]));
        }
        let (slots, positions) = (io.input(2).slice::<u32>(), io.input(3).slice::<u32>());
        let (count, capacity) = (cache.dims()[0], cache.dims()[1]);
        for (row, (&slot, &position)) in slots.iter().zip(positions).enumerate() {
            let fits = (slot as usize) < count && (position as usize) < capacity.min(self.max_len);
            check(self.name(), fits, || {
                format!(
                    "row {row} reads position {position} of slot {slot}, but the cache is {} and max_len {}",
                    cache.spec(),
                    self.max_len
                )
            })?;
        }
        let mut out = io.output(0)?;
        let layout = self.layout();
        let setting = cpu::Setting { layout, causal: true, scale: self.scale, tiles: Tiles::BEST };
        let shape = cpu::forward_scratch(qkv.dtype(), layout, qkv.dims()[0], self.max_len, setting.tiles);
        let mut scratch = io.temp(Spec::new(qkv.dtype().acc(), shape))?;
        on_cpu!(io.device(), self.name(), qkv.dtype(), T => {
            let cache = cpu::Cache { rows: cache.slice::<T>(), capacity };
            let scratch = (scratch.slice_mut(), shape[0]);
            cpu::cached(setting, qkv.slice(), cache, (slots, positions), out.slice_mut(), scratch)
        });
        Ok(Made::outs([out]))
    }

    fn differentiable(&self, _input: usize) -> bool {
        false
    }

    fn cost(&self, ins: &[Spec], _run: Run) -> Cost {
        let layout = self.layout();
        let out = ins[0].with_last(layout.q_width()).bytes() as u64;
        let keys = self.pairs * (layout.kv_width() * ins[1].dtype.size()) as u64;
        Cost { flops: 4 * self.pairs * layout.q_width() as u64, bytes: 2 * out + keys }
    }
}

/// The catalogue row.
pub const CACHED_ENTRY: Entry = Entry {
    name: "cached_attention",
    summary: "attention of new rows to cached keys and values",
    passes: "forward",
    programs: &gpu::CACHED_PROGRAMS,
    cases: || {
        let case = |heads: usize, kv_heads: usize, head_dim: usize, shape: [usize; 2], rows: &[[u32; 2]]| {
            let op = CachedAttention {
                heads,
                kv_heads,
                head_dim,
                scale: (head_dim as f64).powf(-0.5),
                max_len: shape[1],
                pairs: rows.iter().map(|r| r[1] as u64 + 1).sum(),
            };
            let ins = [
                Input::normal([rows.len(), (heads + 2 * kv_heads) * head_dim]),
                Input::normal([shape[0], shape[1], 2 * kv_heads * head_dim]),
                Input::u32([rows.len()], rows.iter().map(|r| r[0])),
                Input::u32([rows.len()], rows.iter().map(|r| r[1])),
            ];
            (op, ins)
        };
        let check = |name: &str, (op, ins): (CachedAttention, [Input; 4])| Case::check(name, op, ins);
        let parity = |name: &str, (op, ins): (CachedAttention, [Input; 4])| Case::parity(name, op, ins);
        let decode: Vec<[u32; 2]> = (0..8).map(|slot| [slot, 319]).collect();
        let (op, ins) = case(8, 8, 64, [8, 320], &decode);
        let prefill: Vec<[u32; 2]> = (0..150).map(|i| [1, i]).chain([[0, 199], [0, 3]]).collect();
        let (large, large_ins) = case(4, 2, 24, [2, 200], &prefill);
        vec![
            check("1 row", case(2, 1, 8, [3, 5], &[[1, 0]])),
            check(
                "rows of two slots, out of order",
                case(2, 2, 16, [2, 70], &[[0, 65], [1, 3], [1, 4], [0, 64]]),
            ),
            Case::parity("prefill of 150 rows beside single ones", large, large_ins),
            parity("one row, several chunks", case(2, 2, 64, [2, 300], &[[1, 290]])),
            parity("six heads share keys", case(6, 1, 80, [2, 140], &[[0, 139], [1, 5]])),
            parity("head_dim 256", case(2, 1, 256, [3, 130], &[[2, 129], [0, 0]])),
            parity(
                "prefill, head_dim 64",
                case(2, 2, 64, [1, 140], &(0..140).map(|i| [0, i]).collect::<Vec<_>>()),
            ),
            parity(
                "many slots in one tile",
                case(1, 1, 8, [2, 90], &(0..20).map(|i| [i % 2, i * 4]).collect::<Vec<_>>()),
            ),
            Case::bench("decode 8 x 320 keys, 8 heads of 64", op, ins),
        ]
    },
};
