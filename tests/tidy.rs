//! What a reader relies on and the compiler does not check: every op has its room, unsafe code and inline assembly lie
//! where they may, files stay short, the dependencies are few and permissive, and the README says what is so.
//!
//! The README's generated parts are rewritten by `NEVA_UPDATE=1 cargo test --release --test tidy`.
#![allow(clippy::unwrap_used)]

use kernels::{CATALOGUE, programs};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The most lines of a file.
const MAX_LINES: usize = 600;

/// The most crates in the program, ours included.
const MAX_CRATES: usize = 75;

/// What every op's folder holds; `cpu.rs` may be a folder `cpu`.
const OP_FILES: [&str; 2] = ["mod.rs", "cpu.rs"];

/// The ops whose CPU code is a loop of their `mod.rs`.
const SMALL_OPS: [&str; 1] = ["kv_cache"];

/// The ops whose GPU code is a call of NVIDIA's library, without a kernel of ours.
const LIBRARY_OPS: [&str; 1] = ["gemm"];

/// The folders of `kernels/` that hold no op.
const NOT_OPS: [&str; 6] = ["check", "cuda", "device", "prebuilt", "sim", "tests"];

/// Ops that share the folder of another.
const GUESTS: [(&str, &str); 1] = [("cached_attention", "attention")];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "helpers", "helper", "common", "misc"];

/// Where unsafe code may lie: path (`*` is one name), what it does, what it relies on.
const UNSAFE: [(&str, &str, &str); 8] = [
    (
        "kernels/device/",
        "host memory, mapped files, the CUDA driver, NVRTC and cuBLASLt",
        "each block of memory has one owner; handles live as long as what was made with them",
    ),
    (
        "kernels/*/gpu.rs",
        "one block per kernel launch",
        "arguments as in the `.cu` signature; sizes checked by `infer`; the grid covers them",
    ),
    (
        "kernels/gemm/",
        "micro-kernels, tasks that write one matrix",
        "a path runs only where its instructions were detected; tasks own disjoint blocks of C",
    ),
    (
        "kernels/attention/",
        "vectors of registers, heads that write one matrix",
        "as for gemm; views of columns are cut from one `&mut` and never overlap",
    ),
    (
        "kernels/amx.rs",
        "instructions on tiles, and the request to the system to use them",
        "tiles are configured while a value of their type lives; addresses are the caller's promise",
    ),
    (
        "kernels/simd.rs",
        "calls into code compiled for AVX2 and AVX-512",
        "the instructions were detected in this process",
    ),
    (
        "benches/peers/",
        "calls of other libraries' products, beside ours",
        "each matrix holds its elements at the distances given",
    ),
    ("kernels/tests/", "launches of kernels with planted bugs", "the simulator catches what they do"),
];

/// The only files of ours that are written in assembly, beside the simulator, which switches stacks of the host: instructions
/// that a compiler has no names for.
const ASSEMBLY: [&str; 2] = ["kernels/amx.rs", "kernels/cuda/ptx.cuh"];

/// Licences that ask for a notice at most.
const PERMISSIVE: [&str; 8] =
    ["Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "0BSD", "Unicode-3.0"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every file under these folders of the repository, by path.
fn files(folders: &[&str]) -> Vec<String> {
    let mut all = vec![];
    let mut open: Vec<PathBuf> = folders.iter().map(|f| root().join(f)).collect();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => all.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_string()),
            }
        }
    }
    all.sort();
    all
}

/// Every file of source text.
fn sources() -> Vec<String> {
    let mut all = files(&["benches", "engine", "kernels", "neva", "tests"]);
    all.retain(|path| {
        let extension = path.rsplit('.').next().unwrap();
        ["rs", "cu", "cuh", "cpp", "h", "py"].contains(&extension)
    });
    all
}

fn fail(failures: Vec<String>) {
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn folder(op: &str) -> &str {
    GUESTS.iter().find(|(guest, _)| *guest == op).map_or(op, |(_, host)| host)
}

#[test]
fn every_op_has_its_folder_its_files_and_its_row() {
    let mut failures = vec![];
    for entry in CATALOGUE {
        for file in OP_FILES {
            let path = format!("kernels/{}/{file}", folder(entry.name));
            let split = path.strip_suffix(".rs").unwrap();
            let small = file == "cpu.rs" && SMALL_OPS.contains(&entry.name);
            if !small && !root().join(&path).is_file() && !root().join(split).join("mod.rs").is_file() {
                failures.push(format!("{}: {path} is missing", entry.name));
            }
        }
    }
    for dir in fs::read_dir(root().join("kernels")).unwrap().map(|e| e.unwrap().path()) {
        let name = dir.file_name().unwrap().to_str().unwrap();
        if !dir.is_dir() || NOT_OPS.contains(&name) {
            continue;
        }
        if !CATALOGUE.iter().any(|e| e.name == name) {
            failures.push(format!("kernels/{name}: no row in the catalogue"));
        }
        let is_cuda = |file: &fs::DirEntry| file.path().extension().is_some_and(|e| e == "cu");
        let own = fs::read_dir(&dir).unwrap().any(|file| is_cuda(&file.unwrap()));
        if dir.join("gpu.rs").exists() != (own || LIBRARY_OPS.contains(&name)) {
            failures.push(format!("kernels/{name}: gpu.rs and .cu files go together"));
        }
    }
    if !CATALOGUE.is_sorted_by_key(|e| folder(e.name)) {
        failures.push("kernels/lib.rs: the catalogue is not in the order of the folders".into());
    }
    fail(failures);
}

#[test]
fn every_cuda_file_is_in_the_list_of_programs() {
    let product = |path: &String| !path.starts_with("kernels/sim/") && !path.starts_with("kernels/tests/");
    let cuda = files(&["kernels"]).into_iter().filter(|path| path.ends_with(".cu") && product(path));
    let listed: BTreeSet<String> = programs().iter().map(|p| format!("kernels/{}", p.file)).collect();
    assert_eq!(listed, cuda.collect(), "left: the programs of ops and checks; right: the .cu files");
    // The cache and the prebuilt files go by names, and two ops may share a program, but no name.
    for program in CATALOGUE.iter().flat_map(|e| e.programs) {
        let same = programs().into_iter().find(|p| p.name() == program.name()).unwrap();
        assert_eq!((same.file, same.defines), (program.file, program.defines), "{}", program.name());
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut failures = vec![];
    for path in sources() {
        let text = read(&path);
        let lines = text.lines().count();
        if lines > MAX_LINES {
            failures.push(format!("{path}: {lines} lines; more than {MAX_LINES} are two rooms"));
        }
        let comment = match path.rsplit('.').next().unwrap() {
            "rs" => "//! ",
            "py" => "\"\"\"",
            _ => "// ",
        };
        // What a source of C++ is, its header says.
        let header = path.strip_suffix(".cpp").map(|stem| format!("{stem}.h"));
        let first = text.lines().find(|l| !l.starts_with("#!")).unwrap_or("");
        if !first.starts_with(comment) && !header.is_some_and(|h| root().join(h).exists()) {
            failures.push(format!("{path}: does not begin by saying what it is"));
        }
        let named = |name: &str| EMPTY_NAMES.contains(&name.split('.').next().unwrap());
        if path.split('/').any(named) {
            failures.push(format!("{path}: a name that says nothing"));
        }
    }
    fail(failures);
}

#[test]
fn nothing_is_left_to_do() {
    let mut failures = vec![];
    for path in sources() {
        for (i, line) in read(&path).lines().enumerate() {
            for macro_ in ["todo", "unimplemented", "dbg"] {
                if line.contains(&format!("{macro_}!(")) {
                    failures.push(format!("{path}:{}: {macro_}!", i + 1));
                }
            }
        }
    }
    fail(failures);
}

#[test]
fn assembly_lies_where_it_may() {
    let inline = |line: &&str| {
        let code = line.split("//").next().unwrap();
        // Not between quotes, as here.
        ["asm(", "asm volatile", "asm!("]
            .iter()
            .any(|asm| code.match_indices(asm).any(|(at, _)| !code[..at].ends_with('"')))
    };
    let mut with: Vec<String> =
        sources().into_iter().filter(|path| read(path).lines().any(|l| inline(&l))).collect();
    with.retain(|path| !path.starts_with("kernels/sim/"));
    assert_eq!(with, ASSEMBLY);
}

/// How often unsafe code stands in a file: blocks, and functions or impls.
fn count_unsafe(path: &str) -> [usize; 2] {
    let text = read(path);
    let code: String = text.lines().map(|l| l.split("//").next().unwrap().to_owned() + "\n").collect();
    let mut counts = [0; 2];
    for (at, word) in code.match_indices("unsafe") {
        let part = |c: char| c.is_alphanumeric() || c == '_' || c == '"';
        let rest = &code[at + word.len()..];
        if code[..at].ends_with(part) || rest.starts_with(part) {
            continue;
        }
        let rest = rest.trim_start();
        if rest.starts_with('{') {
            counts[0] += 1;
        } else if ["fn ", "impl ", "impl<", "extern "].iter().any(|next| rest.starts_with(next)) {
            counts[1] += 1;
        }
    }
    counts
}

/// The first row of [`UNSAFE`] that a file lies in.
fn home(path: &str) -> Option<&'static str> {
    let names: Vec<&str> = path.split('/').collect();
    UNSAFE.iter().map(|row| row.0).find(|pattern| {
        let pattern: Vec<&str> = pattern.split('/').collect();
        // A folder's pattern ends in nothing, which is any name below it.
        names.len() >= pattern.len()
            && pattern.iter().zip(&names).all(|(p, name)| ["*", ""].contains(p) || p == name)
    })
}

#[test]
fn unsafe_code_lies_where_it_may() {
    let mut failures = vec![];
    for path in sources().iter().filter(|p| p.ends_with(".rs")) {
        if home(path).is_none() && count_unsafe(path) != [0, 0] {
            failures.push(format!("{path}: unsafe code, which is allowed in {:?}", UNSAFE.map(|u| u.0)));
        }
    }
    for path in ["engine/lib.rs", "neva/lib.rs", "neva/main.rs"] {
        if !read(path).contains("#![forbid(unsafe_code)]") {
            failures.push(format!("{path}: does not forbid unsafe code"));
        }
    }
    fail(failures);
}

#[test]
fn readme_says_what_is_so() {
    let readme = read("README.md");
    let mut new = readme.clone();
    for (name, text) in [("ops", ops()), ("unsafe", unsafe_table()), ("crates", crates())] {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
        let from = new.find(&begin).unwrap_or_else(|| panic!("README.md: no {begin}")) + begin.len();
        let to = from + new[from..].find(&end).unwrap_or_else(|| panic!("README.md: no {end}"));
        new.replace_range(from..to, &text);
    }
    if new != readme && env::var_os("NEVA_UPDATE").is_some() {
        return fs::write(root().join("README.md"), new).unwrap();
    }
    for (old, new) in readme.lines().zip(new.lines()) {
        assert_eq!(old, new, "README.md is out of date: NEVA_UPDATE=1 cargo test --release --test tidy");
    }
    assert_eq!(readme.len(), new.len(), "README.md is out of date");
}

fn ops() -> String {
    let mut text = String::from("| op | computes | passes | devices |\n|---|---|---|---|\n");
    for e in CATALOGUE {
        // Products are the library's, so they launch no program of ours.
        let gpu = !e.programs.is_empty() || root().join("kernels").join(e.name).join("gpu.rs").exists();
        let summary = e.summary.replace('|', "\\|");
        text += &format!(
            "| `{}` | {summary} | {} | {} |\n",
            e.name,
            e.passes,
            if gpu { "CPU, CUDA" } else { "CPU" }
        );
    }
    text
}

fn unsafe_table() -> String {
    let mut text =
        String::from("| where | blocks | fns, impls | what | relies on |\n|---|---|---|---|---|\n");
    let sources = sources();
    let mut total = 0;
    for (pattern, what, relies_on) in UNSAFE {
        let here = sources.iter().filter(|p| p.ends_with(".rs") && home(p) == Some(pattern));
        let counts = here.map(|p| count_unsafe(p));
        let [blocks, others] = counts.fold([0, 0], |[a, b], [c, d]| [a + c, b + d]);
        text += &format!("| `{pattern}` | {blocks} | {others} | {what} | {relies_on} |\n");
        total += blocks;
    }
    text + &format!("\n{total} blocks in all, each under a comment that says why it is sound.\n")
}

/// What cargo knows about the packages that are built on this machine.
fn metadata() -> Value {
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|l| l.strip_prefix("host: ")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", host])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The crates of the program with ours: name, version and what else cargo says of each. `edges` is `normal` for what runs,
/// `normal,build` for what is needed to build it too.
fn tree(edges: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "-p", "neva", "-e", edges, "--prefix", "none", "--no-dedupe"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect()
}

fn packages(metadata: &Value) -> &Vec<Value> {
    metadata["packages"].as_array().unwrap()
}

/// A package that is ours and not from a registry.
fn ours(package: &Value) -> bool {
    package["source"].is_null()
}

fn crates() -> String {
    let all = tree("normal");
    // Ours have a path in brackets.
    let third_party = all.iter().filter(|c| !c.contains("(/")).count();
    format!(
        "**{third_party} third-party crates** in the program, with everything they depend on; {} with our own three.\n",
        all.len()
    )
}

#[test]
fn dependencies_are_few_permissive_and_compile_no_c() {
    let metadata = metadata();
    let mut failures = vec![];
    let in_program = tree("normal").len();
    if in_program > MAX_CRATES {
        failures.push(format!("{in_program} crates in the program, more than {MAX_CRATES}"));
    }
    for built in tree("normal,build") {
        if ["cc ", "cmake ", "bindgen ", "pkg-config "].iter().any(|c| built.starts_with(c)) {
            failures.push(format!("{built}: builds or links C in the default build"));
        }
    }
    for package in packages(&metadata) {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or("none given");
        if !permissive(licence) {
            failures.push(format!("{name}: licence {licence}"));
        }
        if !ours(package) && !package["source"].as_str().unwrap().starts_with("registry+") {
            failures.push(format!("{name}: not from the registry"));
        }
    }
    fail(failures);
}

/// Whether one of the offered licences is permissive, of every part.
fn permissive(expression: &str) -> bool {
    let parts = expression.replace('/', " OR ");
    parts.split(" AND ").all(|part| {
        let part = part.trim_matches(|c| "() ".contains(c));
        part.split(" OR ").any(|licence| PERMISSIVE.contains(&licence.trim()))
    })
}

#[test]
fn copyleft_is_not_permissive() {
    assert!(permissive("MIT/Apache-2.0"));
    assert!(permissive("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(!permissive("GPL-3.0"));
    assert!(!permissive("MIT AND LGPL-2.1"));
    assert!(!permissive("none given"));
}

#[test]
fn every_dependency_is_used() {
    let metadata = metadata();
    let mut failures = vec![];
    for package in packages(&metadata).iter().filter(|p| ours(p)) {
        let (name, program, tests): (_, &[&str], &[&str]) = match package["name"].as_str().unwrap() {
            "neva" => ("neva", &["neva"], &["tests", "benches"]),
            "engine" => ("engine", &["engine"], &["engine/tests"]),
            "kernels" => ("kernels", &["kernels"], &["kernels/tests"]),
            "kernel-sim" => ("kernel-sim", &["kernels/sim"], &[]),
            other => panic!("{other}: a package this test does not know"),
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let folders = if dependency["kind"] == "dev" { tests } else { program };
            let full = dependency["rename"].as_str().or(dependency["name"].as_str()).unwrap();
            let path = format!("{}::", full.replace('-', "_"));
            let in_tests = |file: &&String| file.contains("/tests/") && dependency["kind"] != "dev";
            let used = files(folders)
                .iter()
                .filter(|file| file.ends_with(".rs") && !in_tests(file))
                .any(|file| read(file).contains(&path));
            if !used {
                failures.push(format!("{name}: {full} is not used in {folders:?}"));
            }
        }
    }
    fail(failures);
}

#[test]
fn readme_lists_the_commands_there_are() {
    let help = Command::new(env!("CARGO_BIN_EXE_neva")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    let there: BTreeSet<&str> =
        commands.filter_map(|l| l.split_whitespace().next()).filter(|c| *c != "help").collect();
    let readme = read("README.md");
    let rows = readme.lines().filter_map(|l| l.strip_prefix("| `neva "));
    let listed: BTreeSet<&str> = rows.map(|l| l.split([' ', '`']).next().unwrap()).collect();
    assert_eq!(listed, there);
}

/// Paths in running text: between backticks, with a slash or a known ending, and no place-holder.
#[test]
fn documents_name_files_that_exist() {
    let mut failures = vec![];
    for document in ["README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let text = read(document);
        let mut in_block = false;
        let prose = text.lines().filter(|line| {
            in_block ^= line.starts_with("```");
            !in_block
        });
        for span in prose.flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
            let first = span.split('/').next().unwrap();
            let inside = ["benches", "configs", "engine", "kernels", "neva", "tests", ".ci"].contains(&first);
            if plain && span.contains('/') && inside && !root().join(span).exists() {
                failures.push(format!("{document}: {span} does not exist"));
            }
        }
    }
    fail(failures);
}
