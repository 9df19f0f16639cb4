//! `kernel-sim COMMAND [ARGUMENT...]` runs a command on the simulated GPU; see the library. `neva` is the one that was
//! built beside this program.
//!
//! `NEVA_SIM` chooses what is simulated: `settings.h` lists it. `NEVA_SIM_FAULT` lets something fail: see `faults.h`.

use kernel_sim::{Simulator, default_cache};
use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
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
    match Command::new(neighbour(&program).unwrap_or_else(|| program.clone().into()))
        .args(arguments)
        .envs(simulator.environment())
        .status()
    {
        // A command that a signal ended has no code.
        Ok(status) => ExitCode::from(status.code().map_or(1, |code| code as u8)),
        Err(e) => {
            eprintln!("error: {}: {e}", program.display());
            ExitCode::FAILURE
        }
    }
}

/// The file of this name that lies beside this program, if the name is no path.
fn neighbour(program: &OsStr) -> Option<PathBuf> {
    let file = env::current_exe().ok()?.parent()?.join(program);
    (Path::new(program).components().count() == 1 && file.is_file()).then_some(file)
}
