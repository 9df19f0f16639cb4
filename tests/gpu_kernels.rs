//! Every case of every op on the simulated GPU against the CPU in f64, under several schedules and the checker.
//!
//! What runs is the command a user would run, `neva kernels check --device cuda`. It ends its lines with a hash of the
//! bits that the device gave, so equal output means equal bits whatever ran first, in every process.
#![allow(clippy::unwrap_used)]

mod simulated;

use simulated::{simulator, text};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

/// What `neva kernels check` prints under this `NEVA_SIM`.
fn check(settings: &str) -> Option<String> {
    let simulator = simulator()?;
    let output = Command::new(env!("CARGO_BIN_EXE_neva"))
        .args(["kernels", "check", "--device", "cuda"])
        .env_remove("NEVA_KERNEL_DIR")
        .envs(simulator.environment())
        .env("NEVA_SIM", settings)
        .output()
        .unwrap();
    assert!(output.status.success(), "{settings}: {}\n{}", output.status, text(&output));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// All of them agree, and print the same. Two run at a time.
fn check_all(settings: &[&'static str]) {
    let left = Mutex::new(settings.iter());
    let printed = Mutex::new(vec![]);
    let worker = || {
        loop {
            let Some(setting) = left.lock().unwrap().next() else { return };
            let Some(output) = check(setting) else { return };
            printed.lock().unwrap().push((*setting, output));
        }
    };
    thread::scope(|scope| {
        scope.spawn(worker);
        scope.spawn(worker);
    });
    let printed = printed.into_inner().unwrap();
    for (setting, output) in &printed {
        let (first, expected) = &printed[0];
        assert_eq!(output, expected, "{setting} and {first}");
    }
}

#[test]
fn kernels_agree_with_the_cpu_under_every_schedule() {
    check_all(&[
        "schedule=lowest,late",
        "schedule=highest,late",
        "schedule=round,late",
        "schedule=random:7,late",
        "schedule=random:8,early",
    ]);
}

/// The checker looks at every access: races, also those that gave the right result by luck, and accesses outside of
/// buffers and shared arrays fail the launch.
#[test]
fn kernels_have_no_races_and_stay_in_bounds() {
    check_all(&[
        "schedule=lowest,check=race+bounds+proxy",
        "schedule=highest,check=race+bounds+proxy",
        "schedule=random:9,check=race+bounds+proxy",
    ]);
}
