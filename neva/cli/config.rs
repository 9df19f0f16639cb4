//! `neva config FILE [key=value…]`

use std::path::PathBuf;

use neva::Result;
use neva::config::Config;

use super::print;

#[derive(clap::Args)]
pub struct Arguments {
    /// The YAML file
    file: PathBuf,
    /// key=value, +key=value, ++key=value or ~key
    overrides: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let config = Config::load(&arguments.file, &arguments.overrides)?;
    if let Some(warning) = config.warning() {
        eprintln!("warning: {warning}");
    }
    print(&config.resolved_yaml())
}
