//! `neva data import easy-vqa DIR --out DIR`

use std::path::PathBuf;

use neva::Result;
use neva::data::import::easy_vqa;

use super::print;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make LLaVA JSON of another data set
    Import(Import),
}

#[derive(clap::Args)]
struct Import {
    #[command(subcommand)]
    set: Set,
}

#[derive(clap::Subcommand)]
enum Set {
    /// easy-vqa 1.0, as its Python package brings it: 48,248 questions about 5,000 pictures of coloured shapes
    EasyVqa(EasyVqa),
}

#[derive(clap::Args)]
struct EasyVqa {
    /// Where the package is installed or unpacked: the directory that holds easy_vqa/
    dir: PathBuf,
    /// The directory to write train.json, test.json, texts.txt and images/ to, made if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let Command::Import(Import { set: Set::EasyVqa(EasyVqa { dir, out }) }) = &arguments.command;
    let imported = easy_vqa(dir, out)?;
    print(&format!("{}\n", serde_json::json!(imported)))
}
