//! `neva generate`.

use std::path::PathBuf;

use super::bench::Dtype;
use neva::generate::Answerer;
use neva::image::Image;
use neva::sampling::Sampling;
use neva::{Result, device, train};

/// Answer one prompt, about images if there are any
#[derive(clap::Args)]
pub struct Arguments {
    /// The model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// An image; may be given more than once
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// The user's turn, put into the model's own template; images without an <image> in it go in front
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Take the prompt as it is, without a template
    #[arg(long)]
    raw: bool,
    /// Arithmetic; as the model is stored if not given
    #[arg(long)]
    dtype: Option<Dtype>,
    /// The most tokens to add
    #[arg(long, default_value_t = 256, value_parser = super::values::positive)]
    max_new_tokens: usize,
    /// 0 takes the likeliest token
    #[arg(long, default_value_t = 0.0, value_parser = super::values::at_least_zero)]
    temperature: f64,
    /// Sample among the likeliest so many tokens; 0 among all
    #[arg(long, default_value_t = 0, value_parser = super::values::count)]
    top_k: usize,
    /// Sample among the likeliest tokens that together reach this probability
    #[arg(long, default_value_t = 1.0, value_parser = super::values::probability)]
    top_p: f64,
    /// Makes tokens that occurred less likely; 1 does nothing
    #[arg(long, default_value_t = 1.0, value_parser = super::values::above_zero)]
    repetition_penalty: f64,
    /// A text that ends the answer; may be given more than once
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Of the sampling
    #[arg(long, default_value_t = 0, value_parser = super::values::seed)]
    seed: u64,
    /// CPU threads; all cores if not given
    #[arg(long, value_parser = super::values::up_to::<4096>)]
    threads: Option<usize>,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, default_value = "auto")]
    device: String,
}

pub fn run(a: &Arguments) -> Result<()> {
    // A wrong name is told before a large model is read.
    for path in &a.image {
        Image::open(path)?;
    }
    let device = device::open(&a.device)?;
    train::in_pool(a.threads, || {
        let answerer = Answerer::load(&device, &a.model, a.dtype.map(Into::into))?;
        let prompt = if a.raw {
            answerer.raw_prompt(&a.prompt, &a.image)?
        } else {
            answerer.prompt(&a.prompt, &a.image)?
        };
        let mut stop = a.stop.clone();
        if !a.raw {
            stop.extend(answerer.greedy().stop);
        }
        let sampling = Sampling {
            max_new_tokens: a.max_new_tokens,
            temperature: a.temperature,
            top_k: a.top_k,
            top_p: a.top_p,
            repetition_penalty: a.repetition_penalty,
            stop,
            seed: a.seed,
        };
        answerer.answer(&[prompt], &sampling, &mut |_, text| super::print(text))?;
        super::print("\n")
    })
    .map_err(|e| e.advise("--dtype bf16 or a smaller --max-new-tokens needs less"))
}
