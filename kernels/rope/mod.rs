//! Rotary position embedding of the query and key heads in packed rows `[q heads | k heads | v heads]`, in place.
//!
//! Su et al., *RoFormer* (2021), equation 34, in the half-rotation form that Hugging Face, Megatron and NeMo share:
//! dimension i of a head is paired with i + rotary_dim / 2. At position m, with angle a_i = m theta^(-2i/rotary_dim):
//!
//! ```text
//! y[i]     = x[i] cos a_i - x[i + d] sin a_i
//! y[i + d] = x[i + d] cos a_i + x[i] sin a_i          i < d = rotary_dim / 2
//! ```
//!
//! Dimensions from rotary_dim on, and the v heads, stay as they are. Backward rotates dy by -a: the rotation is
//! orthogonal.
//!
//! | | shape | type | kept for backward |
//! |---|---|---|---|
//! | x | [rows.., (heads + 2 kv_heads) head_dim] | T | |
//! | table | [rows, rotary_dim], row = cosines, then sines; see [`table()`] | T::Acc | yes |
//! | y | as x | T | |
//!
//! Numerics: in `T::Acc`, rounded once. Cost: 3 flops per rotated element; one read, one write of these.
//! Errors: the width is not that of the heads; rotary_dim is odd, 0 or beyond head_dim; the table does not match.

mod cpu;
mod gpu;

use crate::check::{Case, Entry, Input};
use crate::device::Kind;
use crate::op::{Backward, Cost, Forward, Made, Needs, Op, Run, Shapes, Slot, check, float, take};
use crate::{Buffer, Result, Spec, on_cpu};

/// See the module.
#[derive(Debug, Clone)]
pub struct Rope {
    /// How many query heads.
    pub heads: usize,
    /// How many key heads, and how many value heads.
    pub kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// How many dimensions of each head are rotated, the first ones; even.
    pub rotary_dim: usize,
}

impl Rope {
    /// The width of a packed row.
    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn rotate(&self, x: &mut Buffer, table: &Buffer, back: bool) -> Result<()> {
        let device = x.device().clone();
        if let Kind::Gpu(gpu) = device.kind() {
            return gpu::rotate(gpu, self, x, table, back);
        }
        on_cpu!(device, self.name(), x.dtype(), T => cpu::rotate::<T>(self, x.slice_mut(), table.slice(), back));
        Ok(())
    }
}

impl Op for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let [x, table] = take(self.name(), ins)?;
        float(self.name(), x)?;
        let Rope { heads, kv_heads, head_dim, rotary_dim } = *self;
        check(self.name(), x.last() == self.width(), || {
            format!("{x} is not ({heads} + 2 x {kv_heads} heads) x {head_dim} = {} wide", self.width())
        })?;
        let pairs = rotary_dim > 0 && rotary_dim.is_multiple_of(2) && rotary_dim <= head_dim;
        check(self.name(), pairs, || {
            format!("rotary_dim {rotary_dim} is not an even number from 2 to head_dim {head_dim}")
        })?;
        let wanted = Spec::new(x.dtype.acc(), [x.rows(), rotary_dim]);
        check(self.name(), table == wanted, || format!("table {table} is not {wanted}, as x {x} needs"))?;
        Ok(Shapes::new([x]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let mut y = io.reuse(0)?;
        self.rotate(&mut y, io.input(1), false)?;
        Ok(Made::outs([y]))
    }

    fn saves(&self, _needs: Needs) -> &'static [Slot] {
        &[Slot::In(1)]
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        let mut d = io.reuse_dout(0)?.expect("backward runs with its gradient");
        self.rotate(&mut d, io.saved(0), true)?;
        io.give(0, d)
    }

    fn differentiable(&self, input: usize) -> bool {
        input == 0
    }

    fn cost(&self, ins: &[Spec], _run: Run) -> Cost {
        let rotated = ins[0].rows() * (self.heads + self.kv_heads) * self.rotary_dim;
        Cost { flops: 3 * rotated as u64, bytes: (2 * rotated * ins[0].dtype.size() + ins[1].bytes()) as u64 }
    }
}

/// The table for rows at these positions: [positions, rotary_dim], each row rotary_dim / 2 cosines, then the sines.
///
/// `theta` is the base of the frequencies, and `interpolation` the factor by which positions are squeezed to reach
/// beyond the trained length (Chen et al., *Position Interpolation*, 2023; 1 for none). Frequencies and angles are
/// rounded to f32 at each step as Hugging Face transformers does, since at position 4,000 one rounding of a frequency
/// turns by 1e-4.
pub fn table(positions: &[u32], rotary_dim: usize, theta: f64, interpolation: f64) -> Vec<f32> {
    let half = rotary_dim / 2;
    let frequencies: Vec<f32> = (0..half)
        .map(|i| {
            let exponent = (2 * i) as f32 / rotary_dim as f32;
            let power = theta.powf(exponent as f64) as f32;
            1.0 / power / interpolation as f32
        })
        .collect();
    let mut table = Vec::with_capacity(positions.len() * 2 * half);
    for &position in positions {
        let angle = |f: &f32| position as f32 * f;
        table.extend(frequencies.iter().map(|f| angle(f).cos()));
        table.extend(frequencies.iter().map(|f| angle(f).sin()));
    }
    table
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "rope",
    summary: "rotary position embedding of q and k in packed qkv, in place",
    passes: "forward, backward",
    programs: &[gpu::SOURCE],
    cases: || {
        let ins = |rope: &Rope, positions: std::ops::Range<u32>| {
            let rows = positions.len();
            let positions: Vec<u32> = positions.collect();
            let table = table(&positions, rope.rotary_dim, 1e4, 1.0);
            let table = Input::acc([rows, rope.rotary_dim], table.into_iter().map(f64::from));
            [Input::normal([rows, rope.width()]), table]
        };
        let case = |name: &str, rope: Rope, positions| {
            let ins = ins(&rope, positions);
            Case::check(name, rope, ins)
        };
        let grouped = Rope { heads: 4, kv_heads: 2, head_dim: 24, rotary_dim: 12 };
        let grouped_ins = ins(&grouped, 0..577);
        let model = Rope { heads: 2, kv_heads: 1, head_dim: 128, rotary_dim: 128 };
        let model_ins = ins(&model, 40..59);
        let wide = Rope { heads: 2, kv_heads: 1, head_dim: 610, rotary_dim: 602 };
        let wide_ins = ins(&wide, 30..32);
        let llama = Rope { heads: 32, kv_heads: 32, head_dim: 128, rotary_dim: 128 };
        let llama_ins = ins(&llama, 0..2048);
        vec![
            case("one row", Rope { heads: 1, kv_heads: 1, head_dim: 8, rotary_dim: 8 }, 5..6),
            case("grouped heads", Rope { heads: 4, kv_heads: 2, head_dim: 6, rotary_dim: 6 }, 1000..1003),
            case("half rotated", Rope { heads: 2, kv_heads: 1, head_dim: 8, rotary_dim: 4 }, 0..4),
            case("whole vectors", Rope { heads: 5, kv_heads: 1, head_dim: 24, rotary_dim: 16 }, 7..10),
            Case::parity("heads of 128", model, model_ins),
            Case::parity("heads wider than a block", wide, wide_ins),
            Case::parity("577 rows", grouped, grouped_ins),
            Case::bench("7B, 2048 rows", llama, llama_ins),
        ]
    },
};
