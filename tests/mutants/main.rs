//! The test of the tests: a kernel with one barrier, wait, fence, guard or bound less, or with one comparison moved by
//! one, has to be noticed by `neva kernels check` on the simulated GPU, or by a test of what the catalogue cannot hold.
//!
//! Every commit tries a few. All of them, some hundred, are
//!
//! ```text
//! NEVA_MUTANTS=REPORT cargo test --release --test mutants --test gpu_ops --test gpu_attention --test gpu_pointwise -- --ignored --nocapture
//! ```
//!
//! and less of them NEVA_MUTANTS_SHARD=0/2, NEVA_MUTANTS_FILE=rope.cu,reduce.cuh or NEVA_MUTANTS_CHANGE=dropped.
//!
//! It writes a line per mutant to REPORT and goes on where a run before it stopped; mutants of a file that has changed since
//! are tried again. Mutants are compiled by the simulator's compiler straight from the changed file: nothing of ours is
//! built again. At its end is a table, and a survivor that `equivalent.txt` does not explain is a failure.
#![allow(clippy::unwrap_used)]

mod judge;
mod rules;
#[path = "../simulated/mod.rs"]
mod simulated;

use judge::{Fate, Judge, files, source};
use rules::mutants;
use simulated::simulator;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::Path;
use std::time::Instant;
use std::{env, fs};

/// Of each of these files, the mutant whose changed line is this.
const SAMPLE: [(&str, &str); 10] = [
    ("adamw/adamw.cu", "always false: if (!(false)) return;"),
    ("attention/attention_f32.cu", "moved by one: for (u32 column = 0; column <= width; column += 4) {"),
    (
        "column_sum/column_sum.cu",
        "dropped: if (tile != blockIdx.x) (void)0;  // the sums of the tile before have been read",
    ),
    ("column_sum/column_sum.cu", "dropped: (void)0;"),
    (
        "column_sum/column_sum.cu",
        "first one alone: const i64 first = (i64)blockIdx.y * chunk, end = (first + chunk);",
    ),
    ("column_sum/column_sum.cu", "moved by one: if (threadIdx.x <= 32 * N && column < width) {"),
    (
        "column_sum/column_sum.cu",
        "moved by one: for (i64 row = blockIdx.y; row <= rows; row += gridDim.y) ((V*)dx)[row * vectors + v] = out;",
    ),
    ("cross_entropy/cross_entropy.cu", "dropped: (void)0;"),
    ("cross_entropy/cross_entropy.cu", "always true: if (true) dxs[v] = gradient(g, kept[k], v);"),
    (
        "cross_entropy/cross_entropy.cu",
        "moved by one: if (lane <= blockDim.x / 32) other.largest = largest[lane], other.sum = sums[lane];",
    ),
];

#[test]
fn a_sample_of_mutants_is_noticed() {
    if simulator().is_none() {
        return;
    }
    let mut judge = Judge::new("mutants-sample");
    for (file, change) in SAMPLE {
        let mutant = mutants(&source(file)).into_iter().find(|m| m.change == change);
        let mutant = mutant.unwrap_or_else(|| panic!("{file} has no mutant {change}"));
        let fate = judge.fate(&mutant, file, false);
        println!("{file}:{} {change}: {fate:?}", mutant.line);
        assert!(matches!(fate, Fate::Killed(_)), "{file}:{} {change}: {fate:?}", mutant.line);
    }
}

/// Mutants that compute the same, as `equivalent.txt` lists them: file and change, and why.
fn equivalents() -> BTreeMap<String, String> {
    let mut reasons = BTreeMap::new();
    let mut keys: Vec<&str> = vec![];
    for line in include_str!("equivalent.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.strip_prefix("    ") {
            Some(reason) => keys.drain(..).for_each(|key| {
                reasons.insert(key.to_string(), reason.to_string());
            }),
            None => keys.push(line),
        }
    }
    assert!(keys.is_empty(), "without a reason: {keys:?}");
    reasons
}

#[test]
fn each_mutant_that_is_called_equivalent_exists() {
    let keys: Vec<String> = files()
        .keys()
        .flat_map(|file| mutants(&source(file)).into_iter().map(move |m| format!("{file} {}", m.change)))
        .collect();
    for key in equivalents().keys() {
        assert!(keys.contains(key), "equivalent.txt: no mutant is {key}");
    }
}

/// A line of the report.
struct Line {
    fate: String,
    seconds: f64,
    /// The file, and a hash of its text.
    file: String,
    hash: String,
    mutant: String,
    by: String,
}

impl Line {
    fn parse(line: &str) -> Self {
        let mut parts = line.split('\t').map(str::to_string);
        let mut next = || parts.next().expect("a line of the report has six parts");
        Line {
            fate: next(),
            seconds: next().parse().unwrap(),
            file: next(),
            hash: next(),
            mutant: next(),
            by: next(),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { fate, seconds, file, hash, mutant, by } = self;
        write!(f, "{fate}\t{seconds:.1}\t{file}\t{hash}\t{mutant}\t{by}")
    }
}

#[test]
#[ignore = "takes half an hour; see the top of this file"]
fn every_mutant_is_noticed() {
    let report = env::var("NEVA_MUTANTS").expect("NEVA_MUTANTS names the report to write or to go on with");
    let shard = env::var("NEVA_MUTANTS_SHARD").unwrap_or("0/1".into());
    let (number, shards) = shard.split_once('/').expect("NEVA_MUTANTS_SHARD is NUMBER/SHARDS");
    let (number, shards): (usize, usize) = (number.parse().unwrap(), shards.parse().unwrap());
    let only = env::var("NEVA_MUTANTS_FILE").unwrap_or_default();
    let kind = env::var("NEVA_MUTANTS_CHANGE").unwrap_or_default();
    let equivalents = equivalents();
    assert!(simulator().is_some(), "needs a C++ compiler");
    // Two runs that write different reports may go on side by side.
    let mut name = DefaultHasher::new();
    fs::canonicalize(".").unwrap().join(&report).hash(&mut name);
    let mut judge = Judge::new(&format!("mutants-{:016x}", name.finish()));
    let mut index = 0;
    let mut lines = vec![];
    for file in files().into_keys().filter(|file| only.split(',').any(|only| file.ends_with(only))) {
        let text = source(&file);
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = format!("{:016x}", hasher.finish());
        for mutant in mutants(&text).into_iter().filter(|m| m.change.starts_with(&kind)) {
            index += 1;
            if index % shards != number {
                continue;
            }
            let name = format!("{}: {}", mutant.line, mutant.change);
            let listed = equivalents.get(&format!("{file} {}", mutant.change));
            let known =
                fs::read_to_string(&report).unwrap_or_default().lines().map(Line::parse).find(|line| {
                    let same = line.file == file && line.hash == hash && line.mutant == name;
                    // Of survivors, what is said of them may have changed.
                    same && (line.fate != "survived" && line.fate != "equivalent"
                        || line.fate == "equivalent" && listed.is_some())
                });
            if let Some(line) = known {
                lines.push(line);
                continue;
            }
            let start = Instant::now();
            let (fate, by) = match (judge.fate(&mutant, &file, true), listed) {
                (Fate::Invalid, _) => ("invalid", String::new()),
                (Fate::Killed(by), None) => ("killed", by),
                (Fate::Killed(by), Some(_)) => ("called equivalent, but killed", by),
                (Fate::Survived, None) => ("survived", String::new()),
                (Fate::Survived, Some(why)) => ("equivalent", why.clone()),
            };
            let seconds = start.elapsed().as_secs_f64();
            let line =
                Line { fate: fate.into(), seconds, file: file.clone(), hash: hash.clone(), mutant: name, by };
            println!("{line}");
            let mut out = fs::File::options().create(true).append(true).open(Path::new(&report)).unwrap();
            writeln!(out, "{line}").unwrap();
            lines.push(line);
        }
    }
    println!("{}", table(&lines));
    let left: Vec<String> = lines
        .iter()
        .filter(|l| !matches!(&l.fate[..], "killed" | "equivalent" | "invalid"))
        .map(Line::to_string)
        .collect();
    assert!(left.is_empty(), "{} left:\n{}", left.len(), left.join("\n"));
}

/// Per file, how many mutants there are and what became of them, as Markdown.
fn table(lines: &[Line]) -> String {
    let mut per_file: BTreeMap<&str, [usize; 6]> = BTreeMap::new();
    let mut seconds = 0.0;
    for line in lines {
        let column = match (&line.fate[..], &line.by[..]) {
            ("killed", by) if by.starts_with("tests/") => 3,
            ("killed", by) if by.contains("check=") => 2,
            ("killed", _) => 1,
            ("equivalent", _) => 4,
            ("invalid", _) => continue,
            _ => 5,
        };
        seconds += line.seconds;
        for row in [&line.file[..], "all"] {
            let counts = per_file.entry(row).or_default();
            counts[0] += 1;
            counts[column] += 1;
        }
    }
    let mut text = "| file | mutants | killed by a result | by the checker | by other tests | equivalent | survived |\n|---|---|---|---|---|---|---|\n".to_string();
    for (file, counts) in per_file {
        text += &format!("| {file} | {} |\n", counts.map(|n| n.to_string()).join(" | "));
    }
    format!("{text}\n{seconds:.0} seconds of one process")
}
