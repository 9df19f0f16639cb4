//! `kernel-sim COMMAND [ARGUMENT...]` runs a command on the simulated GPU; see the library.
//!
//! `NEVA_SIM` chooses what is simulated: `settings.h` lists it. `NEVA_SIM_FAULT` lets something fail: see `faults.h`.

use kernel_sim::{Simulator, default_cache};
use std::env;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: kernel-sim COMMAND [ARGUMENT...]");
        return ExitCode::from(2);
    };
    let simulator = match Simulator::build(&default_cache()) {
        Ok(simulator) => simulator,
        Err(e) => {
            eprintln!("error: {e}");
            return ExitCode::FAILURE;
        }
    };
    match Command::new(&program).args(arguments).envs(simulator.environment()).status() {
        // A command that a signal ended has no code.
        Ok(status) => ExitCode::from(status.code().map_or(1, |code| code as u8)),
        Err(e) => {
            eprintln!("error: {}: {e}", program.display());
            ExitCode::FAILURE
        }
    }
}
