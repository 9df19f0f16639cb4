//! What happens to a run from outside: a full disk, a kill, a signal.

use super::*;
use serde_json::{Value, json};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tiny::{STEPS, assert_same};

/// What the checkpoint folder of a run holds under names that are not final.
fn unfinished(run: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return vec![] };
    let names = entries.flatten().map(|e| e.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}

fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}"))
}

const EVERY_STEP: &str = "exp_manager.checkpoint_callback_params.every_n_train_steps=1";
const KEEP_ALL: &str = "exp_manager.checkpoint_callback_params.save_top_k=-1";

/// A file system of its own; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// None where mounting is not allowed.
    fn new(dir: PathBuf, bytes: u64) -> Option<Self> {
        fs::create_dir_all(&dir).unwrap();
        let size = format!("size={bytes}");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&dir).output();
        done.is_ok_and(|o| o.status.success()).then_some(Mount(dir))
    }

    fn resize(&self, bytes: u64) {
        let size = format!("remount,size={bytes}");
        assert!(Command::new("mount").args(["-o", &size]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_leaves_the_previous_checkpoint_and_the_run_goes_on_from_it() {
    let dir = scratch("full");
    recipe(&dir);
    let keep = [EVERY_STEP, KEEP_ALL];
    accepted(&train(&dir, "whole", &keep));
    // Room for two checkpoints, not for five.
    let Some(disk) = Mount::new(dir.join("disk"), 400 << 10) else {
        eprintln!("SKIPPED: mounting a small file system is not allowed here");
        return;
    };
    let words = train(&dir, "disk/run", &keep);
    let (code, stdout, stderr) = run(&words);
    let at = format!("error: {}/checkpoints/.writing-step-0000000", dir.join("disk/run").display());
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with(&at) && last.ends_with(": No space left on device (os error 28)"), "{stderr}");
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(unfinished(&dir.join("disk/run")).is_empty(), "what was taken is given back");
    let first = checkpoint(&dir.join("disk/run"), 1);
    assert_same(&checkpoint(&dir.join("whole"), 1), &first, "the first checkpoint stands");
    disk.resize(64 << 20);
    accepted(&words);
    assert_same(&checkpoint(&dir.join("whole"), STEPS), &checkpoint(&dir.join("disk/run"), STEPS), "resumed");
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

#[test]
fn a_run_killed_during_saves_ends_with_the_same_bytes() {
    let dir = scratch("kill");
    recipe(&dir);
    let whole = dir.join("whole");
    let run = dir.join("run");
    accepted(&train(&dir, "whole", &[EVERY_STEP, "trainer.max_steps=12"]));
    let words = train(&dir, "run", &[EVERY_STEP, "trainer.max_steps=12"]);
    let (mut kills, mut torn) = (0, 0);
    while kills < 12 {
        let mut child = command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // At another moment of a save each time: 0, 0.7, ... 7.7 ms after it began.
        wait_until(&mut child, || unfinished(&run).iter().any(|n| n.starts_with(".writing-")));
        sleep(Duration::from_micros(700 * kills));
        if child.try_wait().unwrap().is_some() {
            break; // the run is complete
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        torn += u64::from(!unfinished(&run).is_empty());
    }
    assert!(torn > 0, "none of {kills} kills hit a save");
    accepted(&words);
    assert_same(&checkpoint(&whole, 12), &checkpoint(&run, 12), &format!("{kills} kills"));
    assert!(unfinished(&run).is_empty());
    let steps = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert_eq!(steps.lines().count(), 12, "one line a step");
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
