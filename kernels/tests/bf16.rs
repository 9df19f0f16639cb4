//! Products of bf16 by instructions on pairs, bit for bit against the formulas that `kernels/amx.rs` and
//! `kernels/gemm/bf16/micro_avx512.rs` state: however a product is cut up, and for denormals, infinities and NaN too.

use kernels::check::Random;
use kernels::dtype::{Real, bf16};
use kernels::gemm::{Matrix, Product, multiply_on};
use kernels::simd::Path;

/// A number as the instructions read and write it: denormals are zero.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

fn fma(a: f32, b: f32, sum: f32) -> f32 {
    flush(flush(a).mul_add(flush(b), flush(sum)))
}

/// What a path makes of one row of A and one column of B, whose steps are filled up to 32 with zeros. (They add nothing, but
/// -0 + 0 is 0.)
fn chain(path: Path, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = 0f32;
    match path {
        Path::Amx => {
            for (a, b) in a.chunks(32).zip(b.chunks(32)) {
                let mut halves = [0f32; 2];
                for (k, (a, b)) in a.iter().zip(b).enumerate() {
                    halves[k % 2] = fma(*a, *b, halves[k % 2]);
                }
                sum = flush(sum + flush(halves[0] + halves[1]));
            }
        }
        Path::Avx512Bf16 => {
            for (a, b) in a.chunks(2).zip(b.chunks(2)) {
                sum = fma(a[0], b[0], fma(a[1], b[1], sum));
            }
        }
        other => unreachable!("{other:?} multiplies no pairs"),
    }
    sum
}

/// Whether a and b are stored transposed.
#[derive(Debug, Clone, Copy)]
struct Stored {
    a: bool,
    b: bool,
}

const ALL: [Stored; 3] =
    [Stored { a: false, b: false }, Stored { a: false, b: true }, Stored { a: true, b: false }];

/// A copy with room before it to begin at a line of the cache, where AMX reads rows without packing them.
fn at_a_line(x: impl Iterator<Item = bf16>) -> Vec<bf16> {
    let mut copy = vec![bf16::ZERO; 32];
    copy.extend(x);
    let first = copy.as_ptr().align_offset(64);
    copy.rotate_left(32 - first);
    copy
}

/// What [`at_a_line`] copied, and some elements more.
fn line(copy: &[bf16]) -> &[bf16] {
    &copy[copy.as_ptr().align_offset(64)..]
}

/// Compares every element of a product of these [m, k] and [k, n] values, stored in f32, with its chain.
fn compare(path: Path, stored: Stored, [m, n, k]: [usize; 3], a: &[bf16], b: &[bf16]) {
    let lay = |transposed: bool, [rows, cols]: [usize; 2], x: &[bf16]| match transposed {
        false => (at_a_line(x.iter().copied()), cols, 1),
        true => (at_a_line((0..cols).flat_map(|j| (0..rows).map(move |i| x[i * cols + j]))), 1, rows),
    };
    let ((a_data, a_row, a_col), (b_data, b_row, b_col)) =
        (lay(stored.a, [m, k], a), lay(stored.b, [k, n], b));
    let a_matrix = Matrix { data: line(&a_data), row: a_row, col: a_col };
    let b_matrix = Matrix { data: line(&b_data), row: b_row, col: b_col };
    let product = Product { batch: 1, m, n, k, a: a_matrix, b: b_matrix, bias: None, accumulate: false };
    let mut c = vec![f32::NAN; m * n];
    multiply_on(path, &product, &mut c);
    let filled = |steps: &mut dyn Iterator<Item = bf16>| {
        let mut steps: Vec<f32> = steps.map(bf16::to_acc).collect();
        steps.resize(k.next_multiple_of(32), 0.0);
        steps
    };
    let columns: Vec<Vec<f32>> = (0..n).map(|j| filled(&mut (0..k).map(|k| b[k * n + j]))).collect();
    for i in 0..m {
        let row = filled(&mut a[i * k..][..k].iter().copied());
        for (j, column) in columns.iter().enumerate() {
            let (got, want) = (c[i * n + j], chain(path, &row, column));
            // Which of several NaN comes out is not said.
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{} {stored:?} [{m}, {n}, {k}] at {i}, {j}: {got:e}, by the formula {want:e}",
                path.name()
            );
        }
    }
}

/// Runs `test` on the paths with instructions on pairs, or says that there is none.
fn on_pairs(test: impl Fn(Path)) {
    let paths: Vec<Path> = Path::available().into_iter().filter(|path| *path >= Path::Avx512Bf16).collect();
    if paths.is_empty() {
        println!("SKIPPED: this machine has no instructions on pairs of bf16");
    }
    paths.into_iter().for_each(test);
}

#[test]
fn every_element_is_the_chain_of_the_formula() {
    // Few rows and many, tiles that are not full, steps that fill no unit, several blocks of steps.
    let sizes = [
        [1, 48, 64],
        [3, 40, 33],
        [16, 33, 96],
        [17, 100, 32],
        [32, 70, 160],
        [33, 31, 1],
        [70, 50, 95],
        [70, 100, 64],
        [45, 100, 1056],
        [6, 90, 1312],
        [40, 36, 4200],
        [33, 66, 8256],
    ];
    on_pairs(|path| {
        for [m, n, k] in sizes {
            let mut random = Random::new((m * n + k) as u64);
            let mut normal =
                |len: usize| (0..len).map(|_| bf16::from_f64(random.normal())).collect::<Vec<_>>();
            let (a, b) = (normal(m * k), normal(k * n));
            for stored in ALL {
                compare(path, stored, [m, n, k], &a, &b);
            }
        }
    });
}

#[test]
fn denormals_are_zero_and_infinities_and_nan_go_through() {
    let smallest_normal = f32::MIN_POSITIVE as f64;
    let odd = [
        smallest_normal,
        smallest_normal / 2.0,
        -smallest_normal / 4.0,
        1e-20,
        -3e-19,
        1e30,
        -2e38,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        0.0,
        -0.0,
        1.0,
    ];
    on_pairs(|path| {
        for (m, kinds) in [(9, 5), (40, 7), (40, odd.len())] {
            let [n, k] = [35, 70];
            let mut at = 0;
            let mut some = |len: usize| -> Vec<bf16> {
                let mut next = || {
                    at += 1;
                    bf16::from_f64(odd[at * at % 101 % kinds])
                };
                (0..len).map(|_| next()).collect()
            };
            let (a, b) = (some(m * k), some(k * n));
            for stored in ALL {
                compare(path, stored, [m, n, k], &a, &b);
            }
        }
    });
}
