//! The conformance suite of the wrappers, on the simulated GPU: what the simulator makes of an instruction is what the
//! manual says. And the suite leaves no wrapper out.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/simulated/mod.rs"]
mod simulated;

use kernels::Device;
use kernels::check::conformance::{CHECKS, Verdict, check};
use simulated::simulated;

#[test]
fn the_simulator_reads_every_instruction_as_the_manual() {
    let environments = [
        [("NEVA_SIM", "schedule=lowest,late")],
        [("NEVA_SIM", "schedule=highest,late")],
        [("NEVA_SIM", "schedule=round,early")],
        [("NEVA_SIM", "schedule=random:11,late")],
        [("NEVA_SIM", "schedule=random:12,early")],
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
