//! `neva tokenizer train --input FILE… --vocab-size N --out DIR [--special TOKEN…]`

use std::path::{Path, PathBuf};

use neva::tokenizer::train;
use neva::{Error, Result};

use super::print;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Learn a vocabulary from text files and write it as tokenizer.model
    Train(Train),
}

#[derive(clap::Args)]
struct Train {
    /// Text files, UTF-8
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    input: Vec<PathBuf>,
    /// The most pieces to have, with the special ones; fewer if the text is too short for them
    #[arg(long, value_name = "N", value_parser = super::values::positive)]
    vocab_size: usize,
    /// The directory to write to, made if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Tokens to find literally in text, beside <extra_id_0> to <extra_id_7>
    #[arg(long, num_args = 1.., value_name = "TOKEN", value_parser = super::values::word)]
    special: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let Command::Train(Train { input, vocab_size, out, special }) = &arguments.command;
    let texts = input.iter().map(|path| text(path)).collect::<Result<Vec<String>>>()?;
    let special: Vec<&str> = special.iter().map(String::as_str).collect();
    let tokenizer = train(texts.iter().map(String::as_str), *vocab_size, &special)?;
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    tokenizer.save(out)?;
    print(&format!("{}: {} pieces\n", out.display(), tokenizer.vocab_size()))
}

/// The text in a file.
fn text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Error::DataFile {
            path: path.into(),
            message: format!("is not UTF-8 in line {line}; expected text in UTF-8"),
        }
    })
}
