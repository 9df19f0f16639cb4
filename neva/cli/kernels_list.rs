//! `neva kernels list [OP]`: what there is for a GPU, without one.

use ::kernels::DType;
use ::kernels::check::compile::occupancy;
use ::kernels::check::{Case, CaseKind, Entry};
use ::kernels::device::prebuilt;
use ::kernels::op::{Cost, Run};
use clap::Args;
use neva::Result;

use super::kernels::entries;
use super::kernels_budgets::{Budget, Budgets};
use super::print;

/// The architecture whose registers and occupancy are listed.
const SHOWN: &str = "sm_90a";

/// List each op's kernels: resources and occupancy on an H100, architectures in this binary, work at the sizes NeVA runs
#[derive(Args)]
pub struct ListArguments {
    /// Only this op
    op: Option<String>,
}

pub fn list(arguments: &ListArguments) -> Result<()> {
    let budgets = Budgets::read()?;
    for entry in entries(arguments.op.as_deref())? {
        print(&format!("{}: {}\n", entry.name, entry.summary))?;
        if entry.programs.is_empty() {
            print("  no kernel of its own\n")?;
        }
        for program in entry.programs {
            let name = program.name();
            let code = match prebuilt::architectures(&name).join(" ") {
                none if none.is_empty() => "none, compiled when first used".into(),
                code => code,
            };
            print(&format!("  {name} (code in this binary: {code})\n"))?;
            for (kernel, budget) in budgets.program(&name) {
                print(&format!("    {}\n", resources(kernel, budget)))?;
            }
        }
        for case in (entry.cases)().iter().filter(|case| case.kind == CaseKind::Bench) {
            print(&format!("  {}\n", work(entry, case)))?;
        }
    }
    Ok(())
}

/// What one kernel needs, and how much of an H100 it fills.
fn resources(kernel: &str, budget: &Budget) -> String {
    let dtype = kernel.rsplit('_').next().filter(|d| ["f32", "bf16"].contains(d)).unwrap_or("any type");
    let mut text = format!("{kernel}: {dtype}, up to {} threads", budget.threads);
    if let Some(registers) = budget.registers.get(SHOWN) {
        let occupancy = occupancy(budget.threads, *registers, budget.shared);
        text += &format!(
            ", {registers} registers, {} bytes shared{}; occupancy {}{occupancy} %",
            budget.shared,
            if budget.dynamic { " and more by launch" } else { "" },
            if budget.dynamic { "at most " } else { "" },
        );
    }
    text
}

/// Operations and compulsory bytes of a case in bf16.
fn work(entry: &Entry, case: &Case) -> String {
    let specs = case.specs(DType::Bf16);
    let cost = |cost: Cost| format!("{} MFLOP, {} kB", round(cost.flops, 1e6), round(cost.bytes, 1e3));
    let mut text = format!("{} in bf16: forward {}", case.name, cost(case.op.cost(&specs, Run::Forward)));
    if entry.passes.contains("backward") {
        text += &format!("; backward {}", cost(case.op.cost(&specs, Run::Backward(case.needs()))));
    }
    text
}

/// A count in larger units, with three digits where there are fewer before the point.
fn round(count: u64, unit: f64) -> String {
    let value = count as f64 / unit;
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_keep_three_digits() {
        assert_eq!(round(1_234_000, 1e6), "1.23");
        assert_eq!(round(45_678_000, 1e6), "45.7");
        assert_eq!(round(9_876_543_210, 1e6), "9877");
        assert_eq!(round(0, 1e3), "0.00");
    }
}
