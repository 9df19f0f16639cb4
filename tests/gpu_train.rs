//! `neva train` on the simulated GPU: an exact resume, checkpoints that the CPU goes on from, and a device that is lost.
#![allow(clippy::unwrap_used)]

mod simulated;
mod tiny;

use neva::config::Config;
use neva::train;
use simulated::{simulated, text};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use tiny::{STEPS, assert_same, data, scratch, yaml};

fn config(dir: &Path, run: &str, overrides: &[&str]) -> Config {
    let mut all = vec![format!("exp_manager.explicit_log_dir={}", dir.join(run).display())];
    all.extend(overrides.iter().map(|o| o.to_string()));
    Config::parse("test.yaml", &yaml(dir), &all).unwrap()
}

#[test]
fn a_run_that_is_resumed_on_a_gpu_ends_with_the_same_bytes() {
    simulated(&[&[]], || {
        let dir = scratch("gpu-resume");
        data(&dir);
        for precision in ["trainer.precision=32", "trainer.precision=bf16"] {
            let on =
                |run: &str, device: &str| config(&dir, &format!("{precision}-{run}"), &[precision, device]);
            let gpu = "trainer.accelerator=gpu";
            let whole = train::run(&on("whole", gpu), &|_| false).unwrap();
            let stopped = train::run(&on("parts", gpu), &|step| step == 2).unwrap();
            assert_eq!((whole.steps, stopped.steps), (STEPS, 2));
            let resumed = train::run(&on("parts", gpu), &|_| false).unwrap();
            assert_same(&whole.checkpoint, &resumed.checkpoint, precision);

            let cpu = train::run(&on("cpu", "trainer.accelerator=cpu"), &|_| false).unwrap();
            let near = |a: f64, b: f64, by: f64| assert!((a - b).abs() < by * b, "{precision}: {a} and {b}");
            let by = if precision.ends_with("32") { 1e-4 } else { 2e-2 };
            near(whole.loss, cpu.loss, by);
            near(whole.val_loss.unwrap(), cpu.val_loss.unwrap(), by);
            // Half on the GPU, half on the CPU: the files are the same format.
            let half = train::run(&on("half", gpu), &|step| step == 2).unwrap();
            assert_eq!(half.steps, 2);
            let rest = train::run(&on("half", "trainer.accelerator=cpu"), &|_| false).unwrap();
            near(rest.val_loss.unwrap(), cpu.val_loss.unwrap(), by);
        }
    });
}

/// What the binary answers about a picture, on this device.
fn answer(dir: &Path, model: &Path, device: &str) -> String {
    let image = dir.join("3.png");
    let output = Command::new(env!("CARGO_BIN_EXE_neva"))
        .args(["generate", "--device", device, "--dtype", "f32", "--max-new-tokens", "24", "--raw"])
        .args(["--prompt", "<image>\nWhich colour?", "--image", image.to_str().unwrap()])
        .args(["--model", model.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn answers_in_f32_on_a_gpu_are_those_of_the_cpu() {
    simulated(&[&[], &[("NEVA_SIM", "schedule=random:5,early")]], || {
        let dir = scratch(&format!("gpu-answers-{}", env::var("NEVA_SIM").map_or(0, |s| s.len())));
        data(&dir);
        let trained = train::run(&config(&dir, "run", &["trainer.accelerator=cpu"]), &|_| false).unwrap();
        let host = answer(&dir, &trained.checkpoint, "cpu");
        assert!(!host.trim().is_empty());
        assert_eq!(answer(&dir, &trained.checkpoint, "cuda"), host);
    });
}

/// The same command in a process without the fault ends with the bytes of a run that never had one.
fn goes_on(name: &str) {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let run = |name| train::run(&config(&dir, name, &["trainer.accelerator=gpu"]), &|_| false).unwrap();
    assert_same(&run("whole").checkpoint, &run("run").checkpoint, name);
}

/// Trains on the GPU until it fails; what it says.
fn failure(name: &str) -> String {
    let dir = scratch(name);
    data(&dir);
    let error = train::run(&config(&dir, "run", &["trainer.accelerator=gpu"]), &|_| false).unwrap_err();
    let saved = train::list(&dir.join("run")).unwrap().len();
    format!("{saved} saved: {error}")
}

#[test]
fn a_device_that_is_lost_leaves_the_last_checkpoint() {
    // Far behind the first checkpoint, which is that of step 2, and before the last.
    simulated(&[&[("NEVA_SIM_FAULT", "launch:1100")], &[]], || {
        if env::var_os("NEVA_SIM_FAULT").is_none() {
            return goes_on("gpu-lost");
        }
        let message = failure("gpu-lost");
        assert!(
            message.contains("the device is lost to this process (NEVA_SYNC=1 names the op at fault)"),
            "{message}"
        );
        assert!(message.contains("; the last checkpoint stands ("), "{message}");
        assert!(message.ends_with("): run the same command to go on from it"), "{message}");
        assert!(!message.starts_with("0 saved"), "{message}");
    });
}

#[test]
fn a_run_without_room_says_what_would_need_less() {
    simulated(&[&[("NEVA_SIM_FAULT", "alloc:400,alloc:401")]], || {
        let message = failure("gpu-full");
        assert!(message.starts_with("0 saved: out of memory on cuda:0: asked for "), "{message}");
        let advice = " are free; a smaller model.micro_batch_size or model.encoder_seq_length needs less";
        assert!(message.ends_with(advice), "{message}");
    });
}

#[test]
fn a_run_whose_room_ends_later_leaves_the_last_checkpoint() {
    simulated(&[&[("NEVA_SIM_FAULT", "alloc:1100,alloc:1101")], &[]], || {
        if env::var_os("NEVA_SIM_FAULT").is_none() {
            return goes_on("gpu-full-later");
        }
        let message = failure("gpu-full-later");
        assert!(
            !message.starts_with("0 saved")
                && message.contains(" saved: out of memory on cuda:0: asked for "),
            "{message}"
        );
        let advice = " are free; a smaller model.micro_batch_size or model.encoder_seq_length needs less";
        assert!(message.contains(&format!("{advice}; the last checkpoint stands (")), "{message}");
    });
}
