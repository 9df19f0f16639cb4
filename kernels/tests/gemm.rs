//! The CPU matrix product against a triple loop in f64, and the promise that a row depends on itself alone.
#![allow(clippy::unwrap_used)]

use kernels::check::Random;
use kernels::dtype::{Real, bf16};
use kernels::gemm::{Accumulator, Gemm, Kind, Matrix, Product, multiply_on};
use kernels::op::Want;
use kernels::simd::Path;
use kernels::{Buffer, DType, Device, Needs, Op, Role, Slot, Spec, run};

const KINDS: [Kind; 3] = [Kind::NN, Kind::NT, Kind::TN];

/// Operands of one product, as stored for a kind.
struct Operands<T> {
    kind: Kind,
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    a: Vec<T>,
    b: Vec<T>,
    bias: Vec<T>,
    c: Vec<T>,
}

impl<T: Real> Operands<T> {
    fn new(kind: Kind, batch: usize, [m, n, k]: [usize; 3]) -> Self {
        let mut random = Random::new((m * 31 + n * 7 + k) as u64);
        let mut normal = |n: usize| -> Vec<T> { (0..n).map(|_| T::from_f64(random.normal())).collect() };
        let (a, b) = (normal(batch * m * k), normal(batch * k * n));
        Operands { kind, batch, m, n, k, a, b, bias: normal(n), c: normal(batch * m * n) }
    }

    fn a(&self, batch: usize, i: usize, k: usize) -> f64 {
        let at = if self.kind == Kind::TN { k * self.m + i } else { i * self.k + k };
        self.a[batch * self.m * self.k + at].to_f64()
    }

    fn b(&self, batch: usize, k: usize, j: usize) -> f64 {
        let at = if self.kind == Kind::NT { j * self.k + k } else { k * self.n + j };
        self.b[batch * self.k * self.n + at].to_f64()
    }

    fn product(&self, bias: bool, accumulate: bool) -> Product<'_, T> {
        let (m, n, k) = (self.m, self.n, self.k);
        let (a_row, a_col) = if self.kind == Kind::TN { (1, m) } else { (k, 1) };
        let (b_row, b_col) = if self.kind == Kind::NT { (1, k) } else { (n, 1) };
        let a = Matrix { data: &self.a[..], row: a_row, col: a_col };
        let b = Matrix { data: &self.b[..], row: b_row, col: b_col };
        Product { batch: self.batch, m, n, k, a, b, bias: bias.then_some(&self.bias[..]), accumulate }
    }

    /// Each element in f64, with the sum of the sizes of its terms.
    fn expected(&self, bias: bool, accumulate: bool) -> Vec<(f64, f64)> {
        let mut all = vec![];
        for batch in 0..self.batch {
            for i in 0..self.m {
                for j in 0..self.n {
                    let mut terms: Vec<f64> =
                        (0..self.k).map(|k| self.a(batch, i, k) * self.b(batch, k, j)).collect();
                    terms.extend(bias.then(|| self.bias[j].to_f64()));
                    let old = self.c[(batch * self.m + i) * self.n + j].to_f64();
                    terms.extend(accumulate.then_some(old));
                    all.push((terms.iter().sum(), terms.iter().map(|t| t.abs()).sum()));
                }
            }
        }
        all
    }
}

/// Runs one product on a path and compares each element with the standard bound of a sum of `terms` rounded terms,
/// `terms * step * sum |term|` of half a unit in the last place, and one
/// rounding of the stored result.
fn compare<T: Real<Acc: Accumulator>, C: Real<Acc = T::Acc>>(
    path: Path,
    x: &Operands<T>,
    expected: &[(f64, f64)],
    bias: bool,
    accumulate: bool,
) {
    let step = |dtype: DType| match dtype {
        DType::Bf16 => 2f64.powi(-8),
        DType::F32 => 2f64.powi(-24),
        _ => 2f64.powi(-53),
    };
    let (sum_step, store_step) = (step(T::DTYPE.acc()), step(C::DTYPE));
    // What an unwritten element would show.
    let nan = C::from_f64(f64::NAN);
    let mut c: Vec<C> = match accumulate {
        true => x.c.iter().map(|v| C::from_acc(v.to_acc())).collect(),
        false => vec![nan; x.c.len()],
    };
    multiply_on(path, &x.product(bias, accumulate), &mut c);
    for (at, (got, &(want, size))) in c.iter().zip(expected).enumerate() {
        let bound = 2.0 * (x.k + 2) as f64 * sum_step * size + store_step * want.abs() + 1e-300;
        let error = (got.to_f64() - want).abs();
        assert!(
            error <= bound,
            "{path:?} {:?} {:?} -> {:?} batch {} [{}, {}, {}] bias {bias} accumulate {accumulate}: element {at} is \
             {got:?}, expected {want} within {bound:.1e}",
            x.kind,
            T::DTYPE,
            C::DTYPE,
            x.batch,
            x.m,
            x.n,
            x.k
        );
    }
}

fn sweep<T: Real<Acc: Accumulator>, C: Real<Acc = T::Acc>>() {
    let sizes = [
        [1, 1, 1],
        [1, 33, 17],
        [2, 16, 16],
        [3, 31, 300],
        [4, 8, 255],
        [5, 100, 257],
        [11, 47, 33],
        [12, 32, 256],
        [13, 65, 64],
        [16, 96, 96],
        [25, 7, 515],
        [257, 40, 19],
        [70, 300, 40],
        [2, 0, 3],
        [0, 2, 3],
        [2, 3, 0],
    ];
    for kind in KINDS {
        for size in sizes {
            for batch in [1, 3] {
                let x = Operands::<T>::new(kind, batch, size);
                for (bias, accumulate) in [(false, false), (true, false), (false, true), (true, true)] {
                    on_all_paths::<T, C>(&x, bias, accumulate);
                }
            }
        }
    }
}

fn on_all_paths<T: Real<Acc: Accumulator>, C: Real<Acc = T::Acc>>(
    x: &Operands<T>,
    bias: bool,
    accumulate: bool,
) {
    let expected = x.expected(bias, accumulate);
    for path in Path::available() {
        compare::<T, C>(path, x, &expected, bias, accumulate);
    }
}

#[test]
fn f32_matches_a_triple_loop() {
    sweep::<f32, f32>();
}

#[test]
fn f64_matches_a_triple_loop() {
    sweep::<f64, f64>();
}

#[test]
fn bf16_matches_a_triple_loop_and_rounds_once() {
    sweep::<bf16, bf16>();
}

#[test]
fn bf16_into_f32_matches_a_triple_loop() {
    sweep::<bf16, f32>();
}

/// Sizes beyond each limit of the driver: several blocks of k and of columns, with few rows, with many, and with so many of A
/// that it is packed anew for each block; more rows than those whose sums are kept aside; and few rows of a wide B.
#[test]
fn large_products_match_a_triple_loop() {
    for kind in KINDS {
        for size in [[530, 50, 520], [3, 2050, 5], [4, 70, 1030], [9, 1000, 1100], [2060, 9, 520]] {
            on_all_paths::<f32, f32>(&Operands::new(kind, 1, size), true, true);
            on_all_paths::<bf16, bf16>(&Operands::new(kind, 1, size), true, false);
            on_all_paths::<bf16, bf16>(&Operands::new(kind, 1, size), false, true);
        }
        on_all_paths::<f32, f32>(&Operands::new(kind, 1, [500, 580, 540]), true, true);
    }
}

/// Rows `from` of a product, computed alone: the same operands with other rows of A left out.
fn rows_alone<T: Real<Acc: Accumulator>>(
    path: Path,
    x: &Operands<T>,
    from: std::ops::Range<usize>,
) -> Vec<T> {
    let m = from.len();
    let a = match x.kind {
        Kind::TN => (0..x.k).flat_map(|k| x.a[k * x.m..][from.clone()].to_vec()).collect(),
        _ => x.a[from.start * x.k..from.end * x.k].to_vec(),
    };
    let c = x.c[from.start * x.n..from.end * x.n].to_vec();
    let alone =
        Operands { kind: x.kind, batch: 1, m, n: x.n, k: x.k, a, b: x.b.clone(), bias: x.bias.clone(), c };
    let mut c = alone.c.clone();
    multiply_on(path, &alone.product(true, true), &mut c);
    c
}

fn rows_are_alone<T: Real<Acc: Accumulator>>() {
    for path in Path::available() {
        for kind in KINDS {
            for [m, n, k] in [[29, 70, 600], [530, 33, 520], [50, 290, 257], [29, 1000, 800]] {
                let x = Operands::<T>::new(kind, 1, [m, n, k]);
                let mut whole = x.c.clone();
                multiply_on(path, &x.product(true, true), &mut whole);
                for (start, len) in [(0, 1), (m - 1, 1), (7, 1), (3, 2), (5, 13), (1, m - 1), (12, 16)] {
                    let alone = rows_alone(path, &x, start..start + len);
                    let batched = &whole[start * n..(start + len) * n];
                    assert!(
                        alone == batched,
                        "{path:?} {kind:?} {:?}: rows {start} + {len} of {m}",
                        T::DTYPE
                    );
                }
            }
        }
    }
}

#[test]
fn rows_alone_equal_rows_in_a_batch_in_f32() {
    rows_are_alone::<f32>();
}

#[test]
fn rows_alone_equal_rows_in_a_batch_in_bf16() {
    rows_are_alone::<bf16>();
}

#[test]
fn rows_alone_equal_rows_in_a_batch_in_f64() {
    rows_are_alone::<f64>();
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let on = |threads: usize, path: Path, x: &Operands<f32>| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut c = x.c.clone();
        pool.install(|| multiply_on(path, &x.product(true, true), &mut c));
        c
    };
    for path in Path::available() {
        for kind in KINDS {
            for size in [[512, 160, 128], [40, 700, 520], [1, 4000, 600]] {
                let x = Operands::<f32>::new(kind, 1, size);
                let one = on(1, path, &x);
                for threads in [2, 3, 8] {
                    assert!(on(threads, path, &x) == one, "{path:?} {kind:?} {size:?} on {threads} threads");
                }
            }
        }
    }
}

#[test]
fn infer_names_what_does_not_fit() {
    let spec = |dims: &[usize]| Spec::new(DType::F32, dims);
    let fails = |op: Gemm, ins: &[Spec], words: &str| {
        let message = op.infer(ins).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    let plain = Gemm::new(Kind::NT);
    fails(plain.clone(), &[spec(&[2, 3]), spec(&[4, 5])], "NT of a f32[2, 3] and b f32[4, 5] is no product");
    fails(plain.clone(), &[spec(&[2, 3]), spec(&[3])], "no product");
    fails(plain.clone(), &[spec(&[2, 2, 3]), spec(&[3, 4, 3])], "no product");
    fails(plain.clone(), &[spec(&[2, 3])], "takes 2 inputs, got 1");
    fails(plain.clone(), &[spec(&[2, 3]), spec(&[4, 3]).with_dtype(DType::Bf16)], "types differ");
    fails(plain.clone(), &[spec(&[2, 3]).with_dtype(DType::U32), spec(&[4, 3])], "u32");
    let bias = Gemm { bias: true, ..plain.clone() };
    fails(bias, &[spec(&[2, 3]), spec(&[4, 3]), spec(&[3])], "bias f32[3] does not match c f32[2, 4]");
    let onto = Gemm { accumulate: true, ..plain };
    fails(onto, &[spec(&[2, 3]), spec(&[4, 3]), spec(&[4, 2])], "cannot add f32[2, 4] to c f32[4, 2]");
}

#[test]
fn a_frozen_operand_keeps_nothing_for_its_gradient() {
    let op = Gemm { kind: Kind::NT, bias: true, accumulate: true };
    assert_eq!(op.saves(Needs(0b0001)), [Slot::In(1)], "x needs w alone");
    assert_eq!(op.saves(Needs(0b0010)), [Slot::In(0)], "w needs x alone");
    assert!(op.saves(Needs(0b1100)).is_empty(), "bias and c need neither");
}

#[test]
fn onto_c_writes_its_bytes_only_if_nobody_else_holds_them() {
    let device = Device::cpu();
    let buffer = |dims: [usize; 2], value: f32| {
        Buffer::from_slice(&device, dims, &vec![value; dims[0] * dims[1]], Role::Activation).unwrap()
    };
    let op = Gemm { kind: Kind::NT, bias: false, accumulate: true };
    let (a, b) = (buffer([2, 3], 1.0), buffer([4, 3], 2.0));
    for shared in [false, true] {
        let c = buffer([2, 4], 0.5);
        let held = shared.then(|| c.clone());
        let bytes = c.slice::<f32>().as_ptr();
        let out = run::forward(&op, vec![a.clone(), b.clone(), c], Needs::default()).unwrap().outs.remove(0);
        assert_eq!(out.to_vec::<f32>().unwrap(), [6.5; 8]);
        assert_eq!(out.slice::<f32>().as_ptr() == bytes, !shared, "shared: {shared}");
        if let Some(held) = held {
            assert_eq!(held.to_vec::<f32>().unwrap(), [0.5; 8], "the other holder sees no change");
        }
    }
}

#[test]
fn a_bf16_weight_takes_its_gradient_in_f32() {
    let device = Device::cpu();
    let ones = |dims: [usize; 2]| {
        Buffer::from_slice(&device, dims, &vec![bf16::ONE; dims[0] * dims[1]], Role::Activation).unwrap()
    };
    let (x, w) = (ones([257, 2]), ones([3, 2]));
    let specs = [x.spec(), w.spec()];
    let op = Gemm::new(Kind::NT);
    let ran = run::forward(&op, vec![x, w], Needs(0b10)).unwrap();
    let dy = ones([257, 3]);
    let wants = vec![Want::No, Want::New(DType::F32, Role::Gradient)];
    let given = run::backward(&op, &"".into(), &specs, ran.saved, vec![Some(dy)], wants).unwrap();
    // bf16 has no 257.
    assert_eq!(given[1].as_ref().unwrap().to_vec::<f32>().unwrap(), [257.0; 6]);
    assert!(given[0].is_none());
}
