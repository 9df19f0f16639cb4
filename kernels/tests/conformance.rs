//! The conformance suite of the wrappers, on the simulated GPU: what the simulator makes of an instruction is what the
//! manual says. And the suite leaves no wrapper out.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/simulated/mod.rs"]
mod simulated;

use kernels::Device;
use kernels::check::conformance::{CHECKS, Verdict, check};
use simulated::{IN_CHILD, child, simulated, simulator, text};
use std::path::Path;
use std::{env, fs};

#[test]
fn the_simulator_reads_every_instruction_as_the_manual() {
    let environments = [
        [("NEVA_SIM", "schedule=lowest,late")],
        [("NEVA_SIM", "schedule=highest,late")],
        [("NEVA_SIM", "schedule=round,early")],
        [("NEVA_SIM", "schedule=random:11,late")],
        [("NEVA_SIM", "schedule=random:12,early")],
        [("NEVA_SIM", "schedule=lowest,late,check=race+bounds+proxy")],
    ];
    simulated(&environments.each_ref().map(|e| &e[..]), || {
        for (name, verdict) in check(&Device::gpu(0).unwrap()).unwrap() {
            assert_eq!(verdict, Verdict::Conforms, "{name}");
        }
    });
}

#[test]
fn the_suite_checks_every_wrapper() {
    let text = include_str!("../cuda/ptx.cuh");
    // A wrapper is a function, `DEV type name(arguments) {`, by itself or in a macro that makes several.
    let names = text.lines().filter_map(|line| {
        let words: Vec<&str> =
            line.trim().strip_prefix("DEV ")?.split('(').next()?.split_whitespace().collect();
        words.last().copied()
    });
    let names: Vec<&str> = names.collect();
    assert!(names.contains(&"ex2") && names.contains(&"wgmma_bf16"), "{names:?}");
    for name in &names {
        assert!(
            CHECKS.iter().any(|check| check.wrappers.contains(name)),
            "{name} is not in the conformance suite"
        );
    }
    for name in CHECKS.iter().flat_map(|check| check.wrappers).filter(|name| !name.starts_with("__")) {
        assert!(names.contains(name), "{name} is no wrapper");
    }
}

/// A kernel of each check with another reading of its instruction: file, what stands there, what is put in its place.
const MISREADINGS: [(&str, &str, &str); 19] = [
    ("wrappers.cu", "fresh_thread_index()]", "(fresh_thread_index() ^ 1)]"),
    ("wrappers.cu", "bf16_bits(__uint_as_float(in[i]))", "in[i] >> 16"),
    (
        "wrappers.cu",
        "bf16_pair(__uint_as_float(in[2 * i]), __uint_as_float(in[2 * i + 1]))",
        "bf16_pair(__uint_as_float(in[2 * i + 1]), __uint_as_float(in[2 * i]))",
    ),
    ("wrappers.cu", "ex2(__uint_as_float(in[i]))", "1.000001f * ex2(__uint_as_float(in[i]))"),
    ("wrappers.cu", "__shfl_down_sync(~0u, value, distance)", "__shfl_down_sync(~0u, value, distance ^ 1)"),
    ("wrappers.cu", "__ballot_sync(mask, (i32)in[lane])", "__ballot_sync(mask, in[lane] == 0)"),
    ("wrappers.cu", "slots[lane] = in[lane];\n  __syncwarp();", "slots[lane] = in[lane];"),
    // Both forms of ldmatrix, with two of the four matrices exchanged.
    ("wrappers.cu", "load(r, row);", "load(r, row), r[1] ^= r[2], r[2] ^= r[1], r[1] ^= r[2];"),
    ("wrappers.cu", "mma_bf16(d, a, mine[4], mine[5])", "mma_bf16(d, a, mine[5], mine[4])"),
    ("wrappers.cu", "copy * 4, in[copy]);", "copy * 4, 16);"),
    (
        "wrappers.cu",
        "named_barrier_sync(1, THREADS);\n      out[round * 64 + thread - 64] = slots[127 - thread];",
        "out[round * 64 + thread - 64] = slots[127 - thread];\n      named_barrier_sync(1, THREADS);",
    ),
    (
        "wrappers.cu",
        "wait_acquire(words + 1, number[0]);",
        "if (number[0] == 1) wait_acquire(words + 1, 1), number[0] = 0;",
    ),
    (
        "transfers.cu",
        "reduce_add_4((float*)out + in[at] * 4, values);",
        "reduce_add_4((float*)out + in[at] / 2 * 8, values);",
    ),
    (
        "transfers.cu",
        "mbarrier_wait(full, round & 1);\n      out[round * 64 + thread - 64] = slots[127 - thread];",
        "out[round * 64 + thread - 64] = slots[127 - thread];\n      mbarrier_wait(full, round & 1);",
    ),
    ("transfers.cu", "barrier, (i32)in[0], (i32)in[1]);", "barrier, (i32)in[0] + 1, (i32)in[1]);"),
    ("transfers.cu", "(i32)in[1 + 2 * turn],", "(i32)in[1 + 2 * turn] + 1,"),
    ("wgmma.cu", "wgmma_bf16(d, a + k, b + k, true)", "wgmma_bf16(d, a + k, b + (k ^ 2), true)"),
    ("wgmma.cu", "wgmma_bf16(second, a + k, c + k", "wgmma_bf16(second, a + k, b + k"),
    ("wgmma.cu", "value += 2;", "value += 1;"),
];

#[test]
fn the_suite_finds_every_misreading() {
    if env::var_os(IN_CHILD).is_some() {
        for (name, verdict) in check(&Device::gpu(0).unwrap()).unwrap() {
            assert!(matches!(verdict, Verdict::Differs(_)), "{name}: {verdict:?}");
        }
        return;
    }
    let Some(simulator) = simulator() else { return };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("misreadings");
    let kernels = directory.join("check/conformance");
    fs::create_dir_all(&kernels).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("check/conformance");
    for file in ["wrappers.cu", "transfers.cu", "wgmma.cu"] {
        let mut text = fs::read_to_string(source.join(file)).unwrap();
        for (_, from, to) in MISREADINGS.iter().filter(|misreading| misreading.0 == file) {
            assert!(text.contains(from), "{file} has no {from:?}");
            text = text.replacen(from, to, 1);
        }
        fs::write(kernels.join(file), text).unwrap();
    }
    // The highest threads first: readers run ahead of writers.
    let environment = [("NEVA_KERNEL_DIR", directory.to_str().unwrap()), ("NEVA_SIM", "schedule=highest")];
    let output = child(&environment, Some(simulator));
    assert!(output.status.success(), "{}", text(&output));
}
