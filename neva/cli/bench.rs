//! `neva bench step` and `neva bench decode`.

use clap::{Args, Subcommand, ValueEnum};
use engine::{DType, Device, Pass, summarize};
use kernels::check::bench::{Ceilings, Effort};
use kernels::check::rates;
use kernels::device::Kind;
use neva::bench::{DecodeBench, Sizes, StepBench};
use neva::model::Trainable;
use neva::{Error, Result, device, train};

/// Time parts of the work
#[derive(Subcommand)]
pub enum Command {
    /// One training step of a model with random weights
    Step(Step),
    /// Tokens that a decoder with random weights adds to one sequence
    Decode(Decode),
}

#[derive(Args)]
pub struct Decode {
    /// Arithmetic
    #[arg(long, default_value = "bf16")]
    dtype: Dtype,
    /// CPU threads
    #[arg(long, default_value_t = 1, value_parser = super::values::up_to::<4096>)]
    threads: usize,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 32, value_parser = super::values::up_to::<{ 1 << 20 }>)]
    prompt: usize,
    /// Tokens timed
    #[arg(long, default_value_t = 32, value_parser = super::values::up_to::<{ 1 << 20 }>)]
    tokens: usize,
    /// Decoder: hidden,layers,heads,ffn
    #[arg(long, default_value = "1024,19,16,2816", value_parser = sizes)]
    llm: Sizes,
    /// Key and value heads; all heads if not given
    #[arg(long, value_parser = super::values::positive)]
    kv: Option<usize>,
    /// Vocabulary
    #[arg(long, default_value_t = 32000, value_parser = super::values::up_to::<{ 1 << 24 }>)]
    vocab: usize,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, default_value = "cpu")]
    device: String,
}

#[derive(Args)]
pub struct Step {
    /// Arithmetic
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// CPU threads
    #[arg(long, default_value_t = 1, value_parser = super::values::up_to::<4096>)]
    threads: usize,
    /// Sequences, each with one image
    #[arg(long, default_value_t = 4, value_parser = super::values::up_to::<4096>)]
    batch: usize,
    /// Text tokens of a sequence
    #[arg(long, default_value_t = 64, value_parser = super::values::up_to::<{ 1 << 20 }>)]
    text: usize,
    /// Steps timed
    #[arg(long, default_value_t = 8, value_parser = super::values::up_to::<1_000_000>)]
    steps: usize,
    /// Side of the image, pixels
    #[arg(long, default_value_t = 64, value_parser = super::values::up_to::<16_384>)]
    image: usize,
    /// Side of a patch, pixels
    #[arg(long, default_value_t = 8, value_parser = super::values::up_to::<1024>)]
    patch: usize,
    /// Tower: hidden,layers,heads,ffn
    #[arg(long, default_value = "256,4,4,1024", value_parser = sizes)]
    vision: Sizes,
    /// Decoder: hidden,layers,heads,ffn
    #[arg(long, default_value = "512,8,8,1376", value_parser = sizes)]
    llm: Sizes,
    /// Key and value heads; all heads if not given
    #[arg(long, value_parser = super::values::positive)]
    kv: Option<usize>,
    /// Vocabulary
    #[arg(long, default_value_t = 4096, value_parser = super::values::up_to::<{ 1 << 24 }>)]
    vocab: usize,
    /// What learns: all, the projector (phase 1), or projector and decoder (phase 2)
    #[arg(long, default_value = "llm")]
    train: Train,
    /// Print the ops first, each with its shortest time of all steps, the longest first
    #[arg(long)]
    trace: bool,
    /// Measure also what this machine can do, and say what a step takes at least (on the CPU)
    #[arg(long)]
    floor: bool,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, default_value = "cpu")]
    device: String,
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
        [hidden @ 1..=65_536, layers @ 1..=1024, heads @ 1..=4096, ffn @ 1..=1_048_576]
            if hidden % heads == 0 && text.matches(',').count() == 3 =>
        {
            Ok(Sizes { hidden, layers, heads, ffn })
        }
        _ => {
            Err("expected hidden,layers,heads,ffn with heads dividing hidden, up to 65536,1024,4096,1048576"
                .into())
        }
    }
}

pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Step(step) => run_step(step),
        Command::Decode(decode) => run_decode(decode),
    }
}

fn usage(wrong: bool, what: impl FnOnce() -> String) -> Result<()> {
    if wrong { Err(Error::Usage(what())) } else { Ok(()) }
}

fn check_head(flag: &str, sizes: Sizes) -> Result<()> {
    let width = sizes.hidden / sizes.heads;
    usage(!width.is_multiple_of(8) || width > 256, || {
        format!("{flag}: a head is {width} wide, expected a multiple of 8 up to 256")
    })
}

fn check_kv(kv: usize, heads: usize) -> Result<()> {
    usage(!heads.is_multiple_of(kv), || format!("--kv: {kv} does not divide the {heads} heads of --llm"))
}

fn run_decode(decode: &Decode) -> Result<()> {
    let kv = decode.kv.unwrap_or(decode.llm.heads);
    check_kv(kv, decode.llm.heads)?;
    check_head("--llm", decode.llm)?;
    let bench = DecodeBench {
        dtype: decode.dtype.into(),
        prompt: decode.prompt,
        tokens: decode.tokens,
        llm: decode.llm,
        kv,
        vocab: decode.vocab,
    };
    let device = device::open(&decode.device)?;
    train::in_pool(Some(decode.threads), || {
        let times = bench.run(&device).map_err(|e| e.advise("a smaller --llm or --tokens needs less"))?;
        let read = rates::read(512 << 20);
        super::print(&format!("{}\n", bench.to_json(&times, read)))
    })
}

fn run_step(step: &Step) -> Result<()> {
    let train = match step.train {
        Train::All => Trainable { vision: true, projector: true, llm: true },
        Train::Llm => Trainable { vision: false, projector: true, llm: true },
        Train::Projector => Trainable { vision: false, projector: true, llm: false },
    };
    let kv = step.kv.unwrap_or(step.llm.heads);
    let (image, patch) = (step.image, step.patch);
    usage(image % patch != 0, || format!("--patch: {patch} does not divide --image {image}"))?;
    usage(step.vocab < 2, || "--vocab: expected at least 2: the last id is the image token".into())?;
    check_kv(kv, step.llm.heads)?;
    check_head("--vision", step.vision)?;
    check_head("--llm", step.llm)?;
    let rows = step.batch * ((image / patch).pow(2) + step.text);
    let most = 1 << 24;
    usage(rows > most, || format!("--batch {}: {rows} rows in all, expected at most {most}", step.batch))?;
    let bench = StepBench {
        dtype: step.dtype.into(),
        batch: step.batch,
        text: step.text,
        steps: step.steps,
        image: step.image,
        patch: step.patch,
        vision: step.vision,
        llm: step.llm,
        kv,
        vocab: step.vocab,
        train,
        trace: step.trace,
    };
    let device = device::open(&step.device)?;
    usage(step.floor && !matches!(device.kind(), Kind::Cpu(_)), || {
        "--floor: the rates are those of the CPU, use --device cpu".into()
    })?;
    train::in_pool(Some(step.threads), || {
        let times = bench.run(&device).map_err(|e| e.advise("a smaller --batch or --text needs less"))?;
        if step.trace {
            let rows = summarize(&times.ops, |e| {
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
        let rates = step.floor.then(|| floor_rates(&device, bench.dtype)).transpose()?;
        super::print(&format!("{}\n", bench.to_json(&times, rates)))
    })
}

/// Operations and bytes per second of this machine at its best. In f32 the operations are multiply-adds in registers
/// on each thread. In bf16 they are those of a large product: processors differ in the units that they have for it.
fn floor_rates(device: &Device, dtype: DType) -> Result<[f64; 2]> {
    let ceilings = Ceilings::measure(device, Effort::full(device))?;
    let threads = rayon::current_num_threads() as f64;
    let flops = if dtype == DType::Bf16 { ceilings.bf16_flops } else { rates::multiply_add() * threads };
    Ok([flops, ceilings.bytes])
}
