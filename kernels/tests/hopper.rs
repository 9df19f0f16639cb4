//! Hopper's engines on the simulated GPU: kernels that use them as a fast kernel does give the right answer under
//! every schedule, whether what runs beside the threads is over late or early; the same kernels with a mistake do
//! not, or are reported.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/simulated/mod.rs"]
mod simulated;

use kernels::check::Random;
use kernels::device::Kind;
use kernels::device::gpu::{Gpu, Grid, KernelArg};
use kernels::device::program::Source;
use kernels::device::tensor_map::{Swizzle, TensorMap};
use kernels::dtype::bf16;
use kernels::{Buffer, DType, Device, Result, Role, Spec};
use simulated::{IN_CHILD, child, simulated, simulator, text};
use std::env;

/// The kernels without a mistake, and with each of those that `hopper.cu` lists.
const fn planted(plant: &'static [(&'static str, &'static str)]) -> Source {
    Source {
        defines: plant,
        architectures: &["sm_90a"],
        ..Source::new("hopper.cu", include_str!("hopper.cu"))
    }
}
const SOUND: Source = planted(&[("PLANT", "0")]);
const EARLY_RELEASE: Source = planted(&[("PLANT", "1")]);
const NO_FULL_WAIT: Source = planted(&[("PLANT", "2")]);
const NO_EMPTY_WAIT: Source = planted(&[("PLANT", "3")]);
const NO_PROXY_FENCE: Source = planted(&[("PLANT", "4")]);
const NO_WGMMA_FENCE: Source = planted(&[("PLANT", "5")]);
const NO_WGMMA_WAIT: Source = planted(&[("PLANT", "6")]);
const LESS_BYTES: Source = planted(&[("PLANT", "7")]);

const MISUSE: Source = Source {
    architectures: &["sm_90a"],
    ..Source::new("hopper_misuse.cu", include_str!("hopper_misuse.cu"))
};

fn gpu(device: &Device) -> &Gpu {
    let Kind::Gpu(gpu) = device.kind() else { unreachable!("opened as a GPU") };
    gpu
}

/// A matrix of normal values, as bf16 holds them.
fn matrix(device: &Device, rows: usize, columns: usize, seed: u64) -> (Buffer, Vec<f64>) {
    let mut random = Random::new(seed);
    let values: Vec<bf16> = (0..rows * columns).map(|_| bf16::from_f64(random.normal())).collect();
    let buffer = Buffer::from_slice(device, [rows, columns], &values, Role::Workspace).unwrap();
    (buffer, values.into_iter().map(f64::from).collect())
}

/// The largest difference between c and a b^T, as a fraction of what adding in f32 may lose; infinite for a NaN.
fn error(c: &[f32], a: &[f64], b: &[f64], [m, n, k]: [usize; 3]) -> f64 {
    let mut worst = 0.0f64;
    for (row, column) in (0..m).flat_map(|r| (0..n).map(move |c| (r, c))) {
        let products = (0..k).map(|i| a[row * k + i] * b[column * k + i]);
        let (sum, size) = products.fold((0.0, 0.0), |(s, z), p| (s + p, z + p.abs()));
        let allowed = k as f64 * 2f64.powi(-23) * size;
        let off = (f64::from(c[row * n + column]) - sum).abs() / allowed;
        worst = if off.is_nan() { f64::INFINITY } else { worst.max(off) };
        if worst == f64::INFINITY {
            break;
        }
    }
    worst
}

/// Ragged in every direction, and deeper than the ring has stages.
const SHAPE: [usize; 3] = [200, 136, 328];

/// The error of the pipelined product.
fn pipelined(source: &Source) -> Result<f64> {
    let device = Device::gpu_poisoned(0)?;
    let gpu = gpu(&device);
    let [m, n, k] = SHAPE;
    let ((a, a_values), (b, b_values)) = (matrix(&device, m, k, 1), matrix(&device, n, k, 2));
    let mut c = device.alloc(Spec::new(DType::F32, [m, n]), Role::Workspace)?;
    let args = [
        KernelArg::TensorMap(TensorMap::read(gpu, &a, [64, 64], Swizzle::Bytes128)?),
        KernelArg::TensorMap(TensorMap::read(gpu, &b, [64, 64], Swizzle::Bytes128)?),
        KernelArg::write(&mut c),
        KernelArg::U32(m as u32),
        KernelArg::U32(n as u32),
        KernelArg::U32(k as u32),
    ];
    let blocks = [n.div_ceil(128) as u32, m.div_ceil(128) as u32, 1];
    let grid = Grid { blocks, threads: 384, shared_bytes: 3 * 4 * 64 * 64 * 2 };
    // SAFETY: arguments as in the signature of pipelined_gemm, for matrices of these sizes; the grid covers c.
    unsafe { gpu.launch("hopper", source, "pipelined_gemm", grid, &args) }?;
    Ok(error(&c.to_vec()?, &a_values, &b_values, SHAPE))
}

/// The error of the product of what threads wrote to shared memory.
fn written_by_threads(source: &Source) -> Result<f64> {
    let device = Device::gpu_poisoned(0)?;
    let ((a, a_values), (b, b_values)) = (matrix(&device, 64, 64, 3), matrix(&device, 64, 64, 4));
    let mut c = device.alloc(Spec::new(DType::F32, [64, 64]), Role::Workspace)?;
    let args = [KernelArg::read(&a), KernelArg::read(&b), KernelArg::write(&mut c)];
    let grid = Grid { shared_bytes: 2 * 64 * 64 * 2, ..Grid::linear(1, 128) };
    // SAFETY: arguments as in the signature of written_by_threads, all of 64 x 64.
    unsafe { gpu(&device).launch("hopper", source, "written_by_threads", grid, &args) }?;
    Ok(error(&c.to_vec()?, &a_values, &b_values, [64, 64, 64]))
}

/// One of the kernels of `hopper_misuse.cu`; the matrix that its map is of.
fn misuse(kernel: &str) -> Result<Vec<f32>> {
    let device = Device::gpu_poisoned(0)?;
    let (mut a, _) = matrix(&device, 64, 64, 5);
    let mut out = Buffer::zeros(&device, Spec::new(DType::U32, [128]), Role::Workspace)?;
    let map = TensorMap::write(gpu(&device), &mut a, [64, 64], Swizzle::Bytes128)?;
    let args = [KernelArg::TensorMap(map), KernelArg::write(&mut out)];
    let grid = Grid { shared_bytes: 3 * 64 * 64 * 2, ..Grid::linear(1, 128) };
    // SAFETY: arguments as in the signatures of that file; what they do wrong, the simulator catches.
    unsafe { gpu(&device).launch("hopper", &MISUSE, kernel, grid, &args) }?;
    Ok(a.to_vec::<bf16>()?.into_iter().map(f32::from).collect())
}

const SCHEDULES: [[(&str, &str); 1]; 8] = [
    [("NEVA_SIM", "schedule=lowest,late")],
    [("NEVA_SIM", "schedule=highest,late")],
    [("NEVA_SIM", "schedule=round,late")],
    [("NEVA_SIM", "schedule=random:3,late")],
    [("NEVA_SIM", "schedule=random:4,late")],
    [("NEVA_SIM", "schedule=lowest,early")],
    [("NEVA_SIM", "schedule=highest,early")],
    [("NEVA_SIM", "schedule=random:5,early")],
];

#[test]
fn a_pipelined_product_is_right_under_every_schedule() {
    simulated(&SCHEDULES.each_ref().map(|e| &e[..]), || {
        let error = pipelined(&SOUND).unwrap();
        assert!(error <= 1.0, "{error} times what it may be off");
    });
}

#[test]
fn a_product_of_what_threads_wrote_is_right_under_every_schedule() {
    simulated(&SCHEDULES.each_ref().map(|e| &e[..]), || {
        let error = written_by_threads(&SOUND).unwrap();
        assert!(error <= 1.0, "{error} times what it may be off");
    });
}

/// What a test's body printed in a child under each of the schedules; None in the child itself, or where there is no
/// compiler.
fn printed(schedules: &[[(&str, &str); 1]], body: fn()) -> Option<Vec<String>> {
    if env::var_os(IN_CHILD).is_some() {
        body();
        return None;
    }
    let simulator = simulator()?;
    Some(schedules.iter().map(|schedule| text(&child(schedule, Some(simulator)))).collect())
}

fn print_error(error: Result<f64>) {
    match error {
        Ok(error) => println!("error: {error:.3}"),
        Err(e) => println!("failed: {e}"),
    }
}

/// How a launch that the simulator ended is reported.
const FAULT: &str = "failed: download: CUDA driver: unspecified launch failure (CUDA_ERROR_LAUNCH_FAILED)";

/// In how many of the printed texts the kernel's answer was wrong, or its launch failed.
fn wrong(texts: &[String]) -> usize {
    let wrong = |text: &&String| {
        let ran = text.contains("error: ") || text.contains(FAULT);
        assert!(ran, "nothing was launched:\n{text}");
        !text.contains("error: 0.")
    };
    texts.iter().filter(wrong).count()
}

/// Every launch fails with a report that holds all of `words`.
fn assert_reports(texts: &[String], words: &[&str]) {
    for text in texts {
        assert!(
            text.contains("failed: ") && words.iter().all(|word| text.contains(word)),
            "{words:?}:\n{text}"
        );
    }
}

#[test]
fn a_stage_released_before_its_products_are_over_shows_when_they_are_late() {
    let texts = printed(&SCHEDULES[..5], || print_error(pipelined(&EARLY_RELEASE)));
    if let Some(texts) = texts {
        assert!(wrong(&texts) > 0, "{texts:?}");
    }
}

#[test]
fn a_missing_wait_for_a_full_stage_shows_when_copies_are_late() {
    let texts = printed(&SCHEDULES[..5], || print_error(pipelined(&NO_FULL_WAIT)));
    if let Some(texts) = texts {
        assert_eq!(wrong(&texts), texts.len(), "{texts:?}");
    }
}

#[test]
fn a_missing_wait_for_an_empty_stage_shows() {
    let texts = printed(&SCHEDULES[..5], || print_error(pipelined(&NO_EMPTY_WAIT)));
    if let Some(texts) = texts {
        assert_eq!(wrong(&texts), texts.len(), "{texts:?}");
    }
}

#[test]
fn products_into_registers_that_no_fence_hands_over_are_reported() {
    let texts = printed(&SCHEDULES, || print_error(pipelined(&NO_WGMMA_FENCE)));
    if let Some(texts) = texts {
        assert_reports(&texts, &["pipelined_gemm", "no wgmma.fence"]);
    }
}

#[test]
fn products_that_nobody_waits_for_are_reported() {
    let texts = printed(&SCHEDULES, || print_error(pipelined(&NO_WGMMA_WAIT)));
    if let Some(texts) = texts {
        assert_reports(&texts, &["pipelined_gemm", "returns without waiting for its wgmma"]);
    }
}

#[test]
fn a_barrier_that_expects_too_few_bytes_is_reported_when_copies_are_late() {
    let texts = printed(&SCHEDULES[..3], || print_error(pipelined(&LESS_BYTES)));
    if let Some(texts) = texts {
        assert_reports(&texts, &["pipelined_gemm"]);
    }
}

const CHECKED: [[(&str, &str); 1]; 4] = [
    [("NEVA_SIM", "schedule=lowest,late,check=race+bounds+proxy")],
    [("NEVA_SIM", "schedule=highest,early,check=race+bounds+proxy")],
    [("NEVA_SIM", "schedule=random:6,late,check=race+bounds+proxy")],
    [("NEVA_SIM", "schedule=random:7,early,check=race+bounds+proxy")],
];

#[test]
fn the_checker_passes_what_is_sound() {
    simulated(&CHECKED.each_ref().map(|e| &e[..]), || {
        for error in [pipelined(&SOUND), written_by_threads(&SOUND)] {
            let error = error.unwrap();
            assert!(error <= 1.0, "{error} times what it may be off");
        }
    });
}

/// It is found under every schedule, late or early, whatever the answer is: by the checker, unless the kernel trips over
/// a barrier before.
fn assert_race(texts: Option<Vec<String>>) {
    for text in texts.into_iter().flatten() {
        let found = text.contains("race at byte") || text.contains("more arrivals at an mbarrier");
        assert!(found && text.contains("hopper.cu:") && text.contains(FAULT), "{text}");
    }
}

#[test]
fn the_checker_finds_a_stage_released_before_its_products_are_over() {
    assert_race(printed(&CHECKED, || print_error(pipelined(&EARLY_RELEASE))));
}

#[test]
fn the_checker_finds_a_missing_wait_for_a_full_stage() {
    assert_race(printed(&CHECKED, || print_error(pipelined(&NO_FULL_WAIT))));
}

#[test]
fn the_checker_finds_a_missing_wait_for_an_empty_stage() {
    assert_race(printed(&CHECKED, || print_error(pipelined(&NO_EMPTY_WAIT))));
}

#[test]
fn the_checker_finds_what_the_engines_may_not_see_yet() {
    let missing = || print_error(written_by_threads(&NO_PROXY_FENCE));
    let texts = printed(&[CHECKED[0], CHECKED[1], [("NEVA_SIM", "check=race+bounds")]], missing);
    if let Some(texts) = texts {
        assert_reports(&texts[..2], &["written_by_threads", "fence.proxy.async"]);
        assert_eq!(wrong(&texts[2..]), 0, "nothing but the fence is missing: {texts:?}");
    }
}

/// The kernels of `hopper_misuse.cu`, and what the report of each has to hold.
const MISUSES: [(&str, &[&str]); 15] = [
    ("used_before_init", &["an mbarrier is used before it is initialised", "hopper_misuse.cu:13"]),
    ("initialised_twice", &["an mbarrier is initialised a second time"]),
    ("too_many_arrivals", &["more arrivals at an mbarrier", "the 2 of its phase"]),
    ("overwritten", &["the bytes of an mbarrier were overwritten"]),
    (
        "never_complete",
        &["deadlock", "an mbarrier at hopper_misuse.cu:", "phase 0 misses 1 arrivals and 0 bytes"],
    ),
    ("not_fenced", &["no fence lies between the initialisation of its mbarrier and the engine"]),
    ("not_waited_for", &["the block ends while its TMA load", "may still write shared memory"]),
    ("not_aligned", &["is not aligned to 128 bytes"]),
    ("beyond_shared", &["the tile does not lie in shared memory"]),
    ("no_map", &["not one that cuTensorMapEncodeTiled made"]),
    ("store_not_read", &["returns without waiting until its TMA store", "has read shared memory"]),
    ("half_a_warpgroup", &["issued fewer wgmma than others of its warpgroup"]),
    ("different_operands", &["the warps of a warpgroup issue different wgmma"]),
    ("askew", &["the descriptor of a does not begin where its swizzle does"]),
    ("operand_beyond_shared", &["the descriptor of b reaches beyond shared memory"]),
];

/// Names the kernel of [`MISUSES`] that a child launches.
const KERNEL: &str = "NEVA_TEST_KERNEL";

#[test]
fn every_misuse_is_reported() {
    if let Ok(kernel) = env::var(KERNEL) {
        return print_error(misuse(&kernel).map(|_| 0.0));
    }
    let Some(simulator) = simulator() else { return };
    for (kernel, words) in MISUSES {
        let output = text(&child(&[("NEVA_SIM", "schedule=lowest,late"), (KERNEL, kernel)], Some(simulator)));
        assert_reports(&[output], &[words, &[kernel]].concat());
    }
}

#[test]
fn a_store_reads_its_source_as_late_as_it_may() {
    simulated(&[&SCHEDULES[0], &SCHEDULES[3], &SCHEDULES[5]], || {
        let early = env::var("NEVA_SIM").unwrap().ends_with("early");
        let expected = if early { 1.0 } else { 0.0 }; // ones, and the zeros written over them before the wait
        assert!(misuse("rewritten_too_soon").unwrap().iter().all(|v| *v == expected));
    });
}
