//! Every parser of foreign bytes on the seeds of the fuzzer, on what it found, and on the files that make the most memory
//! of a byte: nothing panics, and nothing takes more memory than a multiple of its input.
#![allow(clippy::unwrap_used)]

mod dense;
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use targets::TARGETS;

fn corpus(name: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

/// Held by a test that counts: the count of what is allocated is the process's.
static COUNTING: Mutex<()> = Mutex::new(());

#[test]
fn seeds_and_findings_are_taken_or_refused_within_bounds() {
    let _counting = COUNTING.lock();
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

/// A bound that nothing comes near says nothing: the densest file takes most of what it may.
#[test]
fn the_densest_files_are_read_within_bounds_and_come_near_them() {
    let _counting = COUNTING.lock();
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fuzz-dense");
    fs::create_dir_all(&dir).unwrap();
    for target in &TARGETS {
        let mut nearest = (0.0, String::new());
        // A table that doubles is largest for what it holds just behind a power of two, wherever that is.
        for size in [8, 9, 12, 15].map(|eighths| eighths << 15) {
            for (what, file) in dense::files(target.name, size) {
                let [used, most] = target.run(&file, &dir);
                let part = used as f64 / most as f64;
                if part > nearest.0 {
                    nearest = (part, format!("{what}: {used} bytes for {}", file.len()));
                }
            }
        }
        println!("{}: {:.2} of its bound, {}", target.name, nearest.0, nearest.1);
        assert!(nearest.0 > 0.75, "{}: {nearest:?}", target.name);
    }
}
