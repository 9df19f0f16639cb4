//! Every op of the catalogue in f32 and bf16, forward and backward, on every CPU path of this machine, against f64;
//! and bit-equal between numbers of threads and between processes.
//!
//! A process chooses its path once, so the test runs this binary again as a child for every path.
#![allow(clippy::unwrap_used)]

use kernels::check::parity::{Sink, Values, Yardstick, run};
use kernels::check::{Case, CaseKind};
use kernels::simd::Path;
use kernels::{CATALOGUE, DType, Device};
use std::collections::BTreeMap;
use std::process::Command;

/// Starts the lines in which a child reports.
const REPORT: &str = "parity-report";

/// What a child found out about one case in one type and pass: its error as a fraction of what is allowed, and a
/// hash of all its bits.
struct Finding {
    error: f64,
    bits: u64,
}

#[test]
fn every_op_is_as_exact_as_its_type_allows_on_every_path() {
    let mut failures = vec![];
    // Per op: path, type and pass -> cases and worst error.
    let mut coverage: BTreeMap<(&str, String), (usize, f64)> = BTreeMap::new();
    for path in Path::available() {
        let first = child(path, "measures_the_path_of_this_process");
        let second = child(path, "hashes_the_path_of_this_process");
        let bits = |f: &Findings| f.iter().map(|(key, f)| (key.clone(), f.bits)).collect::<Vec<_>>();
        assert_eq!(bits(&first), bits(&second), "{}: two processes differ", path.name());
        for ((op, case, dtype, pass), finding) in &first {
            if finding.error > 1.0 {
                failures.push(format!(
                    "{op}/{case} {pass} in {dtype} on {}: {:.2} times the allowed error",
                    path.name(),
                    finding.error
                ));
            }
            let entry = CATALOGUE.iter().find(|e| e.name == op).unwrap();
            let (cases, worst) =
                coverage.entry((entry.name, format!("{} {dtype} {pass}", path.name()))).or_default();
            *cases += 1;
            *worst = worst.max(finding.error);
        }
    }
    println!("op, path, type, pass: cases, worst error as a fraction of the allowed one");
    for ((op, column), (cases, worst)) in &coverage {
        println!("{op:<16} {column:<24} {cases:>3} {worst:>6.2}");
    }
    for entry in CATALOGUE {
        let backward = entry.passes.contains("backward");
        for path in Path::available() {
            for dtype in ["f32", "bf16"] {
                for pass in if backward { &["forward", "backward"][..] } else { &["forward"] } {
                    let column = format!("{} {dtype} {pass}", path.name());
                    if !coverage.contains_key(&(entry.name, column.clone())) {
                        failures.push(format!("{}: nothing ran for {column}", entry.name));
                    }
                }
            }
        }
        if !(entry.cases)().iter().any(|c| c.kind == CaseKind::Parity) {
            failures.push(format!("{}: no case is large enough for several tasks", entry.name));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// (op, case, type, pass) -> what the child found.
type Findings = BTreeMap<(String, String, String, String), Finding>;

fn child(path: Path, test: &str) -> Findings {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--nocapture"])
        .env("NEVA_CPU", path.name())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}:\n{out}\n{err}", path.name());
    let mut findings = Findings::new();
    for line in out.lines() {
        let Some((_, report)) = line.split_once(REPORT) else { continue };
        let [_, op, case, dtype, pass, error, bits] = report.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let key = [op, case, dtype, pass].map(String::from);
        let finding = Finding { error: error.parse().unwrap(), bits: bits.parse().unwrap() };
        assert!(findings.insert(key.into(), finding).is_none(), "two cases are called {op}/{case}");
    }
    findings
}

#[test]
#[ignore = "run by every_op_is_as_exact_as_its_type_allows_on_every_path, once per path"]
fn measures_the_path_of_this_process() {
    survey(true);
}

#[test]
#[ignore = "run by every_op_is_as_exact_as_its_type_allows_on_every_path, once per path"]
fn hashes_the_path_of_this_process() {
    survey(false);
}

/// Reports the bits of every case and, if asked, its error; asserts that they do not depend on threads.
fn survey(measure: bool) {
    assert_eq!(Path::choose().unwrap(), Path::current());
    let pools = [1, 2, 3].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap());
    for entry in CATALOGUE {
        for case in (entry.cases)().iter().filter(|c| c.kind != CaseKind::Bench) {
            for dtype in [DType::F32, DType::Bf16] {
                let [one, two, three] = pools.each_ref().map(|pool| pool.install(|| runs(case, dtype)));
                assert!(
                    one == two && one == three,
                    "{}/{} in {dtype} depends on threads",
                    entry.name,
                    case.name
                );
                let (mut forward, mut backward) = (0f64, 0f64);
                if measure {
                    let yardstick = Yardstick::measure(case, dtype).unwrap();
                    for worst in one.each_ref().map(|values| yardstick.compare(values)) {
                        forward = forward.max(worst.forward);
                        backward = backward.max(worst.backward.unwrap_or(0.0));
                    }
                }
                let report = |pass: &str, error: f64, bits: u64| {
                    println!("{REPORT}\t{}\t{}\t{dtype}\t{pass}\t{error:e}\t{bits}", entry.name, case.name);
                };
                report("forward", forward, hash(one.iter().flat_map(|v| &v.outs)));
                let grads: Vec<_> = one.iter().flat_map(|v| v.grads.iter().flatten()).collect();
                if !grads.is_empty() {
                    report("backward", backward, hash(grads.into_iter()));
                }
            }
        }
    }
}

/// With gradients in either type, on a device where what an op forgot to write is NaN.
fn runs(case: &Case, dtype: DType) -> [Values; 2] {
    let device = Device::cpu_poisoned();
    [Sink::Same, Sink::Acc].map(|sink| run(case, &device, dtype, sink).unwrap())
}

/// FNV-1a of the bits of every value.
fn hash<'a>(tensors: impl Iterator<Item = &'a Vec<f64>>) -> u64 {
    let bytes = tensors.flatten().flat_map(|v| v.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3))
}
