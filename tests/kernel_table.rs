//! The table of `kernels/README.md`: what each kernel needs, by NVIDIA's compiler, and what it does to memory, counted on
//! the simulated GPU. `NEVA_UPDATE=1` rewrites it.
//!
//! Needs g++, as all tests on the simulator.
#![allow(clippy::unwrap_used)]

mod simulated;

use rayon::prelude::*;
use serde_json::Value;
use simulated::{simulator, text};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// What is counted: rows of whole vectors, as models have them, where there are such; several tiles and blocks.
const CASES: [(&str, &str); 26] = [
    ("activation", "gelu 700x131"),
    ("adamw", "several tasks"),
    ("add", "bias of whole vectors"),
    ("add", "several tasks"),
    ("add_rms_norm", "several vectors per thread"),
    ("attention", "head_dim 128, full"),
    ("cached_attention", "one row, several chunks"),
    ("cached_attention", "prefill, head_dim 64"),
    ("cast", "several tasks to f32"),
    ("column_sum", "whole vectors, several chunks"),
    ("cross_entropy", "more than the registers hold, vectors"),
    ("dropout", "whole vectors"),
    ("embedding", "repeated ids"),
    ("embedding", "vectors, one id often"),
    ("gated", "swiglu, whole vectors"),
    ("kv_cache", "prefill of 150 rows beside single ones"),
    ("layer_norm", "several vectors per thread"),
    ("patchify", "patch 16, whole"),
    ("rms_norm", "several vectors per thread"),
    ("rope", "heads of 128"),
    ("scale", "700x131"),
    ("splice", "vectors, any order"),
    ("sum_squares", "several blocks"),
    ("sum_squares", "several tensors of several blocks"),
    ("top_k", "one, several vectors"),
    ("top_k", "several batches"),
];

/// One kernel for bf16, in all programs that have it.
#[derive(Default)]
struct Kernel {
    threads: BTreeSet<u64>,
    registers: BTreeSet<u64>,
    shared_bytes: BTreeSet<u64>,
    occupancy: BTreeSet<u64>,
    counted: Option<Counted>,
}

/// What it did in the case in which it asked for most.
struct Counted {
    op: &'static str,
    case: &'static str,
    /// Bytes of global memory that it asked for, and those it asked for at all.
    bytes: [u64; 2],
    /// Sectors, and the fewest; passes through the banks, and the fewest.
    sectors: [u64; 2],
    passes: [u64; 2],
}

/// What `neva kernels ARGUMENTS --json FILE` writes. None where there is no compiler.
fn json(arguments: &[&str], name: &str) -> Option<Value> {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.json"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_neva"));
    command.arg("kernels").args(arguments).arg("--json").arg(&file);
    command.env_remove("NEVA_KERNEL_DIR").env_remove("NEVA_SIM").envs(simulator()?.environment());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    Some(serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap())
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().unwrap().iter()
}

/// Every kernel for bf16 by its name, with what the compiler made of it.
fn kernels() -> Option<BTreeMap<String, Kernel>> {
    let mut all: BTreeMap<String, Kernel> = BTreeMap::new();
    for op in json(&["list"], "kernels-list")?.as_array().unwrap() {
        for listed in items(op, "programs").flat_map(|program| items(program, "kernels")) {
            if listed["dtype"] == "f32" {
                continue;
            }
            let number = |key: &str| listed[key].as_u64().unwrap();
            let kernel = all.entry(listed["kernel"].as_str().unwrap().to_string()).or_default();
            kernel.threads.insert(number("threads"));
            kernel.registers.insert(number("registers"));
            kernel.shared_bytes.insert(number("shared_bytes") + number("dynamic_shared_bytes"));
            kernel.occupancy.insert(number("occupancy_percent"));
        }
    }
    Some(all)
}

/// What the kernels of one case did.
fn count((op, case): (&'static str, &'static str)) -> Option<Vec<(String, Counted)>> {
    let inspected =
        json(&["inspect", op, "--case", case], &format!("kernels-{op}-{case}").replace(' ', "-"))?;
    let counted = |kernel: &Value| {
        let global = |key: &str| kernel["global_bytes"][key].as_u64().unwrap();
        let units = |unit: &str| {
            let sum = |key: &str| {
                let of_unit = items(kernel, "accesses").filter(|a| a["unit"] == unit);
                of_unit.map(|a| a[key].as_u64().unwrap()).sum()
            };
            [sum("moved"), sum("least")]
        };
        let bytes = [global("asked"), global("least")];
        let counted = Counted { op, case, bytes, sectors: units("sectors"), passes: units("passes") };
        (kernel["kernel"].as_str().unwrap().to_string(), counted)
    };
    Some(items(&inspected, "passes").flat_map(|pass| items(pass, "kernels")).map(counted).collect())
}

/// `64`, or `40-72`.
fn range(numbers: &BTreeSet<u64>) -> String {
    let (least, most) = (numbers.first().unwrap(), numbers.last().unwrap());
    if least == most { least.to_string() } else { format!("{least}-{most}") }
}

fn ratio([moved, least]: [u64; 2]) -> String {
    if least == 0 { "-".into() } else { format!("{:.2}", moved as f64 / least as f64) }
}

fn table(kernels: &BTreeMap<String, Kernel>) -> String {
    let mut table = String::from(
        "| kernel | threads | registers | shared memory | occupancy, % | bytes | sectors | banks | counted in |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (name, kernel) in kernels {
        let _ = write!(
            table,
            "| `{name}` | {} | {} | {} | {} ",
            range(&kernel.threads),
            range(&kernel.registers),
            range(&kernel.shared_bytes),
            range(&kernel.occupancy)
        );
        let _ = match &kernel.counted {
            Some(Counted { op, case, bytes, sectors, passes }) => writeln!(
                table,
                "| {} | {} | {} | {op}, {case} |",
                ratio(*bytes),
                ratio(*sectors),
                ratio(*passes)
            ),
            None => writeln!(table, "| - | - | - | - |"),
        };
    }
    table
}

#[test]
fn the_table_of_kernels_says_what_is_so() {
    let Some(mut kernels) = kernels() else { return };
    let counted: Vec<(String, Counted)> =
        CASES.par_iter().flat_map_iter(|case| count(*case).unwrap()).collect();
    for (name, counted) in counted {
        // Those for f32 that a pass launches too are not in the table.
        let Some(kernel) = kernels.get_mut(&name) else { continue };
        if kernel.counted.as_ref().is_none_or(|former| former.bytes[0] < counted.bytes[0]) {
            kernel.counted = Some(counted);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- kernels -->\n", "<!-- /kernels -->");
    let from = readme.find(begin).unwrap() + begin.len();
    let to = readme.find(end).unwrap();
    let table = table(&kernels);
    if env::var_os("NEVA_UPDATE").is_some() {
        return fs::write(&path, [&readme[..from], &table, &readme[to..]].concat()).unwrap();
    }
    for (old, new) in readme[from..to].lines().zip(table.lines()) {
        assert_eq!(
            old, new,
            "kernels/README.md is out of date: NEVA_UPDATE=1 cargo test --release --test kernel_table"
        );
    }
    assert_eq!(readme[from..to].len(), table.len(), "kernels/README.md is out of date");
}
