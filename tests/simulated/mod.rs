//! Running a test's body in a child process on the simulated GPU.
//!
//! Needs g++. Without it each test says SKIPPED; `NEVA_REQUIRE_SIM=1` turns that into a failure. A process has one
//! CUDA, so each test runs itself again in a child process whose environment names the simulator.
#![allow(clippy::unwrap_used, dead_code)] // each test file uses some of it

use kernel_sim::Simulator;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::{env, thread};

/// Set in the child, where the test itself runs.
pub const IN_CHILD: &str = "NEVA_TEST_IN_CHILD";

/// The simulator, or None, said aloud, where it cannot be built.
pub fn simulator() -> Option<&'static Simulator> {
    static BUILT: LazyLock<Result<Simulator, kernel_sim::Error>> =
        LazyLock::new(|| Simulator::build(Path::new(env!("CARGO_TARGET_TMPDIR"))));
    match &*BUILT {
        Ok(simulator) => Some(simulator),
        Err(e @ kernel_sim::Error::NoCompiler(..)) if env::var_os("NEVA_REQUIRE_SIM").is_none() => {
            println!("SKIPPED: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// Runs the calling test again in a child process with this environment; its exit and output.
pub fn child(environment: &[(&str, &str)], simulator: Option<&Simulator>) -> Output {
    let test = thread::current().name().unwrap().to_string();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([&test, "--exact", "--nocapture"]).env(IN_CHILD, "1");
    for name in ["NEVA_CUDA_DIR", "NEVA_CACHE_DIR", "NEVA_SIM", "NEVA_SIM_FAULT", "NEVA_SYNC", "NEVA_TF32"] {
        command.env_remove(name);
    }
    if let Some(simulator) = simulator {
        command.envs(simulator.environment());
    }
    command.envs(environment.iter().copied()).output().unwrap()
}

/// Everything it printed.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs `body` on the simulated GPU, once per environment.
pub fn simulated(environments: &[&[(&str, &str)]], body: fn()) {
    if env::var_os(IN_CHILD).is_some() {
        return body();
    }
    let Some(simulator) = simulator() else { return };
    for environment in environments {
        let output = child(environment, Some(simulator));
        assert!(output.status.success(), "{environment:?}: {}\n{}", output.status, text(&output));
        println!("{environment:?}:\n{}", text(&output));
    }
}
