//! `neva kernels inspect OP`: what a profiler would show of an op's kernels, line by line, without a GPU.
//!
//! Each pass of the case runs once in a process of its own, `neva kernels profile`, on the simulated GPU, which counts
//! the accesses between the driver's calls for profilers and prints them at its end. `kernel-sim` starts that process,
//! unless this one runs on the simulator already.

mod counts;
mod page;
mod table;

use ::kernels::check::compile::files;
use ::kernels::check::{Case, CaseKind, Entry};
use ::kernels::op::{Cost, Run};
use ::kernels::{DType, Device, programs};
use clap::Args;
use neva::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::process::Command;

use super::bench::Dtype;
use super::kernels::entries;
use super::kernels_bench::{PassName, one_case};
use super::{bytes, print};
use counts::Kernel;

/// Count what an op's kernels do to memory, by source line, on the simulated GPU: sectors, bank conflicts, bytes read again
#[derive(Args)]
pub struct InspectArguments {
    /// The op
    op: String,
    /// The case whose name this is, or the only one whose name holds it; otherwise that of the checks with the most bytes
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Only this pass
    #[arg(long)]
    pass: Option<PassName>,
    /// Arithmetic
    #[arg(long, default_value = "bf16")]
    dtype: Dtype,
    /// Lines shown of each kernel, the worst first
    #[arg(long, default_value_t = 10, value_parser = crate::cli::values::count)]
    lines: usize,
    /// Write the annotated sources to this file, a page that needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write every count to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What was counted of one case.
struct Report {
    op: &'static str,
    case: String,
    dtype: DType,
    passes: Vec<Counted>,
    /// The files that lines are of, by name: where each lies below `kernels/`, and its text.
    files: BTreeMap<String, (String, String)>,
}

/// One pass.
struct Counted {
    pass: &'static str,
    /// The op's own count of what it has to do.
    cost: Cost,
    kernels: Vec<Kernel>,
}

pub fn inspect(arguments: &InspectArguments) -> Result<()> {
    let entry = entries(Some(&arguments.op))?[0];
    let dtype = DType::from(arguments.dtype);
    let case = match &arguments.case {
        Some(text) => one_case((entry.cases)(), text)?,
        None => largest_check(entry, dtype),
    };
    let files = sources()?;
    let mut passes = vec![];
    for pass in [PassName::Forward, PassName::Backward] {
        let there = pass == PassName::Forward || entry.passes.contains("backward");
        if arguments.pass.is_some_and(|only| only != pass) || (!there && arguments.pass.is_none()) {
            continue;
        }
        passes.push(count(entry, &case, pass, dtype, &files)?);
    }
    if passes.iter().all(|p| p.kernels.is_empty()) {
        return Err(Error::Usage(format!("{}: {} launches no kernel of ours", entry.name, case.name)));
    }
    let report = Report { op: entry.name, case: case.name, dtype, passes, files };
    print(&table::text(&report, arguments.lines))?;
    if let Some(file) = &arguments.html {
        std::fs::write(file, page::html(&report)).map_err(Error::io(file))?;
    }
    if let Some(file) = &arguments.json {
        std::fs::write(file, format!("{:#}\n", report.json())).map_err(Error::io(file))?;
    }
    Ok(())
}

/// The case of the checks with the most bytes: several tiles, blocks and tasks, and still quick to simulate.
fn largest_check(entry: &Entry, dtype: DType) -> Case {
    let cases = (entry.cases)().into_iter().filter(|case| case.kind != CaseKind::Bench);
    let bytes = |case: &Case| case.op.cost(&case.specs(dtype), Run::Forward).bytes;
    cases.max_by_key(bytes).expect("every op has cases that are checked")
}

/// The files of all kernels by their plain names, as the simulator names them.
fn sources() -> Result<BTreeMap<String, (String, String)>> {
    let mut all = BTreeMap::new();
    for program in programs() {
        for (path, text) in files(program)? {
            let name = path.rsplit('/').next().unwrap_or_default().to_string();
            all.insert(name, (path, text));
        }
    }
    Ok(all)
}

/// Runs one pass in a process of its own, and reads what the simulator printed of it.
fn count(
    entry: &Entry,
    case: &Case,
    pass: PassName,
    dtype: DType,
    files: &BTreeMap<String, (String, String)>,
) -> Result<Counted> {
    let specs = case.specs(dtype);
    let (pass, cost) = match pass {
        PassName::Forward => ("forward", case.op.cost(&specs, Run::Forward)),
        PassName::Backward => ("backward", case.op.cost(&specs, Run::Backward(case.needs()))),
    };
    let mut command = on_simulator()?;
    let failed = |message: String| Error::Usage(format!("{} {pass}, {}: {message}", entry.name, case.name));
    let output = command
        .args(["kernels", "profile", entry.name, "--case", &case.name, "--pass", pass, "--device", "cuda"])
        .args(["--dtype", &dtype.to_string()])
        .env("NEVA_SIM", settings(&env::var("NEVA_SIM").unwrap_or_default()))
        .output()
        .map_err(|e| failed(format!("{}: {e}", command.get_program().display())))?;
    let printed = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        // What went wrong is all that it says, but for the table.
        let words: Vec<&str> = printed.lines().filter(|line| !line.starts_with("count ")).collect();
        let words = words.join("\n");
        return Err(failed(words.strip_prefix("error: ").unwrap_or(&words).into()));
    }
    let kernels = counts::parse(&printed, &|file| files.contains_key(file)).map_err(failed)?;
    Ok(Counted { pass, cost, kernels })
}

/// What the simulator is asked for: what it is now, and to count.
fn settings(now: &str) -> String {
    let others = now.split(',').filter(|setting| !setting.is_empty() && !setting.starts_with("count="));
    others.chain(["count=range"]).collect::<Vec<_>>().join(",")
}

/// This program, to be run on the simulated GPU.
///
/// # Errors
/// This process does not run on it, and `kernel-sim` does not lie beside this program.
fn on_simulator() -> Result<Command> {
    let this = env::current_exe().map_err(Error::io("the path of this program"))?;
    // A driver is named where `kernel-sim` has started this process. Others are not asked.
    let named = env::var_os("NEVA_CUDA_DIR").is_some_and(|directory| !directory.is_empty());
    if named && Device::gpu(0).is_ok_and(|device| device.describe().contains(SIMULATED)) {
        return Ok(Command::new(this));
    }
    let simulator = this.with_file_name("kernel-sim");
    if !simulator.is_file() {
        return Err(Error::Usage(format!(
            "only the simulated GPU counts accesses, and {} is not there: cargo build --release --workspace \
             builds it (on a card, `ncu neva kernels profile …` measures them)",
            simulator.display()
        )));
    }
    let mut command = Command::new(simulator);
    command.arg(this);
    Ok(command)
}

/// How the simulator's device begins its name.
const SIMULATED: &str = "simulated ";

impl Report {
    /// The text of a line, if it is known.
    fn source(&self, file: &str, line: usize) -> Option<&str> {
        self.files.get(file)?.1.lines().nth(line.checked_sub(1)?)
    }

    /// A warning where something that kernels do is not in the counts.
    fn caveat(&self) -> Option<&'static str> {
        let took_part = |name: &str| {
            let kernels = self.passes.iter().flat_map(|p| &p.kernels);
            let places = kernels.flat_map(|k| {
                k.accesses.iter().map(|a| &a.place).chain(k.instructions.iter().map(|i| &i.place))
            });
            places.flat_map(|place| &place.0).any(|(file, _)| file == name)
        };
        let engines = |text: &str| text.contains("tma_") || text.contains("wgmma_");
        let uses = self.files.iter().any(|(name, (_, text))| engines(text) && took_part(name));
        uses.then_some("accesses of the TMA engine and of wgmma are not counted")
    }

    fn json(&self) -> Value {
        let access = |a: &counts::Access| {
            json!({
                "line": a.place.line(), "inlined_at": a.place.callers(), "access": a.what(),
                "requests": a.requests, "bytes": a.bytes, "unit": a.space.unit(),
                "moved": a.moved, "least": a.least, "ways": a.ways,
            })
        };
        let buffer = |b: &counts::Buffer| {
            json!({
                "name": b.name, "read": b.read, "read_least": b.read_least,
                "written": b.written, "written_least": b.written_least,
            })
        };
        let instruction = |i: &counts::Instruction| {
            json!({
                "line": i.place.line(), "inlined_at": i.place.callers(), "name": i.name, "threads": i.threads,
            })
        };
        let kernel = |k: &Kernel| {
            let [moved, asked, least] = k.global_bytes();
            json!({
                "kernel": k.name, "launches": k.launches, "blocks": k.blocks,
                "global_bytes": {"moved": moved, "asked": asked, "least": least},
                "accesses": k.worst_first().into_iter().map(access).collect::<Vec<_>>(),
                "buffers": k.buffers.iter().map(buffer).collect::<Vec<_>>(),
                "instructions": k.instructions.iter().map(instruction).collect::<Vec<_>>(),
            })
        };
        let pass = |p: &Counted| {
            json!({
                "pass": p.pass, "flops": p.cost.flops, "bytes": p.cost.bytes,
                "kernels": p.kernels.iter().map(kernel).collect::<Vec<_>>(),
            })
        };
        json!({
            "op": self.op, "case": self.case, "dtype": self.dtype.to_string(),
            "caveat": self.caveat(),
            "passes": self.passes.iter().map(pass).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simulator_is_asked_to_count_whatever_else_it_is_asked() {
        assert_eq!(settings(""), "count=range");
        assert_eq!(settings("schedule=random:7,count=1"), "schedule=random:7,count=range");
    }
}
