//! The command line: argument parsing only. One file per subcommand; each calls the library and prints.
//!
//! An error is one line `error: …` on stderr and exit code 1; a command line that makes no sense is exit code 2.

mod bench;
mod config;
mod data;
mod eval;
mod generate;
mod kernels;
mod kernels_bench;
mod kernels_budgets;
mod kernels_compile;
mod kernels_inspect;
mod kernels_list;
mod quickstart;
mod tokenize;
mod tokenizer;
mod train;
pub mod values;

use std::ffi::OsString;
use std::io::Write;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use neva::{Error, Result};

/// What `neva --help` says.
#[derive(Parser)]
#[command(name = "neva", version, about = "Trains and runs NeVA vision-language models.")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

impl Arguments {
    /// Those in these words, of which the first is the program.
    pub fn read<T: Into<OsString> + Clone>(words: impl IntoIterator<Item = T>) -> clap::error::Result<Self> {
        let matches = values::may_be_negative(Self::command()).try_get_matches_from(words)?;
        Self::from_arg_matches(&matches)
    }
}

#[derive(Subcommand)]
enum Command {
    /// Print a configuration with every default, override and ${} filled in
    Config(config::Arguments),
    /// Make data sets
    Data(data::Arguments),
    /// Print the ids of a text as a JSON list
    Tokenize(tokenize::Arguments),
    /// Make a tokenizer
    Tokenizer(tokenizer::Arguments),
    Train(train::Arguments),
    Generate(generate::Arguments),
    Eval(eval::Arguments),
    Quickstart(quickstart::Arguments),
    #[command(subcommand)]
    Bench(bench::Command),
    #[command(subcommand)]
    Kernels(kernels::Command),
}

/// Runs the subcommand.
///
/// # Errors
/// Whatever the subcommand meets.
pub fn run(arguments: Arguments) -> Result<()> {
    // A path this machine cannot take is an error for the user, before anything falls back to another.
    ::kernels::simd::Path::choose().map_err(Error::Usage)?;
    match arguments.command {
        Command::Config(arguments) => config::run(&arguments),
        Command::Data(arguments) => data::run(&arguments),
        Command::Tokenize(arguments) => tokenize::run(&arguments),
        Command::Tokenizer(arguments) => tokenizer::run(&arguments),
        Command::Train(arguments) => train::run(&arguments),
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Quickstart(arguments) => quickstart::run(&arguments),
        Command::Bench(command) => bench::run(&command),
        Command::Kernels(command) => kernels::run(&command),
    }
}

/// Writes text to stdout at once.
///
/// # Errors
/// [`Error::Io`] about `stdout`. A reader that has gone away (`neva … | head`) is one too: `main` ends quietly on it.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::io("stdout"))
}

/// Bytes in units of a thousand, with three digits: `1.25 MB`.
fn bytes(count: u64) -> String {
    scaled(count, "B")
}

/// A count in units of a thousand, with three digits: `1.25 MFLOP`.
fn scaled(count: u64, unit: &str) -> String {
    let mut value = count as f64;
    let mut prefix = "";
    for larger in ["k", "M", "G", "T"] {
        if value < 999.5 {
            break;
        }
        (value, prefix) = (value / 1e3, larger);
    }
    let digits = match value {
        _ if prefix.is_empty() => 0,
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {prefix}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_three_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (33_536, "33.5 kB"),
            (999_700, "1.00 MB"),
            (503_316_480, "503 MB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(scaled(1_234_000, "FLOP"), "1.23 MFLOP");
    }
}
