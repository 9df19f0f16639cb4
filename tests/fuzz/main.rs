//! Every parser of foreign bytes on the seeds of the fuzzer and on what it found: nothing panics, and nothing takes more
//! memory than a small multiple of its input.
#![allow(clippy::unwrap_used)]

mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use targets::TARGETS;

fn corpus(name: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

/// One test and not several: the count of what is allocated is the process's.
#[test]
fn seeds_and_findings_are_taken_or_refused_within_bounds() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&dir).unwrap();
    for target in &TARGETS {
        let files = corpus(target.name);
        assert!(files.len() >= 3, "{}: only {} files", target.name, files.len());
        for file in files {
            let whole = fs::read(&file).unwrap();
            // Whole, and cut at each eighth; each of the first bytes in turn is another, too.
            for eighths in 0..=8 {
                target.run(&whole[..whole.len() * eighths / 8], &dir);
            }
            for at in 0..whole.len().min(100) {
                let mut changed = whole.clone();
                changed[at] ^= 1 << (at % 8);
                target.run(&changed, &dir);
            }
        }
    }
}

#[test]
fn every_target_has_its_binary() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    let binaries = manifest.lines().filter_map(|l| l.strip_prefix("path = \"fuzz_targets/"));
    let names: Vec<&str> = binaries.filter_map(|l| l.strip_suffix(".rs\"")).collect();
    assert_eq!(names, TARGETS.map(|t| t.name));
}
