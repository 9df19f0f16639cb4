//! `neva quickstart`.

use std::path::PathBuf;

use neva::{Result, device, quickstart, train};

/// From nothing to answers about pictures, in under three minutes and without a network
#[derive(clap::Args)]
pub struct Arguments {
    /// A new or empty directory for all it makes
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    out: PathBuf,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, default_value = "auto")]
    device: String,
}

pub fn run(a: &Arguments) -> Result<()> {
    let stop = train::stop_on_signals()?;
    let device = device::open(&a.device)?;
    let outcome = train::in_pool(None, || {
        quickstart::run(&device, &a.out, &stop, &mut |text| super::print(&format!("{text}\n")))
    })?;
    super::print(&format!("{}\n", outcome.to_json()))
}
