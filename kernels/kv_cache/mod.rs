//! Appending to the cache of keys and values: the k and v parts of new rows of qkv are copied to given rows of the
//! cache, in place.
//!
//! | | shape | type |
//! |---|---|---|
//! | cache | [slots, capacity, 2 kv_heads head_dim]: a row is all k heads, all v heads | T |
//! | qkv | [T, q width + 2 kv_heads head_dim]: k and v are the last columns of a row | T |
//! | rows | `[T]`: slot * capacity + position, where each row goes | u32 |
//! | result | the cache, updated | T |
//!
//! The bits are copied as they are. Where two rows have one place, the later wins. Cost: no flops, one read and one
//! write of the copied columns. It has no gradient. Errors: shapes that do not fit; a row outside the cache, which
//! is then unchanged; a cache that something else holds. A GPU does not look at rows before it runs: there one outside
//! the cache is written nowhere, and of two that have one place either may win, value by value.

mod gpu;

use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::op::{Cost, Forward, Made, Op, Run, Shapes, check, float, take};
use crate::{DType, Result, Spec, on_cpu};

/// See the module.
#[derive(Debug, Clone)]
pub struct KvAppend {
    /// Heads of keys and of values.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl Op for KvAppend {
    fn name(&self) -> &'static str {
        "kv_cache"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [cache, qkv, rows] = take(self.name(), ins)?;
        float(self.name(), cache)?;
        let width = 2 * self.kv_heads * self.head_dim;
        check(self.name(), cache.dims().len() == 3 && cache.last() == width && width > 0, || {
            format!("cache {cache} is not [slots, capacity, 2 * {} * {}]", self.kv_heads, self.head_dim)
        })?;
        let fits = qkv.dims().len() == 2 && qkv.last() >= width && qkv.dtype == cache.dtype;
        check(self.name(), fits, || format!("qkv {qkv} has no columns for cache {cache}"))?;
        check(self.name(), rows == Spec::new(DType::U32, [qkv.rows()]), || {
            format!("rows {rows} is not one u32 for each row of qkv {qkv}")
        })?;
        Ok(Shapes::new([cache]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let spec = io.input(0).spec();
        if let Kind::Gpu(gpu) = io.device().clone().kind() {
            let mut cache = io.update(0)?;
            gpu::append(gpu, &mut cache, io.input(1), io.input(2))?;
            return Ok(Made::outs([cache]));
        }
        let room = spec.rows();
        for (i, &row) in io.input(2).slice::<u32>().iter().enumerate() {
            check(self.name(), (row as usize) < room, || {
                format!("row {i} goes to row {row}, but cache {spec} has {room}")
            })?;
        }
        let mut cache = io.update(0)?;
        let (qkv, rows) = (io.input(1), io.input(2));
        on_cpu!(io.device(), self.name(), qkv.dtype(), T => {
            let (cache, width) = (cache.slice_mut::<T>(), spec.last());
            for (qkv, &row) in qkv.slice::<T>().chunks_exact(qkv.spec().last()).zip(rows.slice::<u32>()) {
                cache[row as usize * width..][..width].copy_from_slice(&qkv[qkv.len() - width..]);
            }
        });
        Ok(Made::outs([cache]))
    }

    fn differentiable(&self, _input: usize) -> bool {
        false
    }

    fn cost(&self, ins: &[Spec], _run: Run) -> Cost {
        Cost { flops: 0, bytes: 2 * ins[1].with_last(ins[0].last()).bytes() as u64 }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "kv_cache",
    summary: "new keys and values into the cache, in place",
    passes: "update",
    programs: &[gpu::SOURCE],
    cases: || {
        let case = |[slots, capacity, kv_heads, head_dim]: [usize; 4], heads: usize, rows: Vec<u32>| {
            let width = (heads + 2 * kv_heads) * head_dim;
            let cache = Input::normal([slots, capacity, 2 * kv_heads * head_dim]);
            let n = rows.len();
            (KvAppend { kv_heads, head_dim }, [cache, Input::normal([n, width]), Input::u32([n], rows)])
        };
        let (one, ins) = case([1, 1, 1, 8], 1, vec![0]);
        let (some, some_ins) = case([2, 5, 1, 8], 3, vec![9, 0, 4]);
        let (large, large_ins) = case([3, 150, 2, 24], 4, (150..300).chain([0, 449]).collect());
        let (odd, odd_ins) = case([2, 9, 1, 3], 2, vec![17, 2]);
        let (bench, bench_ins) = case([8, 320, 8, 64], 8, (0..8).map(|slot| slot * 320 + 319).collect());
        vec![
            Case::check("1 row", one, ins),
            Case::check("rows out of order", some, some_ins),
            Case::parity("prefill of 150 rows beside single ones", large, large_ins),
            Case::check("odd width", odd, odd_ins),
            Case::bench("decode 8 rows, 8 heads of 64", bench, bench_ins),
        ]
    },
};
