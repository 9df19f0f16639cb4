//! `neva eval`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::bench::Dtype;
use neva::eval::{self, Options, Score};
use neva::generate::Answerer;
use neva::{Error, Result, device, train};

/// Count the questions of a data set that a model answers right
#[derive(clap::Args)]
pub struct Arguments {
    /// The model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// LLaVA JSON; each gpt turn is one question
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The directory that the records' image names start from
    #[arg(long, value_name = "DIR", default_value = ".")]
    image_folder: PathBuf,
    /// Ask only the first so many questions
    #[arg(long, value_parser = super::values::positive)]
    limit: Option<usize>,
    /// Write each answer as a line of JSON to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Give each record the image of another: what is still right was guessed
    #[arg(long)]
    blind: bool,
    /// Arithmetic; as the model is stored if not given
    #[arg(long)]
    dtype: Option<Dtype>,
    /// The longest answer, in tokens
    #[arg(long, default_value_t = 64, value_parser = super::values::positive)]
    max_new_tokens: usize,
    /// Questions answered together
    #[arg(long, default_value_t = eval::BATCH, value_parser = super::values::positive)]
    batch: usize,
    /// CPU threads; all cores if not given
    #[arg(long, value_parser = super::values::up_to::<4096>)]
    threads: Option<usize>,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, default_value = "auto")]
    device: String,
}

pub fn run(a: &Arguments) -> Result<()> {
    let device = device::open(&a.device)?;
    train::in_pool(a.threads, || {
        let answerer = Answerer::load(&device, &a.model, a.dtype.map(Into::into))?;
        let options = Options {
            data: a.data.clone(),
            image_folder: a.image_folder.clone(),
            limit: a.limit,
            blind: a.blind,
            max_new_tokens: a.max_new_tokens,
            batch: a.batch,
        };
        let mut out = match &a.out {
            Some(path) => Some(BufWriter::new(File::create(path).map_err(Error::io(path))?)),
            None => None,
        };
        let path = || a.out.clone().unwrap_or_default();
        let mut score = Score::default();
        eval::run(&answerer, &options, &mut |answered| {
            score.add(&answered);
            match &mut out {
                Some(out) => writeln!(out, "{}", answered.to_json()).map_err(Error::io(path())),
                None => Ok(()),
            }
        })?;
        if let Some(mut out) = out {
            out.flush().map_err(Error::io(path()))?;
        }
        super::print(&format!("{}\n", score.to_json()))
    })
    .map_err(|e| e.advise("a smaller --batch needs less"))
}
