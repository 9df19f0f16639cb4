//! `neva kernels inspect` finds what was planted: in a copy of a kernel, a load that is not coalesced and a conflict of
//! banks, by file and line, on the terminal, in the page and in JSON.
#![allow(clippy::unwrap_used)]

mod simulated;

use serde_json::Value;
use simulated::{simulator, text};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The op, and a case of it whose rows are no whole vectors, so that a lane loads two bytes at a time.
const OP: &str = "column_sum";
const CASE: &str = "1000x301";

/// What stands in `column_sum.cu`, and what takes its place: neighbouring lanes read one row, then 301 of them a
/// column; a warp's sums lie side by side, then 64 words apart.
const LOAD: [&str; 2] = ["[row * vectors + v]; },", "[v * rows + row]; },"];
const STORE: [&str; 2] =
    ["shared[(warp * N + i) * STRIDE<N> + lane] =", "shared[(lane * N + i) * STRIDE<N> + warp] ="];

fn inspect(arguments: &[&str], kernels: Option<&Path>) -> Option<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neva"));
    command.args(["kernels", "inspect"]).args(arguments).env_remove("NEVA_SIM").env_remove("NEVA_KERNEL_DIR");
    command.envs(kernels.map(|directory| ("NEVA_KERNEL_DIR", directory)));
    Some(command.envs(simulator()?.environment()).output().unwrap())
}

/// A directory of kernels in which `column_sum.cu` has both mistakes, and the lines they are on.
fn planted() -> (PathBuf, usize, usize) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/column_sum/column_sum.cu");
    let mut source = fs::read_to_string(source).unwrap();
    let mut line = |[right, wrong]: [&str; 2]| {
        assert_eq!(source.matches(right).count(), 1, "{right}");
        source = source.replace(right, wrong);
        source.lines().position(|line| line.contains(wrong)).unwrap() + 1
    };
    let (load, store) = (line(LOAD), line(STORE));
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted-kernels");
    fs::create_dir_all(directory.join(OP)).unwrap();
    fs::write(directory.join(OP).join("column_sum.cu"), source).unwrap();
    (directory, load, store)
}

#[test]
fn planted_accesses_are_found_by_file_and_line() {
    let (directory, load, store) = planted();
    let file = |name: &str| Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (page, json) = (file("inspected.html"), file("inspected.json"));
    let arguments = [
        OP,
        "--case",
        CASE,
        "--pass",
        "forward",
        "--html",
        page.to_str().unwrap(),
        "--json",
        json.to_str().unwrap(),
    ];
    let Some(output) = inspect(&arguments, Some(&directory)) else { return };
    let table = text(&output);
    assert!(output.status.success(), "{table}");

    // On the terminal: the two worst lines are these, and their text is shown.
    let worst: Vec<&str> =
        table.lines().skip_while(|line| !line.trim_start().starts_with("access ")).skip(1).collect();
    let [first, first_source, second, second_source] = worst[..4] else { unreachable!("four of them") };
    // A full warp asks for 64 bytes, two sectors, and touches 32.
    assert!(first.contains("global read 2 B") && first.contains(&format!("column_sum.cu:{load}")), "{table}");
    assert!(first_source.contains(LOAD[1]), "{table}");
    assert!(second.contains("shared write 4 B") && second.contains(" 32.00x   32  "), "{table}");
    assert!(
        second.contains(&format!("column_sum.cu:{store}")) && second_source.contains(STORE[1]),
        "{table}"
    );

    // In JSON, with numbers: 301 columns are nine whole warps and one of 13 lanes.
    let counted: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let accesses = |line: usize| {
        let kernels = counted["passes"][0]["kernels"].as_array().unwrap();
        let all = kernels.iter().flat_map(|kernel| kernel["accesses"].as_array().unwrap());
        let here = all.filter(|a| a["line"] == format!("column_sum.cu:{line}").as_str());
        here.filter(|a| a["access"] == "global read 2 B" || a["ways"] == 32).collect::<Vec<_>>()
    };
    let [loaded] = accesses(load)[..] else { panic!("one load: {counted}") };
    assert_eq!(loaded["requests"], 1000 * 10);
    assert_eq!(loaded["moved"], 1000 * 301);
    assert_eq!(loaded["least"], 1000 * (9 * 2 + 1));
    let stored: u64 = accesses(store).iter().map(|a| a["moved"].as_u64().unwrap()).sum();
    let fewest: u64 = accesses(store).iter().map(|a| a["least"].as_u64().unwrap()).sum();
    assert_eq!(stored, 32 * fewest);

    // In the page: both are linked from the summary, and marked where they stand.
    let page = fs::read_to_string(&page).unwrap();
    let (summary, sources) = page.split_once("<h2>Sources</h2>").unwrap();
    for line in [load, store] {
        assert!(summary.contains(&format!("<a href=\"#column_sum.cu-{line}\">column_sum.cu:{line}</a>")));
        let row = sources.lines().find(|row| row.contains(&format!("id=\"column_sum.cu-{line}\""))).unwrap();
        assert!(row.contains("class=\"g3\""), "{row}");
    }
    assert!(
        sources.contains("SMEM_ARRAY(float, shared, WARPS* WIDEST&lt;T&gt;* STRIDE&lt;WIDEST&lt;T&gt;&gt;);")
    );
}

#[test]
fn the_kernels_as_they_are_have_no_conflicts() {
    let Some(output) = inspect(&[OP, "--case", CASE, "--pass", "forward"], None) else { return };
    let table = text(&output);
    assert!(output.status.success(), "{table}");
    let conflicts = table.lines().filter(|line| line.starts_with("  shared ") && !line.contains(" 1.00x "));
    assert_eq!(conflicts.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn what_cannot_be_inspected_is_one_clear_line() {
    let error = |arguments: &[&str]| {
        let output = inspect(arguments, None)?;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
        Some(String::from_utf8(output.stderr).unwrap())
    };
    let Some(none) = error(&["column_sum", "--case", "nothing is called so"]) else { return };
    let start =
        "error: --case: expected a name, or a part of exactly one, got \"nothing is called so\"; there are ";
    assert!(none.starts_with(start), "{none}");
    let product = error(&["gemm", "--pass", "forward"]).unwrap();
    assert!(product.ends_with("launches no kernel of ours\n"), "{product}");
    let no_backward = error(&["kv_cache", "--pass", "backward"]).unwrap();
    assert!(no_backward.ends_with("--pass backward: kv_cache has none\n"), "{no_backward}");
}

/// A copy of the program has no `kernel-sim` beside it.
#[test]
fn without_the_simulator_the_error_says_how_to_build_it() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone");
    fs::create_dir_all(&directory).unwrap();
    let alone = directory.join("neva");
    fs::copy(env!("CARGO_BIN_EXE_neva"), &alone).unwrap();
    let output =
        Command::new(&alone).args(["kernels", "inspect", OP]).env_remove("NEVA_CUDA_DIR").output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with("error: only the simulated GPU counts accesses, and "), "{text}");
    assert!(text.contains("cargo build --release --workspace") && text.contains("ncu neva kernels profile"));
}
