//! `neva train CONFIG [key=value…]`.

use std::path::PathBuf;

use neva::config::Config;
use neva::config::schema::Accelerator;
use neva::{Result, device, train};

/// Train a model as a configuration says, or go on where the run stopped
#[derive(clap::Args)]
pub struct Arguments {
    /// The YAML file
    config: PathBuf,
    /// Overrides: key=value, +key=value, ++key=value, ~key
    overrides: Vec<String>,
    /// cpu, cuda, cuda:N or auto; as trainer.accelerator says if not given
    #[arg(long)]
    device: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut overrides = arguments.overrides.clone();
    if let Some(name) = &arguments.device {
        device::check(name)?;
        overrides.push(format!("trainer.accelerator={}", Accelerator::of_device(name).word()));
    }
    let config = Config::load(&arguments.config, &overrides)?;
    let name = arguments.device.as_deref().unwrap_or(config.trainer.accelerator.device());
    if let Some(warning) = config.warning() {
        eprintln!("warning: {warning}");
    }
    let stop = train::stop_on_signals()?;
    let summary = train::run_on(&device::open(name)?, &config, &stop)?;
    super::print(&format!("{}\n", summary.to_json()))
}
