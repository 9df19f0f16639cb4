//! Dropout: `y = x * m / (1 - p)`, each m independently 0 with probability p and 1 otherwise.
//!
//! Srivastava et al., *Dropout* (2014), scaled in training so that inference needs nothing. Backward is the same map:
//! `dx = dy * m / (1 - p)`. The mask is not kept: m of row t, column c is a function of (seed, keys\[t\], c) through
//! [`crate::random`], so forward, backward and a recomputation agree. The key says which row it is, as sample and
//! position do: a sample drops the same elements alone, in a batch and in a pack. The seed says which use it is
//! (step, layer): two dropouts of one model must not share a seed.
//!
//! | | shape | type | kept for backward |
//! |---|---|---|---|
//! | x | [rows.., W] | T | |
//! | keys | `[rows]` | u32 | yes |
//! | y | as x | T | |
//!
//! In place: y takes the place of x, dx that of dy. Numerics: p is rounded up to a multiple of 2^-32; the product is
//! rounded once. Cost: about 30 integer operations per element; one read, one write.
//! Errors: p is not in [0, 1); there is not one key per row.

mod cpu;
mod gpu;

use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::op::{Backward, Cost, Forward, Made, Needs, Op, Run, Shapes, Slot, check, float, take};
use crate::random::{DROPOUT, philox, words};
use crate::{Buffer, DType, Error, Result, Spec, on_cpu};

/// See the module.
#[derive(Debug, Clone)]
pub struct Dropout {
    /// The probability that an element is dropped, in [0, 1).
    pub p: f64,
    /// What the mask is a function of, besides the row's key and the column.
    pub seed: u64,
}

impl Dropout {
    fn apply(&self, x: &mut Buffer, keys: &Buffer) -> Result<()> {
        // An element is dropped if its 32 random bits are below this: never at p = 0, and never all (p < 1).
        let threshold = (self.p * 2f64.powi(32)).ceil().min(u32::MAX as f64) as u32;
        let (device, width) = (x.device().clone(), x.spec().last());
        if let Kind::Gpu(gpu) = device.kind() {
            return gpu::apply(gpu, self, threshold, x, keys);
        }
        on_cpu!(device, self.name(), x.dtype(), T => {
            let scale = 1.0 / (1.0 - self.p);
            cpu::apply::<T>(width, threshold, scale, self.seed, x.slice_mut(), keys.slice())
        });
        Ok(())
    }
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x, keys] = take(self.name(), ins)?;
        float(self.name(), x)?;
        if keys.dtype != DType::U32 {
            return Err(Error::DType { op: self.name(), expected: "u32 keys", got: keys.dtype });
        }
        let fits = keys.dims() == [x.rows()];
        check(self.name(), fits, || format!("keys {keys} are not one per row of x {x}"))?;
        check(self.name(), (0.0..1.0).contains(&self.p), || {
            format!("the probability p = {} is not in [0, 1)", self.p)
        })?;
        Ok(Shapes::new([x]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let mut y = io.reuse(0)?;
        self.apply(&mut y, io.input(1))?;
        Ok(Made::outs([y]))
    }

    fn saves(&self, _needs: Needs) -> &'static [Slot] {
        &[Slot::In(1)]
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        let mut d = io.reuse_dout(0)?.expect("backward runs with its gradient");
        self.apply(&mut d, io.saved(0))?;
        io.give(0, d)
    }

    fn differentiable(&self, input: usize) -> bool {
        input == 0
    }

    fn cost(&self, ins: &[Spec], _run: Run) -> Cost {
        Cost { flops: ins[0].elements() as u64, bytes: 2 * ins[0].bytes() as u64 }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "dropout",
    summary: "y = x * random mask / (1 - p), the mask a function of seed, row key and column",
    passes: "forward, backward",
    programs: &[gpu::SOURCE],
    cases: || {
        let case = |name: &str, p, rows: usize, width: usize| {
            let keys = Input::u32([rows], (0..rows as u32).map(|t| t * t));
            Case::check(name, Dropout { p, seed: 7 }, [Input::normal([rows, width]), keys])
        };
        // The word of the first element is the threshold, and not below it: the element is kept.
        let word = philox([0, 5, 0, DROPOUT], words(7))[0];
        let exact = Dropout { p: f64::from(word) * 2f64.powi(-32), seed: 7 };
        vec![
            Case::check("a word equal to p", exact, [Input::normal([1, 9]), Input::u32([1], [5])]),
            case("one row", 0.5, 1, 9),
            case("beyond 64 columns", 0.1, 3, 67),
            case("p = 0", 0.0, 2, 5),
            case("whole vectors", 0.3, 3, 40),
            Case::parity(
                "one long row",
                Dropout { p: 0.1, seed: u64::MAX / 3 },
                [Input::normal([1, 40_001]), Input::u32([1], [u32::MAX])],
            ),
            Case::parity(
                "700x131",
                Dropout { p: 0.1, seed: 7 },
                [Input::normal([700, 131]), Input::u32([700], 0..700)],
            ),
            Case::bench(
                "p = 0.1, 2048x4096",
                Dropout { p: 0.1, seed: 7 },
                [Input::normal([2048, 4096]), Input::u32([2048], 0..2048)],
            ),
        ]
    },
};
