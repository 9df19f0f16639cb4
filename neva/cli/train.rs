//! `neva train CONFIG [key=value…]`.

use std::path::PathBuf;

use neva::Result;
use neva::config::Config;
use neva::train;

/// Train a model as a configuration says, or go on where the run stopped
#[derive(clap::Args)]
pub struct Arguments {
    /// The YAML file
    config: PathBuf,
    /// Overrides: key=value, +key=value, ++key=value, ~key
    overrides: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let config = Config::load(&arguments.config, &arguments.overrides)?;
    if let Some(warning) = config.warning() {
        eprintln!("warning: {warning}");
    }
    let stop = train::stop_on_signals()?;
    let summary = train::run(&config, &stop)?;
    super::print(&format!("{}\n", summary.to_json()))
}
