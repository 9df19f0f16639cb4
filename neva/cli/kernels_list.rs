//! `neva kernels list [OP]`: what there is for a GPU, without one.

use ::kernels::DType;
use ::kernels::check::compile::occupancy;
use ::kernels::check::{Case, CaseKind, Entry};
use ::kernels::device::prebuilt;
use ::kernels::device::program::Source;
use ::kernels::op::{Cost, Run};
use clap::Args;
use neva::{Error, Result};
use serde_json::{Value, json};
use std::path::PathBuf;

use super::kernels::entries;
use super::kernels_budgets::{Budget, Budgets};
use super::{bytes, print, scaled};

/// The architecture whose registers and occupancy are listed.
const SHOWN: &str = "sm_90a";

/// Bytes and operations in bf16 per second of an H100 SXM by its data sheet, without sparsity.
const H100: (f64, f64) = (3.35e12, 989e12);

/// List each op's kernels: resources and occupancy on an H100, architectures in this binary, work and the least time at the sizes NeVA runs
#[derive(Args)]
pub struct ListArguments {
    /// Only this op
    op: Option<String>,
    /// Write the list to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn list(arguments: &ListArguments) -> Result<()> {
    let budgets = Budgets::read()?;
    let mut ops = vec![];
    for entry in entries(arguments.op.as_deref())? {
        print(&format!("{}: {}\n", entry.name, entry.summary))?;
        if entry.programs.is_empty() {
            print("  no kernel of its own\n")?;
        }
        let mut programs = vec![];
        for program in entry.programs {
            let name = program.name();
            let architectures = prebuilt::architectures(&name);
            let code = match architectures.join(" ") {
                none if none.is_empty() => "none, compiled when first used".into(),
                code => code,
            };
            print(&format!("  {name} (code in this binary: {code})\n"))?;
            let kernels: Vec<Kernel> =
                budgets.program(&name).map(|(kernel, budget)| Kernel::new(program, kernel, budget)).collect();
            for kernel in &kernels {
                print(&format!("    {}\n", kernel.text()))?;
            }
            let kernels: Vec<Value> = kernels.iter().map(Kernel::json).collect();
            programs.push(json!({"program": name, "architectures": architectures, "kernels": kernels}));
        }
        let mut work = vec![];
        for case in (entry.cases)().iter().filter(|case| case.kind == CaseKind::Bench) {
            for (pass, cost) in costs(entry, case) {
                print(&format!("  {} in bf16, {pass}: {}\n", case.name, floor_text(cost)))?;
                work.push(json!({
                    "case": case.name, "pass": pass, "flops": cost.flops, "bytes": cost.bytes,
                    "floor_us": Floor::of(cost).seconds * 1e6,
                }));
            }
        }
        ops.push(json!({"op": entry.name, "programs": programs, "work": work}));
    }
    let Some(file) = &arguments.json else { return Ok(()) };
    std::fs::write(file, format!("{:#}\n", json!(ops))).map_err(Error::io(file))
}

/// What one kernel needs, and how much of an H100 it fills.
struct Kernel<'a> {
    name: &'a str,
    threads: u32,
    /// None if it is not for that architecture.
    registers: Option<u32>,
    /// Bytes that it declares.
    shared: u32,
    /// The most bytes that a launch adds; None if it adds some and nobody says how many.
    dynamic: Option<u32>,
}

impl<'a> Kernel<'a> {
    fn new(program: &Source, name: &'a str, budget: &Budget) -> Self {
        let dynamic = match budget.dynamic {
            true => program.dynamic_bytes(name).map(|bytes| bytes as u32),
            false => Some(0),
        };
        let registers = budget.registers.get(SHOWN).copied();
        Kernel { name, threads: budget.threads, registers, shared: budget.shared, dynamic }
    }

    /// Percent of an H100's threads.
    fn occupancy(&self) -> Option<u32> {
        Some(occupancy(self.threads, self.registers?, self.shared + self.dynamic?))
    }

    fn dtype(&self) -> &str {
        self.name.rsplit('_').next().filter(|d| ["f32", "bf16"].contains(d)).unwrap_or("any type")
    }

    fn text(&self) -> String {
        let mut text = format!("{}: {}, up to {} threads", self.name, self.dtype(), self.threads);
        let Some(registers) = self.registers else { return text };
        text += &format!(", {registers} registers, ");
        text += &match self.dynamic {
            Some(0) => format!("{} bytes shared", self.shared),
            Some(dynamic) => format!("{} bytes shared, {dynamic} of them by launch", self.shared + dynamic),
            None => format!("{} bytes shared and more by launch", self.shared),
        };
        if let Some(occupancy) = self.occupancy() {
            text += &format!("; occupancy {occupancy} %");
        }
        text
    }

    fn json(&self) -> Value {
        json!({
            "kernel": self.name,
            "dtype": self.dtype(),
            "threads": self.threads,
            "registers": self.registers,
            "shared_bytes": self.shared,
            "dynamic_shared_bytes": self.dynamic,
            "occupancy_percent": self.occupancy(),
        })
    }
}

/// Operations and compulsory bytes of a case in bf16, of each pass that does something.
fn costs(entry: &Entry, case: &Case) -> Vec<(&'static str, Cost)> {
    let specs = case.specs(DType::Bf16);
    let mut costs = vec![("forward", case.op.cost(&specs, Run::Forward))];
    if entry.passes.contains("backward") {
        costs.push(("backward", case.op.cost(&specs, Run::Backward(case.needs()))));
    }
    costs.retain(|(_, cost)| *cost != Cost::default());
    costs
}

/// The least time on an H100.
struct Floor {
    seconds: f64,
    /// What takes that long.
    binds: &'static str,
}

impl Floor {
    fn of(cost: Cost) -> Self {
        let (memory, arithmetic) = (cost.bytes as f64 / H100.0, cost.flops as f64 / H100.1);
        match memory >= arithmetic {
            true => Floor { seconds: memory, binds: "memory" },
            false => Floor { seconds: arithmetic, binds: "arithmetic" },
        }
    }
}

fn floor_text(cost: Cost) -> String {
    let Floor { seconds, binds } = Floor::of(cost);
    format!(
        "{}, {}, {:.2} FLOP per byte; {binds} binds an H100, {:.1} us at least",
        scaled(cost.flops, "FLOP"),
        bytes(cost.bytes),
        cost.flops as f64 / cost.bytes as f64,
        seconds * 1e6
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use ::kernels::CATALOGUE;

    #[test]
    fn what_binds_is_what_takes_longer() {
        let text = floor_text(Cost { flops: 83_900_000, bytes: 33_500_000 });
        assert_eq!(text, "83.9 MFLOP, 33.5 MB, 2.50 FLOP per byte; memory binds an H100, 10.0 us at least");
        let product = Floor::of(Cost { flops: 989_000_000_000, bytes: 1_000_000 });
        assert_eq!((product.binds, product.seconds), ("arithmetic", 1e-3));
    }

    #[test]
    fn dynamic_shared_memory_of_every_kernel_is_known_and_fits_a_multiprocessor() {
        let budgets = Budgets::read().unwrap();
        let mut dynamic = 0;
        for program in CATALOGUE.iter().flat_map(|entry| entry.programs) {
            for (name, budget) in budgets.program(&program.name()) {
                let kernel = Kernel::new(program, name, budget);
                let bytes = kernel.dynamic.unwrap_or_else(|| panic!("{name}: nobody says how much"));
                assert_eq!(bytes > 0, budget.dynamic, "{name}");
                assert!(kernel.occupancy().is_none_or(|percent| percent > 0), "{name}: {}", kernel.text());
                dynamic += u32::from(budget.dynamic);
            }
        }
        assert!(dynamic > 0, "attention has some");
    }
}
