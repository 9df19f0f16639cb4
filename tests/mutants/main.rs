//! The test of the tests: a kernel with one barrier, wait, fence or guard less, or with one comparison moved by one, has
//! to be noticed by `neva kernels check` on the simulated GPU.
//!
//! Every commit tries a few. The whole campaign, some hundred mutants, is
//!
//! ```text
//! NEVA_MUTANTS=REPORT cargo test --release --test mutants -- --ignored --nocapture
//! ```
//!
//! and less of it with NEVA_MUTANTS_SHARD=0/2, NEVA_MUTANTS_FILE=rope.cu or NEVA_MUTANTS_CHANGE=dropped.
//!
//! It writes a line per mutant to REPORT and goes on where a run before it stopped. Mutants are compiled by the
//! simulator's compiler straight from the changed file: nothing of ours is built again.
#![allow(clippy::unwrap_used)]

mod rules;
#[path = "../simulated/mod.rs"]
mod simulated;

use kernels::CATALOGUE;
use rules::{Mutant, mutants};
use simulated::simulator;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// What each mutant is run under until one notices.
const MODES: [&str; 2] = ["schedule=random:1,late", "schedule=highest,early,check=race+bounds"];

/// A run that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(180);

/// What became of a mutant.
#[derive(Debug, PartialEq)]
enum Fate {
    /// It does not compile.
    Invalid,
    /// Noticed under this mode.
    Killed(&'static str),
    /// Noticed by nothing.
    Survived,
}

/// Every file of the catalogue's programs, headers too, with the ops whose checks run it. `ptx.cuh` is left out: the
/// simulator has its own.
fn files() -> Vec<(String, Vec<&'static str>)> {
    let mut ops: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for entry in CATALOGUE {
        let mut left: Vec<String> = entry.programs.iter().map(|s| s.file.to_string()).collect();
        while let Some(file) = left.pop() {
            let users = ops.entry(file.clone()).or_default();
            if users.contains(&entry.name) {
                continue;
            }
            users.push(entry.name);
            let text = source(&file);
            let headers = text.lines().filter_map(|l| l.strip_prefix("#include \"")?.strip_suffix('"'));
            left.extend(headers.filter(|h| *h != "ptx.cuh").map(|h| format!("cuda/{h}")));
        }
    }
    ops.into_iter().collect()
}

fn source(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(file)).unwrap()
}

/// Runs the checks of `ops` with the changed file in place of the embedded one.
fn fate(mutant: &Mutant, file: &str, ops: &[&str], directory: &Path) -> Fate {
    let place = directory.join(file);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, &mutant.text).unwrap();
    for mode in MODES {
        for op in ops {
            let mut command = Command::new(env!("CARGO_BIN_EXE_neva"));
            command.args(["kernels", "check", op, "--device", "cuda"]);
            command.envs(simulator().unwrap().environment());
            // A cache of its own: nobody compiles a mutant again.
            command.env("NEVA_CACHE_DIR", directory.join("cache")).env("NEVA_KERNEL_DIR", directory);
            command.env("NEVA_SIM", mode);
            let output = directory.join("output");
            command.stdout(fs::File::create(&output).unwrap()).stderr(Stdio::null());
            match finish(command.spawn().unwrap()) {
                Some(true) => {}
                _ if fs::read_to_string(&output).unwrap().contains("does not compile") => {
                    return Fate::Invalid;
                }
                _ => return Fate::Killed(mode),
            }
        }
    }
    Fate::Survived
}

/// Whether it ended well; None if it had to be ended.
fn finish(mut child: Child) -> Option<bool> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.success());
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

fn scratch(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// Of each of these files, the dropped call of this number among all in it.
const SAMPLE: [(&str, usize); 10] = [
    ("attention/attention_bwd.cu", 1),
    ("attention/attention_bwd.cu", 2),
    ("attention/attention_f32.cu", 0),
    ("attention/attention_f32.cu", 3),
    ("attention/cached_attention.cu", 0),
    ("attention/cached_attention_tiles.cu", 0),
    ("column_sum/column_sum.cu", 1),
    ("cross_entropy/cross_entropy.cu", 0),
    ("cuda/flash.cuh", 1),
    ("embedding/embedding.cu", 0),
];

#[test]
fn a_sample_of_dropped_barriers_and_waits_is_noticed() {
    if simulator().is_none() {
        return;
    }
    let files = files();
    let directory = scratch("mutants-sample");
    for (name, number) in SAMPLE {
        let (file, ops) = files.iter().find(|(file, _)| file == name).unwrap();
        let dropped = mutants(&source(file))
            .into_iter()
            .filter(|m| m.change.starts_with("dropped"))
            .nth(number)
            .unwrap();
        let fate = fate(&dropped, file, ops, &directory);
        println!("{fate:?} {file}:{} {}", dropped.line, dropped.change);
        assert!(matches!(fate, Fate::Killed(_)), "{file}:{} {}: {fate:?}", dropped.line, dropped.change);
        let _ = fs::remove_dir_all(&directory);
    }
}

#[test]
#[ignore = "takes most of an hour; see the top of this file"]
fn every_mutant_is_noticed() {
    let report = env::var("NEVA_MUTANTS").expect("NEVA_MUTANTS names the report to write or to go on with");
    let shard = env::var("NEVA_MUTANTS_SHARD").unwrap_or("0/1".into());
    let (number, shards) = shard.split_once('/').expect("NEVA_MUTANTS_SHARD is NUMBER/SHARDS");
    let (number, shards): (usize, usize) = (number.parse().unwrap(), shards.parse().unwrap());
    let only = env::var("NEVA_MUTANTS_FILE").ok();
    let kind = env::var("NEVA_MUTANTS_CHANGE").unwrap_or_default();
    let before = fs::read_to_string(&report).unwrap_or_default();
    let mut out = fs::File::options().create(true).append(true).open(&report).unwrap();
    let directory = scratch(&format!("mutants-{number}"));
    let mut index = 0;
    for (file, ops) in files() {
        if only.as_ref().is_some_and(|only| !file.ends_with(only.as_str())) {
            continue;
        }
        let unchanged = Mutant { line: 0, change: "nothing".into(), text: source(&file) };
        assert_eq!(fate(&unchanged, &file, &ops, &directory), Fate::Survived, "{file} as it is");
        for mutant in mutants(&source(&file)) {
            if !mutant.change.starts_with(&kind) {
                continue;
            }
            index += 1;
            let key = format!("{file}:{} {}", mutant.line, mutant.change);
            if index % shards != number || before.contains(&key) {
                continue;
            }
            let start = Instant::now();
            let fate = fate(&mutant, &file, &ops, &directory);
            let _ = fs::remove_dir_all(directory.join("cache"));
            let line = format!("{fate:?} {:.1}s {key}", start.elapsed().as_secs_f64());
            println!("{line}");
            writeln!(out, "{line}").unwrap();
        }
        let _ = fs::remove_dir_all(&directory);
    }
    let after = fs::read_to_string(&report).unwrap();
    let survivors: Vec<&str> = after.lines().filter(|line| line.starts_with("Survived")).collect();
    println!("{} mutants, {} survived\n{}", after.lines().count(), survivors.len(), survivors.join("\n"));
}
