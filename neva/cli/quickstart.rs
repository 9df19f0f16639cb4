//! `neva quickstart`.

use std::path::PathBuf;

use neva::{Result, quickstart, train};

/// From nothing to answers about pictures, in under three minutes and without a network
#[derive(clap::Args)]
pub struct Arguments {
    /// A new or empty directory for all it makes
    #[arg(long, default_value = "runs/quickstart")]
    out: PathBuf,
}

pub fn run(a: &Arguments) -> Result<()> {
    let stop = train::stop_on_signals()?;
    let outcome = train::in_pool(None, || {
        quickstart::run(&a.out, &stop, &mut |text| super::print(&format!("{text}\n")))
    })?;
    super::print(&format!("{}\n", outcome.to_json()))
}
