//! `neva bench step`.

use clap::{Args, Subcommand, ValueEnum};
use engine::{DType, Pass, summarize};
use neva::bench::{Sizes, StepBench};
use neva::model::Trainable;
use neva::{Result, train};

/// Time parts of the work
#[derive(Subcommand)]
pub enum Command {
    /// One training step of a model with random weights
    Step(Step),
}

#[derive(Args)]
pub struct Step {
    /// Arithmetic
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// CPU threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Sequences, each with one image
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Text tokens of a sequence
    #[arg(long, default_value_t = 64)]
    text: usize,
    /// Steps timed
    #[arg(long, default_value_t = 8)]
    steps: usize,
    /// Side of the image, pixels
    #[arg(long, default_value_t = 64)]
    image: usize,
    /// Side of a patch, pixels
    #[arg(long, default_value_t = 8)]
    patch: usize,
    /// Tower: hidden,layers,heads,ffn
    #[arg(long, default_value = "256,4,4,1024", value_parser = sizes)]
    vision: Sizes,
    /// Decoder: hidden,layers,heads,ffn
    #[arg(long, default_value = "512,8,8,1376", value_parser = sizes)]
    llm: Sizes,
    /// Key and value heads; all heads if not given
    #[arg(long)]
    kv: Option<usize>,
    /// Vocabulary
    #[arg(long, default_value_t = 4096)]
    vocab: usize,
    /// What learns: all, the projector (phase 1), or projector and decoder (phase 2)
    #[arg(long, default_value = "llm")]
    train: Train,
    /// Print the ops of one step first, the longest first
    #[arg(long)]
    trace: bool,
}

/// The arithmetic of a model.
#[derive(Clone, Copy, ValueEnum)]
pub enum Dtype {
    /// 32-bit float
    F32,
    /// bfloat16
    Bf16,
}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> DType {
        match dtype {
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::Bf16,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Train {
    All,
    Projector,
    Llm,
}

fn sizes(text: &str) -> std::result::Result<Sizes, String> {
    let numbers: Vec<usize> = text.split(',').map_while(|n| n.trim().parse().ok()).collect();
    match numbers[..] {
        [hidden, layers, heads, ffn] if hidden > 0 && heads > 0 && hidden % heads == 0 && ffn > 0 => {
            Ok(Sizes { hidden, layers, heads, ffn })
        }
        _ => Err("expected hidden,layers,heads,ffn with heads dividing hidden".into()),
    }
}

pub fn run(command: &Command) -> Result<()> {
    let Command::Step(step) = command;
    let train = match step.train {
        Train::All => Trainable { vision: true, projector: true, llm: true },
        Train::Llm => Trainable { vision: false, projector: true, llm: true },
        Train::Projector => Trainable { vision: false, projector: true, llm: false },
    };
    let bench = StepBench {
        dtype: step.dtype.into(),
        batch: step.batch.max(1),
        text: step.text.max(1),
        steps: step.steps.max(1),
        image: step.image,
        patch: step.patch,
        vision: step.vision,
        llm: step.llm,
        kv: step.kv.unwrap_or(step.llm.heads),
        vocab: step.vocab.max(2),
        train,
    };
    train::in_pool(Some(step.threads), || {
        let times = bench.run()?;
        if step.trace {
            let rows = summarize(&times.trace, |e| {
                let pass = match e.pass {
                    Pass::Forward => "forward",
                    Pass::Backward(_) => "backward",
                    Pass::Update => "update",
                };
                format!("{} {pass}", e.op)
            });
            let mut text = String::from("op                         runs       ms   GFLOP/s      GB/s\n");
            for r in rows {
                let s = r.time.as_secs_f64();
                text += &format!(
                    "{:<26} {:>4} {:>8.2} {:>9.1} {:>9.1}\n",
                    r.key,
                    r.runs,
                    s * 1e3,
                    r.flops as f64 / s / 1e9,
                    r.bytes as f64 / s / 1e9
                );
            }
            super::print(&text)?;
        }
        super::print(&format!("{}\n", bench.to_json(&times)))
    })
}
