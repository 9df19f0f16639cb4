//! `neva kernels bench [OP]` and `neva kernels profile OP`

use ::kernels::check::bench::{Ceilings, Effort, Timing, cases, once, time};
use ::kernels::check::large::{self, Scale};
use ::kernels::check::{Case, Entry};
use ::kernels::device::Kind;
use ::kernels::{DType, Device};
use clap::{Args, ValueEnum};
use neva::{Error, Result};
use serde_json::{Value, json};
use std::path::PathBuf;

use super::bench::Dtype;
use super::kernels::entries;
use super::print;

/// Time every op at the sizes that NeVA runs, with cold caches, beside the least time this machine allows
#[derive(Args)]
pub struct BenchArguments {
    /// Only this op
    op: Option<String>,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, default_value = "auto")]
    device: String,
    /// Only cases whose name holds this
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Only this pass
    #[arg(long)]
    pass: Option<PassName>,
    /// Only this arithmetic; without it both, and on a GPU bf16
    #[arg(long)]
    dtype: Option<Dtype>,
    /// Write the results to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Timed runs of each
    #[arg(long, value_parser = super::values::up_to::<1_000_000>)]
    runs: Option<usize>,
    /// Run all of it once at small sizes instead, to see that everything runs; the times mean nothing
    #[arg(long)]
    smoke: bool,
    /// Let kernels add in any order, as trainer.deterministic=false does
    #[arg(long)]
    any_order: bool,
}

/// Run one pass of one case exactly once, in an NVTX range of the op's name, for a profiler
#[derive(Args)]
pub struct ProfileArguments {
    /// The op
    op: String,
    /// cuda, cuda:N, cpu or auto
    #[arg(long, default_value = "cuda")]
    device: String,
    /// The case whose name this is, or the only one whose name holds it
    #[arg(long, value_name = "TEXT")]
    case: String,
    /// The small case of that name instead, to see that it runs
    #[arg(long)]
    smoke: bool,
    /// Which pass
    #[arg(long, default_value = "forward")]
    pass: PassName,
    /// Arithmetic
    #[arg(long, default_value = "bf16")]
    dtype: Dtype,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum PassName {
    Forward,
    Backward,
}

pub fn bench(arguments: &BenchArguments) -> Result<()> {
    let ops = entries(arguments.op.as_deref())?;
    let device = neva::device::open(&arguments.device)?;
    device.set_deterministic(!arguments.any_order);
    let mut effort = if arguments.smoke { Effort::SMOKE } else { Effort::full(&device) };
    effort.runs = arguments.runs.unwrap_or(effort.runs);
    let ceilings = Ceilings::measure(&device, effort)?;
    print(&format!(
        "{device}: copy {:.1} GB/s, product f32 {:.3} TFLOP/s, bf16 {:.3} TFLOP/s\n{:<58} {:>10} {:>7} {:>9} {:>8} {:>8}\n",
        ceilings.bytes / 1e9,
        ceilings.f32_flops / 1e12,
        ceilings.bf16_flops / 1e12,
        "",
        "ms",
        "spread",
        "TFLOP/s",
        "GB/s",
        "% floor",
    ))?;
    let mut rows = vec![];
    let large = !arguments.smoke && matches!(device.kind(), Kind::Gpu(_));
    let dtypes = match arguments.dtype {
        Some(only) => vec![DType::from(only)],
        None if large => vec![DType::Bf16],
        None => vec![DType::F32, DType::Bf16],
    };
    let passes = |entry: &Entry| {
        let backward = entry.passes.contains("backward").then_some(PassName::Backward);
        [Some(PassName::Forward), backward].into_iter().flatten()
    };
    let named = |case: &Case| arguments.case.as_deref().is_none_or(|text| case.name.contains(text));
    for entry in ops {
        for case in cases(entry, &device, arguments.smoke).iter().filter(|case| named(case)) {
            for &dtype in &dtypes {
                for pass in passes(entry).filter(|pass| arguments.pass.is_none_or(|only| only == *pass)) {
                    let timing = time(case, pass == PassName::Backward, &device, dtype, effort)?;
                    rows.push(report(entry, case, dtype, &timing, &ceilings)?);
                }
            }
        }
    }
    if rows.is_empty() {
        return Err(Error::Usage(
            "--case, --pass: no case of this name has this pass; `neva kernels list` shows them".into(),
        ));
    }
    let Some(file) = &arguments.json else { return Ok(()) };
    let whole = json!({
        "device": device.describe(),
        "smoke": arguments.smoke,
        "any_order": arguments.any_order,
        "runs": effort.runs,
        "copy_bytes_per_s": ceilings.bytes,
        "copies": ceilings.copies,
        "f32_flops_per_s": ceilings.f32_flops,
        "bf16_flops_per_s": ceilings.bf16_flops,
        "rows": rows,
    });
    std::fs::write(file, format!("{whole:#}\n")).map_err(Error::io(file))
}

/// Prints a line and returns it as JSON.
fn report(entry: &Entry, case: &Case, dtype: DType, timing: &Timing, ceilings: &Ceilings) -> Result<Value> {
    let (seconds, floor) = (timing.median(), ceilings.floor(timing.cost, dtype));
    let name = format!("{} {} {dtype} {}", entry.name, timing.pass, case.name);
    let (flops, bytes) = (timing.cost.flops as f64 / seconds, timing.cost.bytes as f64 / seconds);
    print(&format!(
        "{name:<58} {:>10.4} {:>6.1}% {:>9.3} {:>8.1} {:>8.1}\n",
        seconds * 1e3,
        timing.spread() * 1e2,
        flops / 1e12,
        bytes / 1e9,
        floor / seconds * 1e2,
    ))?;
    Ok(json!({
        "op": entry.name,
        "parameters": format!("{:?}", case.op),
        "inputs": case.ins.iter().map(|input| &input.dims).collect::<Vec<_>>(),
        "types": case.specs(dtype).iter().map(|spec| spec.dtype.to_string()).collect::<Vec<_>>(),
        "case": case.name,
        "dtype": dtype.to_string(),
        "pass": timing.pass,
        "ms": seconds * 1e3,
        "best_ms": timing.best() * 1e3,
        "spread": timing.spread(),
        "flops": timing.cost.flops,
        "bytes": timing.cost.bytes,
        "floor_ms": floor * 1e3,
    }))
}

pub fn profile(arguments: &ProfileArguments) -> Result<()> {
    let device: Device = neva::device::open(&arguments.device)?;
    let entry = entries(Some(&arguments.op))?[0];
    let mut cases = (entry.cases)();
    if matches!(device.kind(), Kind::Gpu(_)) {
        let scale = if arguments.smoke { Scale::Smoke } else { Scale::Full };
        cases.extend(large::cases(entry.name, scale));
    }
    let case = one_case(cases, &arguments.case)?;
    let backward = arguments.pass == PassName::Backward;
    if backward && !entry.passes.contains("backward") {
        return Err(Error::Usage(format!("--pass backward: {} has none", entry.name)));
    }
    Ok(once(&case, backward, &device, arguments.dtype.into())?)
}

/// The case whose name is `text`, else the only one whose name holds it.
pub fn one_case(mut cases: Vec<Case>, text: &str) -> Result<Case> {
    let exact = cases.iter().position(|case| case.name == text);
    let mut holding = (0..cases.len()).filter(|&i| cases[i].name.contains(text));
    match (exact, holding.next(), holding.next()) {
        (Some(i), ..) | (None, Some(i), None) => Ok(cases.swap_remove(i)),
        _ => {
            let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
            let names = names.join("; ");
            Err(Error::Usage(format!(
                "--case: expected a name, or a part of exactly one, got {text:?}; there are {names}"
            )))
        }
    }
}
