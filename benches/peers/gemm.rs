//! The CPU matrix product beside other libraries', one thread, all in turn, the best of some rounds: see README.md.
//!
//!     cargo run --release --bin gemm -- [--rounds N] [--torch PYTHON] [--only TEXT]

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use kernels::dtype::{Real, bf16};
use kernels::gemm::{Matrix, Product, multiply};
use kernels::simd::Path;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// kind, m, n, k: squares, then products of a small LLaMA's training step, of CLIP's tower, and of one decoded token.
const SHAPES: [(&str, usize, usize, usize); 17] = [
    ("NT", 512, 512, 512),
    ("NT", 1024, 1024, 1024),
    ("NT", 2048, 2048, 2048),
    ("NN", 1024, 1024, 1024),
    ("TN", 1024, 1024, 1024),
    ("NT", 1024, 1536, 512),
    ("NT", 1024, 2752, 512),
    ("NT", 1024, 512, 1376),
    ("NT", 1024, 4096, 512),
    ("NN", 1024, 512, 1536),
    ("NN", 1024, 1376, 512),
    ("TN", 1376, 512, 1024),
    ("TN", 2752, 512, 1024),
    ("NT", 2056, 1024, 1024),
    ("NT", 2056, 4096, 1024),
    ("NT", 1, 4096, 4096),
    ("NT", 8, 4096, 4096),
];

/// Memory that begins at a line of the cache.
struct Lines<T> {
    all: Vec<T>,
    first: usize,
}

impl<T: Copy> Lines<T> {
    fn new(len: usize, value: impl Fn(usize) -> T) -> Self {
        let room = 64 / size_of::<T>();
        let mut all = vec![value(0); len + room];
        let first = all.as_ptr().align_offset(64);
        (0..len).for_each(|i| all[first + i] = value(i));
        Lines { all, first }
    }

    fn get(&self) -> &[T] {
        &self.all[self.first..]
    }

    fn get_mut(&mut self, len: usize) -> &mut [T] {
        &mut self.all[self.first..][..len]
    }
}

/// torch in another process, which runs one product when it is told to.
struct Torch {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Torch {
    fn start(python: &str) -> Torch {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/gemm_torch.py");
        let mut child = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{python}: {e}"));
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Torch { child, to, from }
    }

    fn seconds(&mut self, line: &str) -> f64 {
        writeln!(self.to, "{line}").unwrap();
        let mut answer = String::new();
        self.from.read_line(&mut answer).unwrap();
        answer.trim().parse().unwrap_or_else(|_| panic!("gemm_torch.py answered {answer:?} to {line}"))
    }
}

impl Drop for Torch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn time(best: &mut f64, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    *best = best.min(start.elapsed().as_secs_f64());
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let option = |name: &str| args.iter().position(|a| a == name).map(|i| args[i + 1].clone());
    let rounds: usize = option("--rounds").map_or(10, |n| n.parse().expect("--rounds takes a number"));
    let only = option("--only").unwrap_or_default();
    let mut torch = option("--torch").map(|python| Torch::start(&python));
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().unwrap();

    println!(
        "path {}; peak: {:.0} GFLOP/s in f32 (fused multiply-adds),",
        Path::current().name(),
        peak_f32()
    );
    println!("{:.0} in bf16 (AMX; 0 without). GFLOP/s, best of {rounds} rounds in turn.\n", peak_amx());
    println!(
        "| product | f32: ours | gemm | faer | matrixmultiply | torch | ours / best | bf16: ours | torch | ours / torch | bf16 / f32 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let mut ratios: [Vec<f64>; 3] = Default::default();
    for (kind, m, n, k) in SHAPES {
        let name = format!("{kind} {m}x{n}x{k}");
        if !name.contains(&only) {
            continue;
        }
        let value = |i: usize| ((i.wrapping_mul(2654435761) >> 7) % 256) as f32 / 128.0 - 1.0;
        let (a, b) = (Lines::new(m * k, value), Lines::new(k * n, |i| value(i + 77)));
        let (a16, b16) = (
            Lines::new(m * k, |i| bf16::from_acc(value(i))),
            Lines::new(k * n, |i| bf16::from_acc(value(i + 77))),
        );
        let mut c = Lines::new(m * n, |_| 0f32);
        let mut c16 = Lines::new(m * n, |_| bf16::ZERO);
        // (distance of rows, of columns)
        let at = if kind == "TN" { (1, m) } else { (k, 1) };
        let bt = if kind == "NT" { (1, k) } else { (n, 1) };
        let mut best = [f64::INFINITY; 7];
        for _ in 0..rounds {
            time(&mut best[0], || ours((m, n, k), (a.get(), at), (b.get(), bt), c.get_mut(m * n)));
            // SAFETY: the three matrices hold their elements at these distances, and c is written by nobody else.
            time(&mut best[1], || unsafe {
                let (a, b, c) = (a.get().as_ptr(), b.get().as_ptr(), c.get_mut(m * n).as_mut_ptr());
                let [ar, ac, br, bc] = [at.0, at.1, bt.0, bt.1].map(|x| x as isize);
                gemm::gemm(
                    m,
                    n,
                    k,
                    c,
                    1,
                    n as isize,
                    false,
                    a,
                    ac,
                    ar,
                    b,
                    bc,
                    br,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            });
            time(&mut best[2], || {
                let a = MatRef::from_row_major_slice(
                    &a.get()[..m * k],
                    if kind == "TN" { k } else { m },
                    if kind == "TN" { m } else { k },
                );
                let b = MatRef::from_row_major_slice(
                    &b.get()[..k * n],
                    if kind == "NT" { n } else { k },
                    if kind == "NT" { k } else { n },
                );
                let c = MatMut::from_row_major_slice_mut(c.get_mut(m * n), m, n);
                let a = if kind == "TN" { a.transpose() } else { a };
                let b = if kind == "NT" { b.transpose() } else { b };
                matmul(c, Accum::Replace, a, b, 1.0, Par::Seq);
            });
            // SAFETY: as above.
            time(&mut best[3], || unsafe {
                let (a, b, c) = (a.get().as_ptr(), b.get().as_ptr(), c.get_mut(m * n).as_mut_ptr());
                let [ar, ac, br, bc] = [at.0, at.1, bt.0, bt.1].map(|x| x as isize);
                matrixmultiply::sgemm(m, k, n, 1.0, a, ar, ac, b, br, bc, 0.0, c, n as isize, 1);
            });
            time(&mut best[5], || ours((m, n, k), (a16.get(), at), (b16.get(), bt), c16.get_mut(m * n)));
            if let Some(torch) = &mut torch {
                best[4] = best[4].min(torch.seconds(&format!("float32 {name}")));
                best[6] = best[6].min(torch.seconds(&format!("bfloat16 {name}")));
            }
        }
        let peer = best[1..5].iter().copied().fold(f64::INFINITY, f64::min);
        let speed = |seconds: f64| 2e-9 * (m * n * k) as f64 / seconds;
        let three = [peer / best[0], best[6] / best[5], best[0] / best[5]];
        let [ours, gemm, faer, mm, torch32, ours16, torch16] = best.map(speed);
        println!(
            "| {name} | {ours:.0} | {gemm:.0} | {faer:.0} | {mm:.0} | {torch32:.0} | {:.2} | {ours16:.0} | {torch16:.0} | {:.2} | {:.2} |",
            three[0], three[1], three[2]
        );
        ratios.iter_mut().zip(three).for_each(|(all, one)| all.push(one));
    }
    let [f32s, bf16s, gain] = ratios.map(|r| (r.iter().map(|x| x.ln()).sum::<f64>() / r.len() as f64).exp());
    println!(
        "\nGeometric means: f32, ours / the best other {f32s:.2}; bf16, ours / torch {bf16s:.2}; bf16 / f32 {gain:.2}."
    );
}

fn ours<T: Real<Acc = f32>>(
    (m, n, k): (usize, usize, usize),
    (a, at): (&[T], (usize, usize)),
    (b, bt): (&[T], (usize, usize)),
    c: &mut [T],
) {
    let (a, b) = (Matrix { data: a, row: at.0, col: at.1 }, Matrix { data: b, row: bt.0, col: bt.1 });
    multiply(&Product { batch: 1, m, n, k, a, b, bias: None, accumulate: false }, c);
}

/// What a loop of nothing but independent fused multiply-adds reaches.
fn peak_f32() -> f64 {
    #[cfg(target_arch = "x86_64")]
    if Path::available().contains(&Path::Avx512) {
        use std::arch::x86_64::*;
        #[target_feature(enable = "avx512f")]
        fn run(count: usize) -> f32 {
            let mut sums = [_mm512_set1_ps(1.0); 16];
            let (a, b) =
                (_mm512_set1_ps(std::hint::black_box(0.999)), _mm512_set1_ps(std::hint::black_box(1e-3)));
            for _ in 0..count {
                for sum in &mut sums {
                    *sum = _mm512_fmadd_ps(*sum, a, b);
                }
            }
            let mut all = sums[0];
            for sum in &sums[1..] {
                all = _mm512_add_ps(all, *sum);
            }
            _mm512_reduce_add_ps(all)
        }
        let (count, mut best) = (200_000, f64::INFINITY);
        for _ in 0..20 {
            // SAFETY: the path was found to be available.
            time(&mut best, || {
                std::hint::black_box(unsafe { run(count) });
            });
        }
        return count as f64 * 16.0 * 32.0 / best / 1e9;
    }
    0.0
}

/// The same of products of tiles.
fn peak_amx() -> f64 {
    #[cfg(target_arch = "x86_64")]
    if Path::available().contains(&Path::Amx) {
        let (count, mut best) = (20_000, f64::INFINITY);
        for _ in 0..20 {
            // SAFETY: the path was found to be available, and nothing else uses tiles here.
            let tiles = unsafe { kernels::amx::Tiles::configure() };
            time(&mut best, || {
                for _ in 0..count {
                    tiles.multiply::<0, 4, 6>();
                    tiles.multiply::<1, 4, 7>();
                    tiles.multiply::<2, 5, 6>();
                    tiles.multiply::<3, 5, 7>();
                }
            });
        }
        return count as f64 * 4.0 * 16384.0 / best / 1e9;
    }
    0.0
}
