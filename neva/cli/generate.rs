//! `neva generate`.

use std::path::PathBuf;

use super::bench::Dtype;
use neva::generate::{Answerer, Sampling};
use neva::image::Image;
use neva::{Result, device, train};

/// Answer one prompt, about images if there are any
#[derive(clap::Args)]
pub struct Arguments {
    /// The model directory
    #[arg(long)]
    model: PathBuf,
    /// An image; may be given more than once
    #[arg(long)]
    image: Vec<PathBuf>,
    /// The user's turn, put into the model's own template; images without an <image> in it go in front
    #[arg(long)]
    prompt: String,
    /// Take the prompt as it is, without a template
    #[arg(long)]
    raw: bool,
    /// Arithmetic; as the model is stored if not given
    #[arg(long)]
    dtype: Option<Dtype>,
    /// The most tokens to add
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// 0 takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Sample among the likeliest so many tokens; 0 among all
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Sample among the likeliest tokens that together reach this probability
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Makes tokens that occurred less likely; 1 does nothing
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f64,
    /// A text that ends the answer; may be given more than once
    #[arg(long)]
    stop: Vec<String>,
    /// Of the sampling
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// CPU threads; all cores if not given
    #[arg(long)]
    threads: Option<usize>,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, default_value = "auto")]
    device: String,
}

pub fn run(a: &Arguments) -> Result<()> {
    let usage = |what: &str| Err(neva::Error::Usage(what.to_string()));
    if !(a.temperature >= 0.0 && a.temperature.is_finite()) {
        return usage("--temperature: expected a number of at least 0");
    }
    if !(a.top_p > 0.0 && a.top_p <= 1.0) {
        return usage("--top-p: expected a number above 0, at most 1");
    }
    if !(a.repetition_penalty > 0.0 && a.repetition_penalty.is_finite()) {
        return usage("--repetition-penalty: expected a number above 0");
    }
    if a.max_new_tokens == 0 {
        return usage("--max-new-tokens: expected at least 1");
    }
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
