//! The simulator finds planted bugs: each test launches a wrong kernel and expects the report that names it. A
//! simulator that ran wrong kernels without a word would make every test on it worthless.
//!
//! Needs g++. Without it each test says SKIPPED; `NEVA_REQUIRE_SIM=1` turns that into a failure.
#![allow(clippy::unwrap_used)]

use kernel_sim::Simulator;
use kernels::device::Kind;
use kernels::device::gpu::{Grid, KernelArg};
use kernels::device::program::Source;
use kernels::{Buffer, DType, Device, Result, Role, Spec};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::{env, thread};

/// Set in the child, where the test itself runs.
const IN_CHILD: &str = "NEVA_TEST_IN_CHILD";

/// The one test program; each kernel has a mistake, or none.
const PLANTED: &str = r#"
#include "reduce.cuh"
KERNEL(1024, sound, u32* out) {
  SMEM_ARRAY(u32, slots, 1024);
  slots[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = slots[blockDim.x - 1 - threadIdx.x];
}
KERNEL(1024, missing_barrier, u32* out) {
  SMEM_ARRAY(u32, slots, 1024);
  slots[threadIdx.x] = threadIdx.x;
  out[blockIdx.x * blockDim.x + threadIdx.x] = slots[blockDim.x - 1 - threadIdx.x];
}
KERNEL(1024, divergent_barrier, u32* out) {
  if (threadIdx.x < 32) __syncthreads(); // line 15
  out[threadIdx.x] = 0;
}
KERNEL(1024, divergent_warp, u32* out) {
  u32 v = threadIdx.x;
  if (threadIdx.x % 2) v = __shfl_xor_sync(~0u, v, 1); // line 20
  else v = __shfl_xor_sync(~0u, v, 1); // line 21
  out[threadIdx.x] = v;
}
KERNEL(1024, absent_lanes, u32* out) {
  u32 v = 0;
  if (threadIdx.x < 16) v = __ballot_sync(~0u, 1); // line 26
  out[threadIdx.x] = v;
}
KERNEL(1024, wrong_mask, u32* out) {
  u32 v = threadIdx.x;
  if (threadIdx.x % 32 < 16) v = __shfl_xor_sync(0xffffu, v, 16); // line 31
  out[threadIdx.x] = v;
}
KERNEL(1024, not_in_its_mask, u32* out) {
  __syncwarp(0xfffffffeu); // line 35
  out[threadIdx.x] = 0;
}
KERNEL(1024, past_the_end, u32* out) { out[gridDim.x * blockDim.x + threadIdx.x] = 0; }
KERNEL(1024, before_the_start, u32* out) { out[(i64)threadIdx.x - 1] = 0; }
KERNEL(1024, shuffles, u32* out) {
  const u32 lane = threadIdx.x % 32;
  u32 wrong = __shfl_sync(~0u, lane, 5) != 5;
  wrong += __shfl_xor_sync(~0u, lane, 3) != (lane ^ 3);
  wrong += __shfl_down_sync(~0u, lane, 7) != (lane + 7 < 32 ? lane + 7 : lane);
  wrong += __shfl_up_sync(~0u, lane, 7) != (lane >= 7 ? lane - 7 : lane);
  wrong += __ballot_sync(~0u, lane % 3 == 0) != 0x49249249u;
  if (lane % 2) wrong += __shfl_xor_sync(0xaaaaaaaau, lane, 2) != (lane ^ 2);
  else wrong += __ballot_sync(0x55555555u, lane < 4) != 0x5u;
  out[blockIdx.x * blockDim.x + threadIdx.x] = wrong;
}
"#;

/// Launches a planted kernel with `threads` threads in each of two blocks, and returns what it wrote.
fn launch(kernel: &str, threads: u32) -> Result<Vec<u32>> {
    let device = Device::gpu_poisoned(0)?;
    let Kind::Gpu(gpu) = device.kind() else { unreachable!("opened as a GPU") };
    let mut out = Buffer::zeros(&device, Spec::new(DType::U32, [2 * threads as usize]), Role::Workspace)?;
    let source = Source::new("planted.cu", PLANTED);
    let args = [KernelArg::write(&mut out)];
    // SAFETY: each kernel takes one address of as many u32 as there are threads. Those that go beyond do so
    // within the guard bytes of the simulator, the only driver this runs on.
    unsafe { gpu.launch("planted", &source, kernel, Grid::linear(2, threads), &args) }?;
    out.to_vec()
}

/// Runs `body` in a child on the simulated GPU; what it printed, or None where there is no compiler.
fn simulated(environment: &[(&str, &str)], body: impl FnOnce()) -> Option<String> {
    static BUILT: LazyLock<std::result::Result<Simulator, kernel_sim::Error>> =
        LazyLock::new(|| Simulator::build(Path::new(env!("CARGO_TARGET_TMPDIR"))));
    if env::var_os(IN_CHILD).is_some() {
        body();
        return None;
    }
    let simulator = match &*BUILT {
        Ok(simulator) => simulator,
        Err(e @ kernel_sim::Error::NoCompiler(..)) if env::var_os("NEVA_REQUIRE_SIM").is_none() => {
            println!("SKIPPED: {e}");
            return None;
        }
        Err(e) => panic!("{e}"),
    };
    let output = Command::new(env::current_exe().unwrap())
        .args([thread::current().name().unwrap(), "--exact", "--nocapture"])
        .env_remove("NEVA_SIM")
        .env_remove("NEVA_SYNC")
        .env(IN_CHILD, "1")
        .envs(simulator.environment())
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{environment:?}: {}\n{text}", output.status);
    Some(text.into_owned())
}

/// The kernel fails with the launch, and the report holds all of `words`.
fn reports(kernel: &str, threads: u32, words: &[&str]) {
    let text = simulated(&[], || {
        let error = launch(kernel, threads).unwrap_err().to_string();
        // A launch is asynchronous: the copy after it meets the error, and so does everything else.
        let expected = "download: CUDA driver: unspecified launch failure (CUDA_ERROR_LAUNCH_FAILED); the device is lost";
        assert!(error.starts_with(expected), "{error}");
        assert!(launch("sound", 32).is_err(), "the context went on after a fault");
    });
    if let Some(text) = text {
        for word in words {
            assert!(text.contains(word), "no {word:?} in\n{text}");
        }
    }
}

const SCHEDULES: [&str; 4] = ["schedule=lowest", "schedule=highest", "schedule=round", "schedule=random:3"];

#[test]
fn sound_kernels_run_under_every_schedule() {
    for schedule in SCHEDULES {
        simulated(&[("NEVA_SIM", schedule)], || {
            for threads in [32, 128, 1024] {
                let expected: Vec<u32> = (0..threads).rev().collect();
                assert_eq!(launch("sound", threads).unwrap(), [&expected[..], &expected[..]].concat());
                assert_eq!(launch("shuffles", threads).unwrap(), vec![0; 2 * threads as usize]);
            }
        });
    }
}

/// What schedules alone can show; the read that comes too early finds the poison of fresh shared memory.
#[test]
fn a_missing_barrier_shows_under_some_schedule() {
    for threads in [32, 128, 1024] {
        let mut wrong = 0;
        for schedule in SCHEDULES {
            let text = simulated(&[("NEVA_SIM", schedule)], || {
                let expected: Vec<u32> = (0..threads).rev().collect();
                let got = launch("missing_barrier", threads).unwrap();
                println!("wrong: {}", got != [&expected[..], &expected[..]].concat());
            });
            let Some(text) = text else { return };
            wrong += text.contains("wrong: true") as usize;
        }
        assert!(wrong > 0, "{threads} threads");
    }
}

#[test]
fn a_divergent_barrier_is_a_deadlock() {
    reports(
        "divergent_barrier",
        128,
        &["divergent_barrier", "deadlock", "__syncthreads at planted.cu:15", "96 threads have returned"],
    );
}

#[test]
fn a_divergent_warp_is_named_with_both_places() {
    reports("divergent_warp", 32, &["divergent warp", "planted.cu:20", "planted.cu:21"]);
}

#[test]
fn lanes_that_never_come_are_a_deadlock() {
    reports("absent_lanes", 32, &["deadlock", "__ballot_sync at planted.cu:26"]);
}

#[test]
fn a_shuffle_from_outside_its_mask_is_refused() {
    reports("wrong_mask", 32, &["which is not in the mask", "planted.cu:31"]);
}

#[test]
fn a_lane_outside_its_own_mask_is_refused() {
    reports("not_in_its_mask", 32, &["lane 0 is not in the mask", "planted.cu:35"]);
}

#[test]
fn a_write_past_the_end_is_found() {
    reports("past_the_end", 32, &["kernel past_the_end wrote past the end of a buffer of 256 bytes"]);
}

#[test]
fn a_write_before_the_start_is_found() {
    reports("before_the_start", 32, &["kernel before_the_start wrote in front of a buffer of 256 bytes"]);
}

#[test]
fn synchronous_launches_name_the_op_that_failed() {
    simulated(&[("NEVA_SYNC", "1")], || {
        let error = launch("divergent_barrier", 128).unwrap_err().to_string();
        assert!(error.starts_with("planted: CUDA driver: unspecified launch failure"), "{error}");
    });
}

#[test]
fn launches_beyond_the_bound_are_refused() {
    simulated(&[], || {
        let error = launch("sound", 2048).unwrap_err().to_string();
        assert!(error.starts_with("planted: launch sound: CUDA driver: invalid argument"), "{error}");
        let error = launch("no_such_kernel", 32).unwrap_err().to_string();
        assert!(
            error.starts_with("planted: find no_such_kernel: CUDA driver: named symbol not found"),
            "{error}"
        );
    });
}

#[test]
fn a_source_that_does_not_compile_gives_file_and_line() {
    simulated(&[], || {
        let device = Device::gpu(0).unwrap();
        let Kind::Gpu(gpu) = device.kind() else { unreachable!("opened as a GPU") };
        let source = Source::new("broken.cu", "#include \"ptx.cuh\"\nKERNEL(32, k, int* p) { *p = q; }\n");
        // SAFETY: nothing is launched, the source does not compile.
        let error = unsafe { gpu.launch("broken", &source, "k", Grid::linear(1, 32), &[]) }.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("kernel broken does not compile:\n"), "{text}");
        assert!(text.contains("broken.cu:2:"), "{text}");
    });
}
