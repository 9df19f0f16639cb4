//! What happens to a run from outside: a file that may not grow, another process, a signal. `tests/crash.rs` has kills and
//! full disks.

use super::*;
use serde_json::{Value, json};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What the checkpoint folder of a run holds under names that are not final.
fn unfinished(run: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return vec![] };
    let names = entries.flatten().map(|e| e.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}

fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}"))
}

#[test]
fn a_file_that_may_not_grow_is_named_and_nothing_half_written_stays() {
    let dir = scratch("limit");
    recipe(&dir);
    // 8 blocks of 512 or 1024 bytes: the small files fit, the weights do not.
    let limit = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", limit, env!("CARGO_BIN_EXE_neva")])
        .args(train(&dir, "run", &[]))
        .output()
        .unwrap();
    let (code, stdout, stderr) = end(output);
    let at = format!("error: {}/checkpoints/.writing-step-00000002/", dir.join("run").display());
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with(&at) && last.ends_with(": File too large (os error 27)"), "{stderr}");
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(unfinished(&dir.join("run")).is_empty());
}

/// Waits until `done`, or until the child ends.
fn wait_until(child: &mut Child, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "the child neither ends nor gets there");
        sleep(Duration::from_micros(100));
    }
}

/// Two runs into one directory: the second is refused while the first lives, and the lock goes with its process however
/// that ends.
#[test]
fn one_process_at_a_time_writes_a_run_directory_and_a_kill_frees_it() {
    let dir = scratch("two");
    recipe(&dir);
    let endless = ["trainer.max_steps=1000000", "trainer.val_check_interval=1000000"];
    let mut first =
        command(&train(&dir, "run", &endless)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let metrics = dir.join("run/metrics.jsonl");
    wait_until(&mut first, || fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= 1));
    let before = fs::read_to_string(dir.join("run/config.yaml")).unwrap();
    let message = format!("{}: another process is training into this directory", dir.join("run").display());
    refused(&train(&dir, "run", &[]), &message);
    assert_eq!(fs::read_to_string(dir.join("run/config.yaml")).unwrap(), before, "nothing was touched");
    first.kill().unwrap();
    first.wait().unwrap();
    accepted(&train(&dir, "run", &[]));
}

#[test]
fn a_signal_ends_the_run_with_a_checkpoint_and_its_line() {
    let dir = scratch("signal");
    recipe(&dir);
    for (signal, name) in [("TERM", "term"), ("INT", "int")] {
        let words = train(
            &dir,
            name,
            &[
                "model.mm_cfg.llm.model_type=v1",
                "trainer.max_steps=1000000",
                "trainer.val_check_interval=1000000",
            ],
        );
        let mut child = command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let metrics = dir.join(name).join("metrics.jsonl");
        wait_until(&mut child, || fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= 2));
        let kill = format!("kill -{signal} {}", child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let (code, stdout, stderr) = end(child.wait_with_output().unwrap());
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(stdout.lines().count(), 1, "{stdout}");
        let line: Value = serde_json::from_str(&stdout).unwrap();
        let step = line["steps"].as_u64().unwrap();
        assert!(step >= 2);
        assert_eq!(line["checkpoint"], json!(checkpoint(&dir.join(name), step)));
        let said = format!("stopped by a signal after step {step}; run the same command to go on");
        assert_eq!(stderr.lines().last().unwrap(), said);
        accepted(&generate(&checkpoint(&dir.join(name), step), &["--prompt", "What?"]));
    }
}
