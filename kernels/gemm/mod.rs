//! Matrix product: `c = [c +] a b [+ bias]`, where a or b may be stored transposed.
//!
//! | kind | a | b | c | used for |
//! |---|---|---|---|---|
//! | NN | [M, K] | [K, N] | [M, N] | gradient of an activation |
//! | NT | [M, K] | [N, K] | [M, N] | a linear layer, `y = x w^T` |
//! | TN | [K, M] | [K, N] | [M, N] | gradient of a weight |
//!
//! If b has two dimensions, all dimensions of a but the last count as its rows, and for NN and NT c keeps them:
//! [batch, tokens, K] gives [batch, tokens, N]. If a and b have three, the first is a batch of separate products.
//!
//! | | shape | type | kept for backward |
//! |---|---|---|---|
//! | a | above | T | if db is wanted |
//! | b | above | T | if da is wanted |
//! | bias, if `bias` | `[N]` | T | |
//! | c, if `accumulate` | as the output | T | |
//!
//! Backward closes over the three kinds; dbias is the sum of the rows of dc, and the gradient of c is dc itself:
//!
//! | kind | da | db |
//! |---|---|---|
//! | NN | dc b^T (NT) | a^T dc (TN) |
//! | NT | dc b (NN) | dc^T a (TN) |
//! | TN | b dc^T (NT) | a dc (NN) |
//!
//! Numerics: products are summed in `T::Acc` in an order that depends on K alone, so a row of c has the same bits
//! whether it is computed alone or in a batch. The old c, the products and the bias are added in that type and
//! rounded once. Gradients are written or added directly in the type the engine wants.
//! On a GPU the product is cuBLASLt's, in f32 or, for f32 with `NEVA_TF32=1`, with factors rounded to TF32; the order of
//! its sums is chosen by shape (`device/blas.rs`), so there a row's bits may depend on how many rows there are.
//! Cost: 2 M N K flops; each operand is read and the output written once. Errors: the shared dimensions differ, the
//! bias is not as wide as c, ranks that are no product, types differ.

#[cfg(target_arch = "x86_64")]
mod bf16;
#[cfg(not(target_arch = "x86_64"))]
#[path = "bf16_elsewhere.rs"]
mod bf16;
mod cpu;
mod gpu;
#[cfg(target_arch = "x86_64")]
mod micro_avx2;
#[cfg(target_arch = "x86_64")]
mod micro_avx512;
mod micro_portable;
mod pack;
mod tile;

pub use cpu::{Product, multiply, multiply_on};
pub use pack::Matrix;
pub use tile::Accumulator;

use crate::check::{Case, CaseKind, Entry, Input};
use crate::device;
use crate::dtype::{Element, Real};
use crate::op::{Backward, Cost, Forward, Made, Needs, Op, Run, Shapes, Slot, check, float};
use crate::{Buffer, Device, Error, Result, Spec, on_cpu};

/// Which operand is stored transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Neither: a [M, K], b [K, N].
    NN,
    /// b: a [M, K], b [N, K].
    NT,
    /// a: a [K, M], b [K, N].
    TN,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Gemm {
    /// Which operand is stored transposed.
    pub kind: Kind,
    /// Whether the third input is a bias.
    pub bias: bool,
    /// Whether the last input is a c to add to. Its bytes are reused if nobody else holds them.
    pub accumulate: bool,
}

impl Gemm {
    /// A product of this kind, without bias or c.
    pub fn new(kind: Kind) -> Self {
        Gemm { kind, bias: false, accumulate: false }
    }
}

/// The sizes of a product.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
}

impl Sizes {
    /// Of `a` and `b`, or None if they do not fit.
    fn of(kind: Kind, a: Spec, b: Spec) -> Option<Sizes> {
        let (batch, a, b) = match (a.dims(), b.dims()) {
            ([i, a @ ..], [j, b @ ..]) if a.len() == 2 && b.len() == 2 && i == j => {
                (*i, [a[0], a[1]], [b[0], b[1]])
            }
            ([_, ..], &[rows, cols]) => (1, [a.rows(), a.last()], [rows, cols]),
            _ => return None,
        };
        let (m, k) = if kind == Kind::TN { (a[1], a[0]) } else { (a[0], a[1]) };
        let (n, k_of_b) = if kind == Kind::NT { (b[0], b[1]) } else { (b[1], b[0]) };
        (k == k_of_b).then_some(Sizes { batch, m, n, k })
    }

    fn flops(self) -> u64 {
        2 * (self.batch * self.m) as u64 * self.n as u64 * self.k as u64
    }
}

impl Op for Gemm {
    fn name(&self) -> &'static str {
        "gemm"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Shapes> {
        let expected = 2 + self.bias as usize + self.accumulate as usize;
        if ins.len() != expected {
            return Err(Error::Arity { op: self.name(), expected, got: ins.len() });
        }
        let (a, b) = (ins[0], ins[1]);
        float(self.name(), a)?;
        let same = ins.iter().all(|x| x.dtype == a.dtype);
        check(self.name(), same, || format!("types differ: {ins:?}"))?;
        let kind = self.kind;
        let sizes = Sizes::of(kind, a, b)
            .ok_or_else(|| Error::shape(self.name(), format!("{kind:?} of a {a} and b {b} is no product")))?;
        let out = match (kind, b.dims().len()) {
            (Kind::TN, 2) => a.with_dims([sizes.m, sizes.n]),
            (_, 2) => a.with_last(sizes.n),
            _ => a.with_dims([sizes.batch, sizes.m, sizes.n]),
        };
        if self.bias {
            let bias = ins[2];
            check(self.name(), bias.dims() == [sizes.n], || format!("bias {bias} does not match c {out}"))?;
        }
        if self.accumulate {
            let c = ins[expected - 1];
            check(self.name(), c == out, || format!("cannot add {out} to c {c}"))?;
        }
        Ok(Shapes::new([out]))
    }

    fn forward(&self, io: &mut Forward) -> Result<Made> {
        let mut c = if self.accumulate { io.reuse(io.inputs() - 1)? } else { io.output(0)? };
        let (a, b, bias) = (io.input(0), io.input(1), self.bias.then(|| io.input(2)));
        let sizes = Sizes::of(self.kind, a.spec(), b.spec()).expect("infer took these inputs");
        product(io.device(), self.kind, sizes, [a, b], bias, &mut c, self.accumulate)?;
        Ok(Made::outs([c]))
    }

    fn saves(&self, needs: Needs) -> &'static [Slot] {
        match (needs.has(0), needs.has(1)) {
            (true, true) => &[Slot::In(1), Slot::In(0)],
            (true, false) => &[Slot::In(1)],
            (false, true) => &[Slot::In(0)],
            (false, false) => &[],
        }
    }

    fn backward(&self, io: &mut Backward) -> Result<()> {
        let sizes = Sizes::of(self.kind, io.spec(0), io.spec(1)).expect("infer took these inputs");
        let Sizes { batch, m, n, k } = sizes;
        let (want_a, want_b) = (io.wants(0), io.wants(1));
        if want_a {
            let (mut da, add) = io.accumulator(0)?;
            let (b, dc) = (io.saved(0), io.dy());
            let (kind, m, n, k, ab) = match self.kind {
                Kind::NN => (Kind::NT, m, k, n, [dc, b]),
                Kind::NT => (Kind::NN, m, k, n, [dc, b]),
                Kind::TN => (Kind::NT, k, m, n, [b, dc]),
            };
            product(io.device(), kind, Sizes { batch, m, n, k }, ab, None, &mut da, add)?;
            io.give(0, da)?;
        }
        if want_b {
            let (mut db, add) = io.accumulator(1)?;
            let (a, dc) = (io.saved(want_a as usize), io.dy());
            let (kind, m, n, k, ab) = match self.kind {
                Kind::NN => (Kind::TN, k, n, m, [a, dc]),
                Kind::NT => (Kind::TN, n, k, m, [dc, a]),
                Kind::TN => (Kind::NN, k, n, m, [a, dc]),
            };
            product(io.device(), kind, Sizes { batch, m, n, k }, ab, None, &mut db, add)?;
            io.give(1, db)?;
        }
        if self.bias && io.wants(2) {
            let (bias, dc) = (io.spec(2), io.dy());
            let mut dbias = io.alloc(bias.with_dtype(bias.dtype.acc()))?;
            crate::column_sum::column_sum(dc, &mut dbias)?;
            io.give(2, dbias)?;
        }
        let c = 2 + self.bias as usize;
        if self.accumulate && io.wants(c) {
            let dc = io.take_dout(0).expect("backward runs with its gradient");
            io.give(c, dc)?;
        }
        Ok(())
    }

    fn cost(&self, ins: &[Spec], run: Run) -> Cost {
        let (a, b) = (ins[0], ins[1]);
        let sizes = Sizes::of(self.kind, a, b).expect("infer took these inputs");
        let out = (sizes.batch * sizes.m * sizes.n) as u64;
        let out_bytes = out * a.dtype.size() as u64;
        let mut cost = Cost::default();
        match run {
            Run::Forward => {
                cost.flops = sizes.flops() + out * (self.bias as u64 + self.accumulate as u64);
                cost.bytes = ins.iter().map(|x| x.bytes() as u64).sum::<u64>() + out_bytes;
            }
            Run::Backward(needs) => {
                for i in [0, 1].into_iter().filter(|&i| needs.has(i)) {
                    cost.flops += sizes.flops();
                    cost.bytes += out_bytes + (ins[1 - i].bytes() + ins[i].bytes()) as u64;
                }
                if self.bias && needs.has(2) {
                    cost.flops += out;
                    cost.bytes += out_bytes + ins[2].bytes() as u64;
                }
            }
        }
        cost
    }
}

/// `c = [c +] a b [+ bias]` with c in the type of a and b, or in the one they are summed in.
fn product(
    device: &Device,
    kind: Kind,
    sizes: Sizes,
    [a, b]: [&Buffer; 2],
    bias: Option<&Buffer>,
    c: &mut Buffer,
    accumulate: bool,
) -> Result<()> {
    if let device::Kind::Gpu(gpu) = device.kind() {
        return gpu::product((device, gpu), kind, sizes, [a, b], bias, c, accumulate);
    }
    let Sizes { batch, m, n, k } = sizes;
    on_cpu!(device, "gemm", a.dtype(), T => {
        let a = match kind {
            Kind::TN => Matrix { data: a.slice::<T>(), row: 1, col: m },
            _ => Matrix { data: a.slice::<T>(), row: k, col: 1 },
        };
        let b = match kind {
            Kind::NT => Matrix { data: b.slice::<T>(), row: 1, col: k },
            _ => Matrix { data: b.slice::<T>(), row: n, col: 1 },
        };
        let product = Product { batch, m, n, k, a, b, bias: bias.map(|x| x.slice()), accumulate };
        if c.dtype() == T::DTYPE {
            multiply::<T, T>(&product, c.slice_mut());
        } else {
            multiply::<T, <T as Real>::Acc>(&product, c.slice_mut());
        }
    });
    Ok(())
}

/// The catalogue row.
pub const ENTRY: Entry = Entry {
    name: "gemm",
    summary: "c = [c +] a b [+ bias], either operand transposed",
    passes: "forward, backward",
    programs: &[],
    cases,
};

fn cases() -> Vec<Case> {
    let stored = |kind: Kind, m: usize, n: usize, k: usize| match kind {
        Kind::NN => ([m, k], [k, n]),
        Kind::NT => ([m, k], [n, k]),
        Kind::TN => ([k, m], [k, n]),
    };
    let flat = |name: &str, kind: Kind, bias: bool, accumulate: bool, [m, n, k]: [usize; 3]| {
        let (a, b) = stored(kind, m, n, k);
        let mut ins = vec![Input::normal(a), Input::normal(b)];
        ins.extend(bias.then(|| Input::normal([n])));
        ins.extend(accumulate.then(|| Input::normal([m, n])));
        Case::check(format!("{kind:?} {name}"), Gemm { kind, bias, accumulate }, ins)
    };
    let mut all = vec![];
    for kind in [Kind::NN, Kind::NT, Kind::TN] {
        all.push(flat("one row", kind, false, false, [1, 5, 7]));
        all.push(flat("no whole tile", kind, true, false, [13, 9, 5]));
        all.push(flat("onto c", kind, false, true, [5, 3, 4]));
        all.push(flat("bias onto c", kind, true, true, [3, 6, 2]));
        let (a, b) = stored(kind, 3, 5, 4);
        let batch = |[rows, cols]: [usize; 2]| Input::normal([2, rows, cols]);
        all.push(Case::check(format!("{kind:?} batch of 2"), Gemm::new(kind), [batch(a), batch(b)]));
    }
    all.push(flat("257 rows", Kind::NT, true, false, [257, 2, 3]));
    all.push(flat("three blocks of k", Kind::NT, false, true, [2, 3, 515]));
    let flattened = Gemm { kind: Kind::NT, bias: true, accumulate: true };
    let ins = [[2, 3, 4].to_vec(), vec![5, 4], vec![5], vec![2, 3, 5]].map(Input::normal);
    all.push(Case::check("NT leading dimensions kept", flattened, ins));
    for kind in [Kind::NN, Kind::NT, Kind::TN] {
        let case = flat("several tiles", kind, true, true, [150, 301, 577]);
        all.push(Case { kind: CaseKind::Parity, ..case });
    }
    for (name, kind, sizes) in [
        ("clip mlp 2056x4096x1024", Kind::NT, [2056, 4096, 1024]),
        ("llama mlp 2048x11008x4096", Kind::NT, [2048, 11008, 4096]),
        ("decode 1x4096x4096", Kind::NT, [1, 4096, 4096]),
        ("tiny 1024x128x128", Kind::NT, [1024, 128, 128]),
        ("tiny 1024x384x96", Kind::NT, [1024, 384, 96]),
        ("dx 1024x512x1376", Kind::NN, [1024, 512, 1376]),
        ("dw 1376x512x1024", Kind::TN, [1376, 512, 1024]),
    ] {
        let [m, n, k] = sizes;
        let (a, b) = stored(kind, m, n, k);
        all.push(Case::bench(name, Gemm::new(kind), [Input::normal(a), Input::normal(b)]));
    }
    all
}
