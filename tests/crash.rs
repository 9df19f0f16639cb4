//! Crash consistency: a run that saves after every step is killed with SIGKILL at random moments, and runs out of disk
//! at random sizes. Every checkpoint that then has its final name is the uninterrupted run's, byte for byte, and the
//! run that goes on ends with its bytes.
//!
//! The tests are short; the campaign is `cargo test --release --test crash -- --ignored --nocapture`.
//! `NEVA_CRASH_SEED` chooses other moments.
#![allow(clippy::unwrap_used)]

mod tiny;

use kernels::random::Random;
use neva::train;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tiny::assert_same;

/// Steps of a run, each with a checkpoint.
const STEPS: u64 = 12;

/// A recipe, and the uninterrupted run that all others are compared with.
struct Campaign {
    dir: PathBuf,
    random: Random,
    /// How long the uninterrupted run took.
    whole: Duration,
}

impl Campaign {
    fn new(name: &str) -> Self {
        let dir = tiny::scratch(&format!("crash-{name}"));
        tiny::data(&dir);
        fs::write(dir.join("recipe.yaml"), tiny::yaml(&dir)).unwrap();
        let seed = std::env::var("NEVA_CRASH_SEED").map_or(1, |s| s.parse().unwrap());
        let mut campaign = Campaign { dir, random: Random::new(seed, 0), whole: Duration::ZERO };
        let start = Instant::now();
        let output = campaign.train("whole").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        campaign.whole = start.elapsed();
        assert_eq!(train::list(&campaign.dir.join("whole")).unwrap().len() as u64, STEPS);
        campaign
    }

    /// The command that trains into the run directory `name`, or goes on there.
    fn train(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_neva"));
        command.arg("train").arg(self.dir.join("recipe.yaml"));
        command.arg(format!("exp_manager.explicit_log_dir={}", self.dir.join(name).display()));
        command.arg("exp_manager.checkpoint_callback_params.every_n_train_steps=1");
        command.arg("exp_manager.checkpoint_callback_params.save_top_k=-1");
        command.arg(format!("trainer.max_steps={STEPS}"));
        command
    }

    /// A random part of `most`.
    fn part_of(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.random.uniform())
    }

    /// Every complete checkpoint of a run is the uninterrupted run's; how many there are.
    fn compare(&self, name: &str, what: &str) -> u64 {
        let run = self.dir.join(name);
        if !run.join("checkpoints").is_dir() {
            return 0; // stopped before it was made
        }
        let saved = train::list(&run).unwrap();
        for (step, saved) in (1..).zip(&saved) {
            assert_eq!(saved.step, step, "{what}: a checkpoint is missing");
            let whole = self.dir.join("whole/checkpoints").join(saved.path.file_name().unwrap());
            assert_same(&whole, &saved.path, &format!("{what}: step {step}"));
        }
        saved.len() as u64
    }

    /// The run goes on to its end without another interruption.
    fn finish(&self, name: &str, what: &str) {
        let output = self.train(name).output().unwrap();
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        self.check_end(name, what);
    }

    fn check_end(&self, name: &str, what: &str) {
        assert_eq!(self.compare(name, what), STEPS, "{what}");
        assert_eq!(unfinished(&self.dir.join(name)), 0, "{what}: nothing half done stays");
        let steps = fs::read_to_string(self.dir.join(name).join("metrics.jsonl")).unwrap();
        assert_eq!(steps.lines().count() as u64, STEPS, "{what}: one line a step");
    }

    /// Kills runs `times` times: every other one in a save, the others anywhere.
    fn kill(&mut self, times: usize) {
        let run = self.dir.join("run");
        let (mut kills, mut torn, mut fresh, mut ends) = (0, 0, 0, 0);
        while kills < times {
            let mut child = self.train("run").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let start = Instant::now();
            if kills % 2 == 0 {
                // Until a save begins, or the run ends.
                while unfinished(&run) == 0 && child.try_wait().unwrap().is_none() {
                    assert!(start.elapsed() < Duration::from_secs(60), "neither a save nor an end");
                    sleep(Duration::from_micros(50));
                }
                sleep(self.part_of(Duration::from_millis(8)));
            } else {
                sleep(self.part_of(self.whole));
            }
            let ended = child.try_wait().unwrap();
            if let Some(status) = ended {
                assert!(status.success(), "after {kills} kills");
                self.check_end("run", &format!("after {kills} kills"));
                fs::remove_dir_all(&run).unwrap();
                ends += 1;
                continue;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            torn += usize::from(unfinished(&run) > 0);
            fresh += usize::from(self.compare("run", &format!("kill {kills}")) == 0);
        }
        self.finish("run", &format!("after {kills} kills"));
        println!(
            "{kills} kills: {torn} left a save half done, {fresh} came before the first checkpoint; \
             {} runs ended with the same bytes",
            ends + 1
        );
        assert!(torn > 0, "none of {kills} kills hit a save");
    }

    /// Runs out of disk `times` times, at sizes from too little for one checkpoint to nearly enough for all.
    fn fill(&mut self, times: usize) {
        let (mut in_save, mut ends) = (0, 0);
        for time in 1..=times {
            let what = format!("disk {time}");
            // What a run takes is some 1.1 MB; spread evenly so that a short test sees both ends.
            let share = (time as f64 - self.random.uniform()) / times as f64;
            let bytes = (96 << 10) + ((1 << 20) as f64 * share) as u64;
            let Some(disk) = Mount::new(self.dir.join("disk"), bytes) else {
                eprintln!("SKIPPED: mounting a small file system is not allowed here");
                return;
            };
            let output = self.train("disk/run").output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            let last = stderr.lines().last().unwrap_or_default();
            if output.status.success() {
                ends += 1;
            } else {
                assert_eq!(output.status.code(), Some(1), "{what}: {stderr}");
                let file = format!("error: {}/", self.dir.join("disk/run").display());
                let full = ": No space left on device (os error 28)";
                assert!(last.starts_with(&file) && last.ends_with(full), "{what}: {stderr}");
                assert_eq!(unfinished(&self.dir.join("disk/run")), 0, "{what}: what was taken is given back");
                in_save += usize::from(last.contains("/checkpoints/"));
                self.compare("disk/run", &what);
            }
            disk.resize(64 << 20);
            self.finish("disk/run", &what);
        }
        println!(
            "{times} disks: {in_save} full in a save, {ends} were large enough; all runs ended with the same bytes"
        );
        assert!(in_save > 0, "none of {times} disks was full in a save");
    }
}

/// How many directories of saves and removals that were not finished a run holds.
fn unfinished(run: &Path) -> usize {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return 0 };
    entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with('.')).count()
}

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
fn a_killed_run_ends_with_the_same_bytes() {
    Campaign::new("kill").kill(6);
}

#[test]
fn a_full_disk_leaves_whole_checkpoints_and_the_run_goes_on() {
    Campaign::new("disk").fill(2);
}

#[test]
#[ignore = "the campaign: minutes"]
fn two_hundred_kills() {
    Campaign::new("kills").kill(200);
}

#[test]
#[ignore = "the campaign: minutes"]
fn twenty_full_disks() {
    Campaign::new("disks").fill(20);
}
