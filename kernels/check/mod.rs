//! How an op is declared for checking and timing, and the checks themselves.
//!
//! An op's folder ends in one [`Entry`]; its cases drive the gradient check, parity between precisions, paths and
//! devices, and the benches.

pub mod bench;
pub mod compile;
pub mod conformance;
pub mod device;
mod gpu;
pub mod gradient;
pub mod large;
pub mod parity;
pub mod rates;

use crate::device::program::Source;
use crate::device::{Buffer, Device, Role};
use crate::op::{Needs, Op};
use crate::{DType, Result, Spec};

/// One op in the catalogue.
pub struct Entry {
    /// The op's name.
    pub name: &'static str,
    /// One line of what it computes.
    pub summary: &'static str,
    /// Which passes it has: "forward", "forward, backward" or "update".
    pub passes: &'static str,
    /// Everything it launches on a GPU; empty where it has no kernel.
    pub programs: &'static [Source],
    /// The shapes it is checked and timed on.
    pub cases: fn() -> Vec<Case>,
}

/// One op with inputs.
#[derive(Debug)]
pub struct Case {
    /// What is special about it: "1 row", "257 tokens".
    pub name: String,
    /// The op with its hyper-parameters.
    pub op: Box<dyn Op>,
    /// How its inputs are made.
    pub ins: Vec<Input>,
    /// Checked or timed.
    pub kind: CaseKind,
    /// Whether the checks run it on views one element off a 16-byte boundary.
    pub off_boundary: bool,
}

/// What a case is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaseKind {
    /// Small enough for finite differences.
    Check,
    /// Large enough for several tiles, blocks and tasks, with ragged ends: for every check but finite differences.
    Parity,
    /// A size that NeVA runs.
    Bench,
}

/// One input of a case.
#[derive(Debug, Clone)]
pub struct Input {
    /// Its dimensions.
    pub dims: Vec<usize>,
    /// Its element type, relative to the type `T` the case is run in.
    pub of: Of,
    /// Its contents.
    pub fill: Fill,
}

/// The element type of an input, relative to the type `T` of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// `T` itself: activations and weights.
    T,
    /// `T::Acc`: statistics, label weights, rotation tables.
    Acc,
    /// u32: ids, rows, lengths.
    U32,
}

/// The contents of an input.
#[derive(Debug, Clone)]
pub enum Fill {
    /// Normal with this standard deviation.
    Normal(f64),
    /// Normal, kept at least 1e-3 from zero, where relu-like ops have their kink.
    NoKink,
    /// Uniform in a range.
    Uniform(f64, f64),
    /// Uniform integers below a bound.
    Below(u32),
    /// These values.
    Values(Vec<f64>),
}

impl Case {
    /// A case for the checks.
    pub fn check(name: impl Into<String>, op: impl Op + 'static, ins: impl Into<Vec<Input>>) -> Self {
        Case::new(name.into(), op, ins.into(), CaseKind::Check)
    }

    /// A case for the checks that need no finite differences.
    pub fn parity(name: impl Into<String>, op: impl Op + 'static, ins: impl Into<Vec<Input>>) -> Self {
        Case::new(name.into(), op, ins.into(), CaseKind::Parity)
    }

    /// A case for the benches.
    pub fn bench(name: impl Into<String>, op: impl Op + 'static, ins: impl Into<Vec<Input>>) -> Self {
        Case::new(name.into(), op, ins.into(), CaseKind::Bench)
    }

    fn new(name: String, op: impl Op + 'static, ins: Vec<Input>, kind: CaseKind) -> Self {
        Case { name, op: Box::new(op), ins, kind, off_boundary: false }
    }

    /// The same, its inputs and output gradients one element off a 16-byte boundary: kernels then move values one by one.
    pub fn off_boundary(self) -> Self {
        Case { off_boundary: true, ..self }
    }

    /// The inputs as f64 values (integers too), the same for every type the case is run in. Values of type `T`
    /// are rounded to bf16 first, so that every type starts from the same numbers.
    pub fn values(&self, seed: u64) -> Vec<Vec<f64>> {
        let mut random = Random::new(seed);
        self.ins
            .iter()
            .map(|input| {
                let n = input.dims.iter().product();
                let values = input.fill.values(n, &mut random);
                match input.of {
                    Of::T => values
                        .into_iter()
                        .map(|v| f32::from(crate::dtype::bf16::from_f32(v as f32)) as f64)
                        .collect(),
                    Of::Acc => values.into_iter().map(|v| v as f32 as f64).collect(),
                    Of::U32 => values,
                }
            })
            .collect()
    }

    /// The inputs as buffers of a run in `dtype`.
    pub fn buffers(&self, device: &Device, dtype: DType, values: &[Vec<f64>]) -> Result<Vec<Buffer>> {
        self.ins
            .iter()
            .zip(values)
            .map(|(input, values)| match input.of {
                Of::T => Buffer::from_f64(device, Spec::new(dtype, &input.dims), values, Role::Weight),
                Of::Acc => {
                    Buffer::from_f64(device, Spec::new(dtype.acc(), &input.dims), values, Role::Weight)
                }
                Of::U32 => {
                    let ints: Vec<u32> = values.iter().map(|v| *v as u32).collect();
                    Buffer::from_slice(device, &input.dims, &ints, Role::Weight)
                }
            })
            .collect()
    }

    /// Every input that can have a gradient.
    pub fn needs(&self) -> Needs {
        let differentiable = |i: &usize| self.ins[*i].of != Of::U32 && self.op.differentiable(*i);
        Needs((0..self.ins.len()).filter(differentiable).map(|i| 1 << i).sum())
    }

    /// The specs of a run in `dtype`.
    pub fn specs(&self, dtype: DType) -> Vec<Spec> {
        let of = |of| match of {
            Of::T => dtype,
            Of::Acc => dtype.acc(),
            Of::U32 => DType::U32,
        };
        self.ins.iter().map(|i| Spec::new(of(i.of), &i.dims)).collect()
    }
}

impl Input {
    /// Normally distributed values of type `T`.
    pub fn normal(dims: impl Into<Vec<usize>>) -> Self {
        Input { dims: dims.into(), of: Of::T, fill: Fill::Normal(1.0) }
    }
    /// Values of type `T` away from zero.
    pub fn no_kink(dims: impl Into<Vec<usize>>) -> Self {
        Input { dims: dims.into(), of: Of::T, fill: Fill::NoKink }
    }
    /// Integers below `bound`.
    pub fn ids(dims: impl Into<Vec<usize>>, bound: u32) -> Self {
        Input { dims: dims.into(), of: Of::U32, fill: Fill::Below(bound) }
    }
    /// These integers.
    pub fn u32(dims: impl Into<Vec<usize>>, values: impl IntoIterator<Item = u32>) -> Self {
        let values = values.into_iter().map(f64::from).collect();
        Input { dims: dims.into(), of: Of::U32, fill: Fill::Values(values) }
    }
    /// These values, of type `T::Acc`.
    pub fn acc(dims: impl Into<Vec<usize>>, values: impl IntoIterator<Item = f64>) -> Self {
        Input { dims: dims.into(), of: Of::Acc, fill: Fill::Values(values.into_iter().collect()) }
    }
    /// Normally distributed values of type `T::Acc`.
    pub fn normal_acc(dims: impl Into<Vec<usize>>) -> Self {
        Input { dims: dims.into(), of: Of::Acc, fill: Fill::Normal(1.0) }
    }
    /// Uniform values of type `T` in a range.
    pub fn uniform(dims: impl Into<Vec<usize>>, low: f64, high: f64) -> Self {
        Input { dims: dims.into(), of: Of::T, fill: Fill::Uniform(low, high) }
    }
}

impl Fill {
    fn values(&self, n: usize, random: &mut Random) -> Vec<f64> {
        match self {
            Fill::Normal(std) => (0..n).map(|_| random.normal() * std).collect(),
            Fill::NoKink => (0..n)
                .map(|_| {
                    let v = random.normal();
                    if v.abs() < 0.01 { v + 0.02f64.copysign(v) } else { v }
                })
                .collect(),
            Fill::Uniform(low, high) => (0..n).map(|_| low + (high - low) * random.uniform()).collect(),
            Fill::Below(bound) => (0..n).map(|_| (random.uniform() * *bound as f64).floor()).collect(),
            Fill::Values(values) => {
                assert_eq!(values.len(), n, "as many values as the dimensions say");
                values.clone()
            }
        }
    }
}

/// A small generator for test data (splitmix64).
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed ^ 0x9e37_79b9_7f4a_7c15)
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}
