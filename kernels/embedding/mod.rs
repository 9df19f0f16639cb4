//! Rows of a table by id: `y[t] = table[ids[t]]`. Also takes chosen rows of an activation.
//!
//! Backward: `dtable[v] = sum over t with ids[t] = v of dy[t]`, zero where no id points.
//!
//! | | shape | type | kept for backward |
//! |---|---|---|---|
//! | table | [V, D] | T | |
//! | ids | `[T]` | u32 | yes |
//! | y | [T, D] | T | |
//!
//! Numerics: forward is exact. Backward sums the rows of an id in `T::Acc`, in an order that its positions alone
//! determine (on the CPU that of t), and rounds once into the gradient, which may be of type T or `T::Acc`. The
//! positions are sorted by id first, so each row of the gradient has one writer and needs no atomics. Cost: no flops
//! forward; one add per element of dy backward.
//! Errors: an id outside the table; shapes or types that do not fit. A GPU does not look at ids before it runs: there
//! such an id gives a row of NaN, and backward passes over it.

mod cpu;
mod gpu;

use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::op::{Backward, Cost, Forward, Made, Needs, Op, Run, Shapes, Slot, check, float, take};
use crate::{DType, Error, Result, Spec, on_cpu, real};

/// See the module.
#[derive(Debug, Clone)]
pub struct Embedding;

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [table, ids] = take(self.name(), ins)?;
        float(self.name(), table)?;
        let fits = table.dims().len() == 2 && ids.dims().len() == 1 && ids.dtype == DType::U32;
        check(self.name(), fits, || format!("takes a table [V, D] and u32 ids [T], got {table} and {ids}"))?;
        Ok(Shapes::new([table.with_dims([ids.elements(), table.last()])]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let (table, ids) = (io.input(0), io.input(1));
        let mut y = io.output(0)?;
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::forward(gpu, table, ids, &mut y)?;
            return Ok(Made::outs([y]));
        }
        on_cpu!(io.device(), self.name(), table.dtype(), T => {
            let (ids, size, width) = (ids.slice(), table.dims()[0], table.dims()[1]);
            if let Some(t) = ids.iter().position(|&id| id as usize >= size) {
                let message = format!("id {} at position {t} is outside the table {}", ids[t], table.spec());
                return Err(Error::shape(self.name(), message));
            }
            cpu::forward::<T>(table.slice(), ids, width, y.slice_mut())
        });
        Ok(Made::outs([y]))
    }

    fn saves(&self, _needs: Needs) -> &'static [Slot] {
        &[Slot::In(1)]
    }

    fn differentiable(&self, input: usize) -> bool {
        input == 0
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        if !io.wants(0) {
            return Ok(());
        }
        if let Kind::Gpu(gpu) = io.device().clone().kind() {
            return gpu::backward(gpu, io);
        }
        let (mut dtable, add) = io.accumulator(0)?;
        let (ids, dy) = (io.saved(0), io.dy());
        let [size, width] = [dtable.dims()[0], dtable.dims()[1]];
        let mut starts = io.temp(Spec::new(DType::U32, [size + 1]))?;
        let mut order = io.temp(ids.spec())?;
        on_cpu!(io.device(), self.name(), dy.dtype(), T => {
            cpu::bucket(ids.slice(), starts.slice_mut(), order.slice_mut());
            let buckets = cpu::Buckets { starts: starts.slice(), order: order.slice() };
            real!(dtable.dtype(), S => {
                cpu::backward::<T, S>(&buckets, dy.slice(), width, add, dtable.slice_mut())
            })
        });
        io.give(0, dtable)
    }

    fn cost(&self, ins: &[Spec], run: Run) -> Cost {
        let [table, ids] = [ins[0], ins[1]];
        let taken = ids.elements() * table.last();
        match run {
            Run::Forward => Cost { flops: 0, bytes: (ids.bytes() + 2 * taken * table.dtype.size()) as u64 },
            Run::Backward(_) => Cost {
                flops: taken as u64,
                bytes: (ids.bytes()
                    + taken * table.dtype.size()
                    + table.elements() * table.dtype.acc().size()) as u64,
            },
        }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "embedding",
    summary: "y = rows of a table by id",
    passes: "forward, backward",
    programs: &[gpu::SOURCE],
    cases: || {
        let case = |name: &str, size: usize, width: usize, tokens: usize| {
            let ids = Input::ids([tokens], size as u32);
            Case::check(name, Embedding, [Input::normal([size, width]), ids])
        };
        vec![
            case("repeated ids", 5, 3, 11),
            case("mostly unused", 37, 4, 3),
            case("no token", 4, 3, 0),
            Case::check(
                "one id, wide",
                Embedding,
                [Input::normal([2, 70]), Input::u32([257], std::iter::repeat_n(1, 257))],
            ),
            Case::parity(
                "half of 600 tokens are one id",
                Embedding,
                [
                    Input::normal([301, 131]),
                    Input::u32([600], (0..600).map(|t| if t % 2 == 0 { 7 } else { t / 2 })),
                ],
            ),
            Case::parity(
                "vectors, one id often",
                Embedding,
                [
                    Input::normal([19, 320]),
                    Input::u32([150], (0..150).map(|t| if t % 3 == 0 { t / 3 % 19 } else { 11 })),
                ],
            ),
            Case::check(
                "32 of the last id",
                Embedding,
                [Input::normal([5, 12]), Input::u32([40], (0..40).map(|t| if t < 8 { t % 4 } else { 4 }))],
            ),
            // The grid counts in vectors, of which there are more here: a block has several chunks of columns.
            Case::parity(
                "off a boundary, one id often",
                Embedding,
                [
                    Input::normal([19, 320]),
                    Input::u32([70], (0..70).map(|t| if t % 3 == 0 { t % 19 } else { 11 })),
                ],
            )
            .off_boundary(),
            Case::bench(
                "2048 of 32000x4096",
                Embedding,
                [Input::normal([32000, 4096]), Input::ids([2048], 32000)],
            ),
        ]
    },
};
