//! The table of `kernels/README.md`: what each kernel needs, by NVIDIA's compiler, and what it does to memory, counted on
//! the simulated GPU. `NEVA_UPDATE=1` rewrites it.
//!
//! The tile of a block stands in the header of its `.cu`, with expressions of the constants and macros that the code uses
//! in braces, which are computed here.
//!
//! Needs g++, as all tests on the simulator.
#![allow(clippy::unwrap_used)]

mod simulated;

use kernels::device::program::Source;
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
    tiles: BTreeSet<String>,
    threads: BTreeSet<u64>,
    registers: BTreeSet<u64>,
    shared_bytes: BTreeSet<u64>,
    occupancy: BTreeSet<u64>,
    counted: Option<Counted>,
}

/// What a pass of an op did in a case.
struct Moved {
    op: &'static str,
    case: &'static str,
    pass: String,
    /// Bytes that it has to move, those that its kernels had to, and those that they moved, in sectors.
    bytes: [u64; 3],
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

/// The text of a program, then those of the headers that it includes.
fn texts(source: &Source) -> Vec<String> {
    let mut all = vec![source.text.to_string()];
    let mut next = 0;
    while next < all.len() {
        let included = all[next].lines().filter_map(|l| l.strip_prefix("#include \"")?.strip_suffix('"'));
        let path = |name| Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/cuda").join(name);
        let found: Vec<String> = included.map(|name| fs::read_to_string(path(name)).unwrap()).collect();
        all.extend(found);
        next += 1;
    }
    all
}

/// An expression of products and quotients, from the left, of integers, a program's macros and its constants.
fn value(expression: &str, source: &Source, texts: &[String]) -> u64 {
    let atom = |name: &str| -> u64 {
        if let Ok(number) = name.parse() {
            return number;
        }
        if let Some((_, number)) = source.defines.iter().find(|(defined, _)| *defined == name) {
            return number.parse().unwrap();
        }
        let lines = texts.iter().flat_map(|text| text.lines());
        let constants = lines.filter_map(|line| line.strip_prefix("constexpr ")?.split(';').next());
        let definitions = constants.flat_map(|line| line.split_once(' ').unwrap().1.split(", "));
        let mut values = definitions.filter_map(|one| one.strip_prefix(name)?.strip_prefix(" = "));
        let defined = values.next().unwrap_or_else(|| panic!("{}: nothing says what {name} is", source.file));
        value(defined, source, texts)
    };
    let mut words = expression.split_whitespace();
    let mut result = atom(words.next().unwrap());
    while let Some(operator) = words.next() {
        let right = atom(words.next().unwrap());
        match operator {
            "*" => result *= right,
            "/" => result /= right,
            other => panic!("{}: {other:?} in {expression:?}", source.file),
        }
    }
    result
}

/// What a block of this kernel has for its own, by the lines `Tile` in the header of its file.
fn tile(source: &Source, kernel: &str) -> String {
    let header = source.text.lines().take_while(|line| line.starts_with("//"));
    let tiles = header.skip_while(|line| !line.starts_with("// Tile      "));
    let mut lines = tiles.enumerate().take_while(|(i, line)| *i == 0 || line.starts_with("//           "));
    let of_kernel = lines.find_map(|(_, line)| {
        let (parts, tile) = line[13..].strip_suffix('.')?.split_once(": ")?;
        // The part is what stands between the op and the types.
        let is_of = |part| {
            let (_, types) = kernel.split_once(&format!("_{part}_"))?;
            types.split('_').all(|t| matches!(t, "to" | "f32" | "bf16" | "u32")).then_some(())
        };
        parts.split(", ").any(|part| is_of(part).is_some()).then_some(tile)
    });
    let of_kernel = of_kernel.unwrap_or_else(|| panic!("{}: no tile of {kernel}", source.file));
    let texts = texts(source);
    let mut pieces = of_kernel.split('{');
    let mut result = pieces.next().unwrap().to_string();
    for piece in pieces {
        let (expression, rest) = piece.split_once('}').unwrap();
        result += &value(expression, source, &texts).to_string();
        result += rest;
    }
    result
}

/// Every kernel for bf16 by its name, with what the compiler made of it.
fn kernels() -> Option<BTreeMap<String, Kernel>> {
    let mut all: BTreeMap<String, Kernel> = BTreeMap::new();
    let sources = kernels::programs();
    for op in json(&["list"], "kernels-list")?.as_array().unwrap() {
        let programs = items(op, "programs").flat_map(|program| {
            let source = sources.iter().find(|source| source.name() == program["program"].as_str().unwrap());
            items(program, "kernels").map(move |listed| (source.unwrap(), listed))
        });
        for (source, listed) in programs {
            let name = listed["kernel"].as_str().unwrap();
            let tile = tile(source, name);
            if listed["dtype"] == "f32" {
                continue;
            }
            let number = |key: &str| listed[key].as_u64().unwrap();
            let kernel = all.entry(name.to_string()).or_default();
            kernel.tiles.insert(tile);
            kernel.threads.insert(number("threads"));
            kernel.registers.insert(number("registers"));
            kernel.shared_bytes.insert(number("shared_bytes") + number("dynamic_shared_bytes"));
            kernel.occupancy.insert(number("occupancy_percent"));
        }
    }
    Some(all)
}

/// What the kernels of one case did, and what its passes did.
type Case = (Vec<(String, Counted)>, Vec<Moved>);

fn count((op, case): (&'static str, &'static str)) -> Option<Case> {
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
    let moved = |pass: &Value| {
        let sum = |key: &str| items(pass, "kernels").map(|k| k["global_bytes"][key].as_u64().unwrap()).sum();
        let bytes = [pass["bytes"].as_u64().unwrap(), sum("least"), sum("moved")];
        Moved { op, case, pass: pass["pass"].as_str().unwrap().to_string(), bytes }
    };
    let kernels = items(&inspected, "passes").flat_map(|pass| items(pass, "kernels")).map(counted).collect();
    Some((kernels, items(&inspected, "passes").map(moved).collect()))
}

/// `64`, or `40-72`.
fn range(numbers: &BTreeSet<u64>) -> String {
    let (least, most) = (numbers.first().unwrap(), numbers.last().unwrap());
    if least == most { least.to_string() } else { format!("{least}-{most}") }
}

/// Texts that are the same but for numbers, as one with ranges.
fn merged(texts: &BTreeSet<String>) -> String {
    let rows: Vec<Vec<&str>> = texts.iter().map(|text| text.split(' ').collect()).collect();
    let word = |i: usize| {
        let numbers: Option<BTreeSet<u64>> = rows.iter().map(|row| row[i].parse().ok()).collect();
        assert!(numbers.is_some() || rows.iter().all(|row| row[i] == rows[0][i]), "{texts:?}");
        numbers.map_or(rows[0][i].to_string(), |numbers| range(&numbers))
    };
    (0..rows[0].len()).map(word).collect::<Vec<_>>().join(" ")
}

fn ratio([moved, least]: [u64; 2]) -> String {
    if least == 0 { "-".into() } else { format!("{:.2}", moved as f64 / least as f64) }
}

fn table(kernels: &BTreeMap<String, Kernel>) -> String {
    let mut table = String::from(
        "| kernel | a block's tile | threads | registers | shared memory | occupancy, % | bytes | sectors | banks | counted in |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (name, kernel) in kernels {
        let _ = write!(
            table,
            "| `{name}` | {} | {} | {} | {} | {} ",
            merged(&kernel.tiles),
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

fn moved_table(passes: &[Moved]) -> String {
    let mut table = String::from(
        "| op, case | pass | has to move, kB | kernels have to, kB | moved, kB | of what it has to |\n|---|---|---|---|---|---|\n",
    );
    for Moved { op, case, pass, bytes } in passes.iter().filter(|moved| moved.bytes[0] >= 10_000) {
        let [least, own, moved] = bytes.map(|b| format!("{:.1}", b as f64 / 1e3));
        let ratio = ratio([bytes[2], bytes[0]]);
        let _ = writeln!(table, "| {op}, {case} | {pass} | {least} | {own} | {moved} | {ratio} |");
    }
    table
}

/// What stands between two marks of a text is this, or becomes it.
fn hold(text: &mut String, mark: &str, table: &str, update: bool) {
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
    let from = text.find(&begin).unwrap() + begin.len();
    let to = text.find(&end).unwrap();
    if update {
        return text.replace_range(from..to, table);
    }
    let stale = "kernels/README.md is out of date: NEVA_UPDATE=1 cargo test --release --test kernel_table";
    for (old, new) in text[from..to].lines().zip(table.lines()) {
        assert_eq!(old, new, "{stale}");
    }
    assert_eq!(text[from..to].len(), table.len(), "{stale}");
}

#[test]
fn the_table_of_kernels_says_what_is_so() {
    let Some(mut kernels) = kernels() else { return };
    let (counted, moved): (Vec<_>, Vec<_>) = CASES.par_iter().map(|case| count(*case).unwrap()).unzip();
    let moved: Vec<Moved> = moved.into_iter().flatten().collect();
    for (name, counted) in counted.into_iter().flatten() {
        // Those for f32 that a pass launches too are not in the table.
        let Some(kernel) = kernels.get_mut(&name) else { continue };
        if kernel.counted.as_ref().is_none_or(|former| former.bytes[0] < counted.bytes[0]) {
            kernel.counted = Some(counted);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/README.md");
    let mut readme = fs::read_to_string(&path).unwrap();
    let update = env::var_os("NEVA_UPDATE").is_some();
    hold(&mut readme, "kernels", &table(&kernels), update);
    hold(&mut readme, "moved", &moved_table(&moved), update);
    if update {
        fs::write(&path, readme).unwrap();
    }
}
