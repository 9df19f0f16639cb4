//! Every differentiable op of the catalogue against finite differences in f64, on every CPU path of this machine.
#![allow(clippy::unwrap_used)]

use kernels::CATALOGUE;
use kernels::check::{CaseKind, Of, gradient};
use kernels::simd::Path;
use std::process::Command;

#[test]
fn every_gradient_matches_central_differences() {
    let mut failures = vec![];
    let (mut cases, mut backwards) = (0, 0);
    for entry in CATALOGUE {
        let mut worst = 0f64;
        for case in (entry.cases)().iter().filter(|c| c.kind == CaseKind::Check) {
            let any = (0..case.ins.len()).any(|i| case.ins[i].of != Of::U32 && case.op.differentiable(i));
            if !any {
                continue;
            }
            match gradient::check(case) {
                Ok(report) => {
                    cases += 1;
                    backwards += report.backwards;
                    worst = worst.max(report.worst);
                }
                Err(message) => failures.push(message),
            }
        }
        println!("{:<16} worst {worst:.1e}", entry.name);
    }
    println!("{cases} cases, {backwards} backward runs");
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert!(cases > 0, "the catalogue has no differentiable op");
}

/// A process chooses its path once, so the other ones are checked in children of this process.
#[test]
fn the_other_paths_do_too() {
    for path in Path::available().into_iter().filter(|path| *path != Path::current()) {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "every_gradient_matches_central_differences"])
            .env("NEVA_CPU", path.name())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{}:\n{text}", path.name());
    }
}
