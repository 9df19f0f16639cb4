//! `neva kernels list | check | bench | profile | inspect | compile`

use ::kernels::check::Entry;
use ::kernels::check::conformance::{self, Verdict};
use ::kernels::check::device::{Outcome, cases, check};
use ::kernels::device::Kind;
use ::kernels::{CATALOGUE, DType, Device};
use clap::{Args, Subcommand};
use neva::{Error, Result};

use super::bench::Dtype;
use super::print;

/// What `check` calls the suite of the wrappers, where it takes the name of an op.
const CONFORMANCE: &str = "conformance";

/// Check the kernels of this machine
#[derive(Subcommand)]
pub enum Command {
    List(super::kernels_list::ListArguments),
    Check(CheckArguments),
    Bench(super::kernels_bench::BenchArguments),
    Profile(super::kernels_bench::ProfileArguments),
    Inspect(super::kernels_inspect::InspectArguments),
    Compile(super::kernels_compile::CompileArguments),
}

/// Compare every case of every op with the CPU in f64; on a GPU, first each instruction with its manual
#[derive(Args)]
pub struct CheckArguments {
    /// Only this op, or `conformance` for the instructions alone
    op: Option<String>,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, default_value = "auto")]
    device: String,
    /// Only cases whose name holds this
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Let kernels add in any order, as trainer.deterministic=false does; that bits repeat is then not asked
    #[arg(long)]
    any_order: bool,
    /// Only in this type
    #[arg(long)]
    dtype: Option<Dtype>,
}

pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::List(arguments) => super::kernels_list::list(arguments),
        Command::Check(arguments) => run_check(arguments),
        Command::Bench(arguments) => super::kernels_bench::bench(arguments),
        Command::Profile(arguments) => super::kernels_bench::profile(arguments),
        Command::Inspect(arguments) => super::kernels_inspect::inspect(arguments),
        Command::Compile(arguments) => super::kernels_compile::compile(arguments),
    }
}

/// On a GPU, a line per wrapper of an instruction. Then a line per op: cases that agree, of those known, and a hash of all bits that the device gave, which no schedule
/// and no process changes. An op of which none ran is a failure, like one that differs.
fn run_check(arguments: &CheckArguments) -> Result<()> {
    let device = neva::device::open(&arguments.device)?;
    device.set_deterministic(!arguments.any_order);
    let on_gpu = matches!(device.kind(), Kind::Gpu(_));
    let dtypes = match arguments.dtype {
        Some(only) => vec![only.into()],
        None => vec![DType::F32, DType::Bf16],
    };
    let mut failures = 0;
    if on_gpu && arguments.op.as_deref().is_none_or(|op| op == CONFORMANCE) {
        failures += check_wrappers(&device)?;
    }
    let entries = match arguments.op.as_deref() {
        Some(CONFORMANCE) if on_gpu => vec![],
        op => entries(op)?,
    };
    for entry in entries {
        let mut cases = cases(entry, &device);
        cases.retain(|c| arguments.case.as_deref().is_none_or(|text| c.name.contains(text)));
        let (mut ran, mut worst, mut bits, mut messages) = (0, 0.0f64, 0u64, vec![]);
        for dtype in &dtypes {
            for case in &cases {
                match check(case, &device, *dtype) {
                    Outcome::Agrees(report) => {
                        ran += 1;
                        worst = worst.max(report.worst);
                        bits = bits.rotate_left(1) ^ report.bits;
                    }
                    Outcome::NotImplemented(error) => messages.push(error.to_string()),
                    Outcome::Differs(message) => messages.push(message),
                }
            }
        }
        let known = dtypes.len() * cases.len();
        let state = if ran == known && ran > 0 { "ok  " } else { "FAIL" };
        print(&format!(
            "{state} {}: {ran} / {known} cases, worst {worst:.2} of the allowed error, bits {bits:016x}\n",
            entry.name
        ))?;
        messages.dedup();
        for message in &messages {
            print(&format!("     {message}\n"))?;
        }
        failures += usize::from(ran < known || ran == 0);
    }
    if failures > 0 {
        return Err(Error::Usage(format!("{failures} checks failed on {device}")));
    }
    Ok(())
}

/// A line per wrapper of an instruction; how many do not do what the manual says. What ops compute rests on them, so
/// they come first.
fn check_wrappers(device: &Device) -> Result<usize> {
    let mut failures = 0;
    for (name, verdict) in conformance::check(device)? {
        match verdict {
            Verdict::Conforms => print(&format!("ok   {name}\n"))?,
            Verdict::Absent => print(&format!("--   {name}: this device does not have it\n"))?,
            Verdict::Differs(message) => {
                print(&format!("FAIL {name}: {message}\n"))?;
                failures += 1;
            }
        }
    }
    Ok(failures)
}

/// The catalogue, or the one op of it that is asked for.
pub fn entries(op: Option<&str>) -> Result<Vec<&'static Entry>> {
    let found: Vec<_> = CATALOGUE.iter().filter(|entry| op.is_none_or(|op| op == entry.name)).collect();
    if found.is_empty() {
        let names: Vec<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
        return Err(Error::Usage(format!(
            "no op is called {:?}; there are {}",
            op.unwrap_or_default(),
            names.join(", ")
        )));
    }
    Ok(found)
}
