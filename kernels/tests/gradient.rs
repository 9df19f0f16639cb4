//! Every differentiable op of the catalogue against finite differences in f64.

use kernels::CATALOGUE;
use kernels::check::{CaseKind, Of, gradient};

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
