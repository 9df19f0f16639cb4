//! The largest values of each row and where they are: what sampling needs of logits. With k = 1 the arg max.
//!
//! | | shape | type |
//! |---|---|---|
//! | x | [rows.., width] | T |
//! | values | [rows, k], the largest first | T::Acc |
//! | ids | [rows, k], the columns of these | u32 |
//!
//! Only the first `columns` of a row take part: a table of logits may have rows that no piece of the vocabulary has.
//!
//! Order: of equal values that of the lower column comes first; +0 and -0 are equal, and both are given as +0; NaN comes
//! behind everything else, behind -infinity. The CPU and a GPU give the same, bit for bit, but for the bits of a NaN.
//! Numerics: values are widened, which is exact. Cost: one comparison and one read per value. No gradient.
//! Errors: k is 0, above [`MOST`] or above `columns`; `columns` is more than a row has.

mod cpu;
mod gpu;

pub use cpu::order;

use crate::check::{Case, Entry, Fill, Input, Of, Random};
use crate::device::Kind;
use crate::op::{Cost, Forward, Made, Op, Run, Shapes, check, float, take};
use crate::{DType, Result, Spec, on_cpu};

/// The largest k.
pub const MOST: usize = 256;

/// See the module.
#[derive(Debug, Clone)]
pub struct TopK {
    /// How many of each row.
    pub k: usize,
    /// How many columns take part.
    pub columns: usize,
}

impl Op for TopK {
    fn name(&self) -> &'static str {
        "top_k"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x] = take(self.name(), ins)?;
        float(self.name(), x)?;
        let TopK { k, columns } = *self;
        let fits = (1..=MOST.min(columns)).contains(&k) && !x.dims().is_empty() && columns <= x.last();
        check(self.name(), fits, || {
            format!("cannot give the {k} largest of the first {columns} columns of {x}: at most {MOST}")
        })?;
        let dims = [x.rows(), k];
        Ok(Shapes::new([Spec::new(x.dtype.acc(), dims), Spec::new(DType::U32, dims)]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let x = io.input(0);
        let (mut values, mut ids) = (io.output(0)?, io.output(1)?);
        if let Kind::Gpu(gpu) = io.device().kind() {
            gpu::forward(gpu, x, self.columns, self.k, &mut values, &mut ids)?;
            return Ok(Made::outs([values, ids]));
        }
        on_cpu!(io.device(), self.name(), x.dtype(), T => {
            let sizes = [x.spec().last(), self.columns, self.k];
            cpu::forward::<T>(x.slice(), sizes, values.slice_mut(), ids.slice_mut())
        });
        Ok(Made::outs([values, ids]))
    }

    fn differentiable(&self, _input: usize) -> bool {
        false
    }

    fn cost(&self, ins: &[Spec], _run: Run) -> Cost {
        let values = (ins[0].rows() * self.columns) as u64;
        Cost { flops: values, bytes: values * ins[0].dtype.size() as u64 }
    }
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "top_k",
    summary: "the k largest of each row and their columns",
    passes: "forward",
    programs: &[gpu::SOURCE],
    cases: || {
        let of = |rows: usize, width: usize, values: &dyn Fn(usize) -> f64| Input {
            dims: vec![rows, width],
            of: Of::T,
            fill: Fill::Values((0..rows * width).map(values).collect()),
        };
        let normal = |rows, width| [Input::normal([rows, width])];
        // Few different values, so that most are equal to others.
        let ties = |rows, width| [of(rows, width, &|i| (i * 7919 % 5) as f64 - 2.0)];
        // Every third a NaN, an infinity here and there.
        let odd = |rows, width| {
            let mut random = Random::new(3);
            let values: Vec<f64> = (0..rows * width)
                .map(|i| match i % 30 {
                    4 => f64::NEG_INFINITY,
                    26 => f64::INFINITY,
                    n if n % 3 == 0 => f64::NAN,
                    _ => random.normal(),
                })
                .collect();
            [Input { dims: vec![rows, width], of: Of::T, fill: Fill::Values(values) }]
        };
        // The columns that take no part hold the largest.
        let cut = |rows: usize, width: usize, columns: usize| {
            [of(rows, width, &|i| if i % width < columns { (i * 31 % 97) as f64 } else { 1e3 })]
        };
        let top = |k, columns| TopK { k, columns };
        vec![
            Case::check("one of one", top(1, 1), normal(1, 1)),
            Case::check("one, odd width", top(1, 67), normal(5, 67)),
            Case::check("all of a row, with ties", top(24, 24), ties(3, 24)),
            Case::parity("one, several vectors", top(1, 5000), normal(3, 5000)),
            Case::parity("one, ties", top(1, 5000), ties(2, 5000)),
            Case::parity("one, some columns", top(1, 4990), cut(2, 5000, 4990)),
            Case::parity("one, NaN and infinities", top(1, 1000), odd(2, 1000)),
            Case::parity("50 of 1000", top(50, 1000), normal(3, 1000)),
            Case::parity("256 of 256", top(256, 256), normal(2, 256)),
            Case::parity("as many as there is room for", top(7, 2048), normal(1, 2048)),
            Case::parity("some columns", top(40, 2997), cut(2, 3000, 2997)),
            Case::parity("NaN and infinities", top(60, 1200), odd(2, 1200)),
            Case::parity("several batches", top(256, 40000), normal(1, 40000)),
            Case::parity("several batches, odd width", top(50, 9001), normal(1, 9001)),
            Case::parity("several batches, off a boundary", top(3, 8200), normal(1, 8200)).off_boundary(),
            Case::parity("equal values", top(200, 9000), ties(2, 9000)),
            Case::parity("rising", top(256, 20000), [of(1, 20000, &|i| i as f64)]),
            Case::parity("falling", top(256, 20000), [of(1, 20000, &|i| -(i as f64))]),
            Case::bench("1 of 8x32000", top(1, 32000), normal(8, 32000)),
            Case::bench("50 of 8x32000", top(50, 32000), normal(8, 32000)),
        ]
    },
};
