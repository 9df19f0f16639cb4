//! The command line of NeVA: parses arguments, and turns an error into one line and an exit code.
#![forbid(unsafe_code)]

mod cli;

use std::io::ErrorKind;
use std::process::ExitCode;

use neva::Error;

fn main() -> ExitCode {
    let arguments = match cli::Arguments::read(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            let Some(sentence) = cli::values::refusal(&error) else { error.exit() };
            eprintln!("error: {sentence}");
            return ExitCode::from(2);
        }
    };
    match cli::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has read enough.
        Err(Error::Io { path, source })
            if path.as_os_str() == "stdout" && source.kind() == ErrorKind::BrokenPipe =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
