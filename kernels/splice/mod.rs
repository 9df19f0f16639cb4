//! Puts feature rows in the place of others: `y[rows[f]] = features[f]`, every other row of y is that of x.
//!
//! How image features enter a sequence of token embeddings: `rows` are the places of the image's placeholder tokens.
//! Backward: `dx = dy` with those rows zero, `dfeatures[f] = dy[rows[f]]`.
//!
//! | | shape | type | kept for backward |
//! |---|---|---|---|
//! | x | [T, D] | T | |
//! | features | [F, D] | T | |
//! | rows | `[F]`, distinct | u32 | yes |
//! | y | [T, D], in x's own bytes | T | |
//!
//! F may be 0: a text without an image. Exact; no flops.
//! Errors: a row outside x or named twice; shapes or types that do not fit. A GPU does not look at rows before it
//! runs: there a feature whose row is outside x goes nowhere and has a gradient of NaN, and of features that name one
//! row either may win, value by value.

mod cpu;
mod gpu;

use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::op::{Backward, Cost, Forward, Made, Needs, Op, Run, Shapes, Slot, check, float, take};
use crate::{DType, Error, Result, Spec, on_cpu};

/// See the module.
#[derive(Debug, Clone)]
pub struct Splice;

impl Op for Splice {
    fn name(&self) -> &'static str {
        "splice"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x, features, rows] = take(self.name(), ins)?;
        float(self.name(), x)?;
        let fits = x.dims().len() == 2
            && features == x.with_dims([rows.elements(), x.last()])
            && rows.dims().len() == 1
            && rows.dtype == DType::U32;
        check(self.name(), fits, || {
            format!("takes x [T, D], features [F, D] and u32 rows [F], got {x}, {features} and {rows}")
        })?;
        Ok(Shapes::new([x]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let mut y = io.reuse(0)?;
        let (features, rows) = (io.input(1), io.input(2));
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::forward(gpu, features, rows, &mut y)?;
            return Ok(Made::outs([y]));
        }
        let [tokens, width] = [y.dims()[0], y.dims()[1]];
        let mut source = io.temp(Spec::new(DType::U32, [tokens]))?;
        on_cpu!(io.device(), self.name(), features.dtype(), T => {
            if let Err(f) = cpu::invert(rows.slice(), source.slice_mut()) {
                let row = rows.slice::<u32>()[f];
                let problem = if row as usize >= tokens { "is outside" } else { "comes twice in" };
                let message = format!("row {row} of feature {f} {problem} {}", y.spec());
                return Err(Error::shape(self.name(), message));
            }
            cpu::forward::<T>(features.slice(), source.slice(), width, y.slice_mut())
        });
        Ok(Made::outs([y]))
    }

    fn saves(&self, _needs: Needs) -> &'static [Slot] {
        &[Slot::In(2)]
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        if let Kind::Gpu(gpu) = io.device().clone().kind() {
            return gpu::backward(gpu, io);
        }
        let [tokens, width] = [io.spec(0).dims()[0], io.spec(0).dims()[1]];
        if io.wants(1) {
            let mut dfeatures = io.alloc(io.spec(1))?;
            let (rows, dy) = (io.saved(0), io.dy());
            on_cpu!(io.device(), self.name(), dy.dtype(), T => {
                cpu::gather::<T>(dy.slice(), rows.slice(), width, dfeatures.slice_mut())
            });
            io.give(1, dfeatures)?;
        }
        if io.wants(0) {
            let mut dx = io.reuse_dout(0)?.expect("backward runs with its gradient");
            let mut source = io.temp(Spec::new(DType::U32, [tokens]))?;
            on_cpu!(io.device(), self.name(), dx.dtype(), T => {
                let distinct = cpu::invert(io.saved(0).slice(), source.slice_mut());
                assert!(distinct.is_ok(), "forward checked the rows");
                cpu::clear::<T>(source.slice(), width, dx.slice_mut())
            });
            io.give(0, dx)?;
        }
        Ok(())
    }

    fn cost(&self, ins: &[Spec], run: Run) -> Cost {
        let [features, rows] = [ins[1].bytes() as u64, ins[2].bytes() as u64];
        match run {
            Run::Forward => Cost { flops: 0, bytes: 2 * features + rows },
            Run::Backward(needs) => {
                let [dx, dfeatures] = [needs.has(0) as u64, needs.has(1) as u64];
                Cost { flops: 0, bytes: (dx + 2 * dfeatures) * features + rows }
            }
        }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "splice",
    summary: "y = x with some rows replaced by features",
    passes: "forward, backward",
    programs: &[gpu::SOURCE],
    cases: || {
        let case = |name: &str, tokens: usize, rows: &[u32]| {
            let (x, features) = (Input::normal([tokens, 5]), Input::normal([rows.len(), 5]));
            Case::check(name, Splice, [x, features, Input::u32([rows.len()], rows.iter().copied())])
        };
        let places = (0..576).map(|f| f + 35);
        vec![
            case("two runs", 9, &[1, 2, 6, 7]),
            case("any order", 6, &[5, 0, 3]),
            case("every row", 3, &[0, 1, 2]),
            case("no image", 4, &[]),
            Case::parity(
                "257 into 600x131",
                Splice,
                [Input::normal([600, 131]), Input::normal([257, 131]), Input::u32([257], (35..292).rev())],
            ),
            Case::parity(
                "vectors, any order",
                Splice,
                [Input::normal([70, 1320]), Input::normal([3, 1320]), Input::u32([3], [69, 0, 35])],
            ),
            Case::bench(
                "576 into 2048x4096",
                Splice,
                [Input::normal([2048, 4096]), Input::normal([576, 4096]), Input::u32([576], places)],
            ),
        ]
    },
};
