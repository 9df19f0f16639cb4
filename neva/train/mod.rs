//! Training: phase 1 (the projector), phase 2 (projector and language model) or everything, by what is frozen.
//!
//! | file | what it holds |
//! |---|---|
//! | `setup.rs` | from a configuration to a model |
//! | `mod.rs` | the loop |
//! | `run_dir.rs` | the run directory and its checkpoints |
//! | `state.rs` | trainer state: an exact resume |
//! | `progress.rs` | what a person sees |
//!
//! A step is a function of (weights, optimiser state, seed, step): the order of the data, dropout and the learning
//! rate are computed from the step, nothing is carried along. So a run that stops after any step and goes on, with
//! another number of threads if need be, ends with the same bytes.

mod progress;
mod run_dir;
pub mod setup;
mod state;

pub use progress::clock;
pub use run_dir::{Saved, list};

use crate::checkpoint::{self, ModelFiles};
use crate::config::Config;
use crate::config::schema::{Dataloader, Precision};
use crate::data::{DataOptions, Dataset};
use crate::image::{Augment, Mode, Preprocess, Processor};
use crate::model::{IGNORE, Model};
use crate::{Error, Result, device};
use engine::{AdamW, AdamWConfig, DType, Device, Param, Schedule, Tensor, backward};
use kernels::random::derive;
use kernels::sum_squares::SumSquares;
use progress::{Progress, StepReport};
use run_dir::RunDir;
use serde_json::json;
use setup::Setup;
use state::Position;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Steps taken in all.
    pub steps: u64,
    /// The loss of the last step.
    pub loss: f64,
    /// The validation loss of the last checkpoint, if there is validation data.
    pub val_loss: Option<f64>,
    /// Rows (tokens and image rows) per second of training, without validation and saving.
    pub tokens_per_second: f64,
    /// The model directory.
    pub checkpoint: PathBuf,
}

impl Summary {
    /// The last line that `neva train` prints.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "steps": self.steps,
            "loss": self.loss,
            "val_loss": self.val_loss,
            "tokens_per_second": self.tokens_per_second.round(),
            "checkpoint": self.checkpoint,
        })
    }
}

/// A `stop` for [`run`] that says yes after SIGTERM or SIGINT.
pub fn stop_on_signals() -> Result<impl Fn(u64) -> bool + Sync> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, stop.clone()).map_err(Error::io("signal handler"))?;
    }
    Ok(move |_| stop.load(Ordering::Relaxed))
}

/// Trains as `config` says until its last step, or until `stop`, asked after each step with the number of steps
/// taken, says so: then the run is saved and ends well.
pub fn run(config: &Config, stop: &(dyn Fn(u64) -> bool + Sync)) -> Result<Summary> {
    run_on(&device::open(config.trainer.accelerator.device())?, config, stop)
}

/// As [`run`], on a device of choice.
pub fn run_on(device: &Device, config: &Config, stop: &(dyn Fn(u64) -> bool + Sync)) -> Result<Summary> {
    device.reset_peak();
    device.set_deterministic(config.trainer.deterministic);
    in_pool(config.trainer.threads, || {
        let mut trainer = Trainer::new(device, config)?;
        trainer.run(stop).map_err(|error| match (error, &trainer.last) {
            (Error::Engine(e @ engine::Error::DeviceLost { .. }), Some(last)) => Error::Usage(format!(
                "{e}; the last checkpoint stands ({}): run the same command to go on from it",
                last.display()
            )),
            (Error::Engine(e @ engine::Error::OutOfMemory { .. }), Some(last)) => {
                Error::Usage(format!("{e}; {NEEDS_LESS}; the last checkpoint stands ({})", last.display()))
            }
            (error, _) => error,
        })
    })
    .map_err(|e| e.advise(NEEDS_LESS))
}

/// What a run without room for it is told.
const NEEDS_LESS: &str = "a smaller model.micro_batch_size or model.encoder_seq_length needs less";

/// Runs `f` on a thread pool of this many threads (all cores if None).
pub fn in_pool<T: Send>(threads: Option<usize>, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    // The bound of trainer.threads too; rayon starts as many as it is told, and waits for each.
    if let Some(threads) = threads.filter(|n| !(1..=4096).contains(n)) {
        return Err(Error::Usage(format!("threads: expected 1 to 4096, got {threads}")));
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .build()
        .map_err(|e| Error::Usage(format!("cannot start the threads: {e}")))?;
    pool.install(f)
}

/// The type that weights and activations have under a precision.
pub fn dtype_of(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::Bf16,
    }
}

/// A run.
struct Trainer<'a> {
    config: &'a Config,
    device: Device,
    setup: Setup,
    preprocess: Preprocess,
    data: Dataset,
    validation: Option<Dataset>,
    optimizer: AdamW,
    schedule: Schedule,
    dir: RunDir,
    position: Position,
    /// The newest checkpoint, whose frozen shard the next one links.
    last: Option<PathBuf>,
}

impl<'a> Trainer<'a> {
    fn new(device: &Device, config: &'a Config) -> Result<Self> {
        let m = &config.model;
        let run_path = config.run_directory();
        let dir = RunDir::open(&run_path)?;
        let last = resume_point(config, &run_path, &dir)?;
        let dtype = dtype_of(config.trainer.precision);
        let setup = setup::build(config, device, dtype, last.as_deref())?;
        let mode = Mode::from_name(m.data.image_aspect_ratio.word()).expect("both list the same modes");
        let preprocess = Preprocess::clip(setup.model.config().vision.image_size, mode);
        let data = open_data(config, &setup, &preprocess, &m.data.data_path, false)?;
        let validation = match m.data.validation_data_path.as_slice() {
            [] => None,
            paths => Some(open_data(config, &setup, &preprocess, paths, true)?),
        };
        let o = &m.optim;
        let optimizer = AdamWConfig {
            betas: o.betas,
            eps: o.eps,
            weight_decay: o.weight_decay,
            decay_all: m.do_layer_norm_weight_decay,
            clip: config.trainer.gradient_clip_val.unwrap_or(0.0),
        };
        let mut optimizer = AdamW::new(optimizer, setup.model.params());
        let position = match &last {
            Some(checkpoint) => state::restore(checkpoint, device, &mut optimizer)?,
            None => Position { step: 0, val_loss: None, loss: f64::NAN },
        };
        let schedule = Schedule {
            lr: o.lr,
            min_lr: o.sched.min_lr,
            warmup_steps: o.sched.warmup_steps,
            constant_steps: o.sched.constant_steps,
            max_steps: config.trainer.max_steps,
        };
        let mut trainer = Trainer {
            config,
            device: device.clone(),
            setup,
            preprocess,
            data,
            validation,
            optimizer,
            schedule,
            dir,
            position,
            last,
        };
        trainer.dir.write_config(&config.resolved_yaml())?;
        trainer.dir.rewind_metrics(position.step)?;
        Ok(trainer)
    }

    fn run(&mut self, stop: &dyn Fn(u64) -> bool) -> Result<Summary> {
        let t = &self.config.trainer;
        let first = self.position.step;
        let progress = Progress::new(first, t.max_steps, t.log_every_n_steps);
        progress.say(&self.describe());
        let (mut rows, mut seconds) = (0, 0.0);
        while self.position.step < t.max_steps {
            let start = Instant::now();
            let (step_rows, lr, grad_norm) = self.step()?;
            let took = start.elapsed().as_secs_f64();
            rows += step_rows;
            seconds += took;
            let step = self.position.step;
            let stopping = stop(step);
            let last = step == t.max_steps || stopping;
            self.position.val_loss = None;
            if last || step.is_multiple_of(t.val_check_interval) {
                self.position.val_loss = self.validate()?;
            }
            self.log(step_rows, lr, grad_norm, took)?;
            progress.step(&StepReport {
                step,
                loss: self.position.loss,
                lr,
                grad_norm,
                tokens_per_second: step_rows as f64 / took,
            });
            if let Some(loss) = self.position.val_loss {
                progress.say(&format!("step {step}: val_loss {loss:.4}"));
            }
            let every = self.config.exp_manager.checkpoint_callback_params.every_n_train_steps;
            if last || step.is_multiple_of(every.unwrap_or(t.val_check_interval)) {
                self.save()?;
            }
            if stopping {
                progress
                    .say(&format!("stopped by a signal after step {step}; run the same command to go on"));
                break;
            }
        }
        progress.finish();
        let checkpoint = self.last.clone().expect("the last step was saved");
        Ok(Summary {
            steps: self.position.step,
            loss: self.position.loss,
            val_loss: self.position.val_loss,
            tokens_per_second: if seconds > 0.0 { rows as f64 / seconds } else { 0.0 },
            checkpoint,
        })
    }

    /// One optimiser step over a global batch: rows, learning rate, gradient norm.
    fn step(&mut self) -> Result<(usize, f64, f64)> {
        let step = self.position.step;
        let lr = self.schedule.at(step);
        let m = &self.config.model;
        let dropout = (m.hidden_dropout > 0.0 || m.ffn_dropout > 0.0).then(|| derive(m.seed, &[1, step]));
        let (mut losses, mut rows) = (vec![], 0);
        for micro in 0..self.data.micro_batches() {
            let batch = self.data.batch(step, micro)?;
            rows += batch.ids.len();
            let part = self.setup.model.loss(&self.device, &batch, dropout)?;
            losses.push(part.detach());
            backward(part, 1.0, &mut |_| Ok(()))?;
        }
        let norm = self.optimizer.step(lr)?;
        let loss = sum(&losses)?;
        if !loss.is_finite() || !norm.is_finite() {
            return Err(diverged(step + 1, &format!("the loss is {loss} and the gradient norm {norm}")));
        }
        self.position = Position { step: step + 1, val_loss: None, loss };
        Ok((rows, lr, norm))
    }

    /// The mean loss over the supervised tokens of the validation data.
    fn validate(&self) -> Result<Option<f64>> {
        let Some(data) = &self.validation else { return Ok(None) };
        let m = &self.config.model;
        let limit = match self.config.trainer.limit_val_batches {
            Some(0) => return Ok(None),
            Some(batches) => (batches as usize).saturating_mul(m.global_batch_size).min(data.samples()),
            None => data.samples(),
        };
        mean_loss(&self.setup.model, &self.device, data, limit, m.micro_batch_size).map(Some)
    }

    fn log(&mut self, rows: usize, lr: f64, grad_norm: f64, seconds: f64) -> Result<()> {
        let mut line = json!({
            "step": self.position.step,
            "loss": self.position.loss,
            "lr": lr,
            "grad_norm": grad_norm,
            "tokens_per_second": (rows as f64 / seconds).round(),
            "samples_per_second": self.config.model.global_batch_size as f64 / seconds,
            "ms": seconds * 1e3,
            "peak_bytes": self.device.peak_bytes(),
        });
        if let Some(loss) = self.position.val_loss {
            line["val_loss"] = json!(loss);
        }
        self.dir.log(&line)
    }

    fn save(&mut self) -> Result<()> {
        self.check_finite()?;
        let target = self.dir.checkpoint(self.position.step);
        let write = |dir: &Path| {
            self.setup.tokenizer.save(dir)?;
            write_generation(dir, &self.setup)?;
            write_processors(dir, &self.preprocess, &self.setup)
        };
        let files = ModelFiles { extras: &self.setup.extras, write: &write, previous: self.last.as_deref() };
        checkpoint::save(&target, &self.setup.model, &files, |dir| {
            state::write(dir, self.position, &self.optimizer)
        })?;
        self.last = Some(target);
        self.dir.prune(self.config.exp_manager.checkpoint_callback_params.save_top_k)
    }

    /// An update can overflow although loss and gradient were finite; such weights are no checkpoint to go on from.
    fn check_finite(&self) -> Result<()> {
        let finite = |params: &[&Param]| -> Result<bool> {
            let values = params.iter().map(|p| p.value()).collect();
            Ok(kernels::run::update(&SumSquares, values)?[0].to_f64()?[0].is_finite())
        };
        let params = self.setup.model.params();
        for dtype in [DType::F32, DType::Bf16] {
            let of_type = |p: &Param| p.trainable() && p.spec().dtype == dtype;
            let params: Vec<&Param> = params.iter().copied().filter(|p| of_type(p)).collect();
            if params.is_empty() || finite(&params)? {
                continue;
            }
            for param in params {
                if !finite(&[param])? {
                    return Err(diverged(self.position.step, &format!("{} is not finite", param.name())));
                }
            }
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let params = self.setup.model.params();
        let count = |trainable: bool| -> usize {
            params.iter().filter(|p| p.trainable() == trainable).map(|p| p.spec().elements()).sum()
        };
        let mut text = format!(
            "{} parameters learn, {} are frozen; {} samples; {}",
            count(true),
            count(false),
            self.data.samples(),
            self.device.describe(),
        );
        if self.data.truncated() > 0 {
            let n = self.data.truncated();
            text += &format!("; {n} samples cut to {} rows", self.config.model.encoder_seq_length);
        }
        if self.position.step > 0 {
            text += &format!("; going on after step {}", self.position.step);
        }
        text
    }
}

fn diverged(step: u64, what: &str) -> Error {
    Error::Usage(format!(
        "step {step}: {what}; lower model.optim.lr or clip harder (trainer.gradient_clip_val); \
         the last checkpoint stands"
    ))
}

/// The mean loss over the supervised tokens of the first `limit` samples.
pub fn mean_loss(
    model: &Model,
    device: &Device,
    data: &Dataset,
    limit: usize,
    batch_size: usize,
) -> Result<f64> {
    let _no_grad = device.no_grad();
    let (mut losses, mut tokens) = (vec![], 0);
    for first in (0..limit).step_by(batch_size) {
        let batch = data.in_order(first, batch_size.min(limit - first))?;
        tokens += batch.labels.iter().filter(|l| **l != IGNORE).count();
        losses.push(model.loss(device, &batch, None)?);
    }
    Ok(sum(&losses)? / tokens as f64)
}

/// The sum of scalars, read all at once: reading one waits for the device, which has more to do by then.
fn sum(losses: &[Tensor]) -> Result<f64> {
    losses.iter().try_fold(0.0, |sum, loss| Ok(sum + loss.item()?))
}

/// The checkpoint to go on from, if there is one and the configuration wants that.
fn resume_point(config: &Config, run: &Path, dir: &RunDir) -> Result<Option<PathBuf>> {
    let newest = dir.saved()?.pop();
    match (newest, config.exp_manager.resume_if_exists) {
        (Some(saved), true) => Ok(Some(saved.path)),
        (Some(saved), false) => Err(config.error(
            "exp_manager.resume_if_exists",
            format!("is false, but {} has a checkpoint ({})", run.display(), saved.path.display()),
        )),
        (None, true) if !config.exp_manager.resume_ignore_no_checkpoint => Err(config.error(
            "exp_manager.resume_ignore_no_checkpoint",
            format!("is false, but {} has no checkpoint to go on from", run.display()),
        )),
        (None, _) => Ok(None),
    }
}

fn open_data(
    config: &Config,
    setup: &Setup,
    preprocess: &Preprocess,
    paths: &[PathBuf],
    validation: bool,
) -> Result<Dataset> {
    let m = &config.model;
    if paths.is_empty() {
        return Err(config.error("model.data.data_path", "is not given: what is there to train on?"));
    }
    let folder = m.data.image_folder.clone().unwrap_or_default();
    let folder = if validation { m.data.validation_image_folder.clone().unwrap_or(folder) } else { folder };
    let model = setup.model.config();
    let options = DataOptions {
        paths: paths.to_vec(),
        image_folder: folder,
        template: setup.template,
        max_len: m.encoder_seq_length,
        image_rows: model.vision.feature_rows(),
        image_token: model.image_token,
        image_marks: model.image_marks,
        preprocess: preprocess.clone(),
        augment: if validation {
            Augment::default()
        } else {
            Augment { flip: m.data.image_flip, shift: m.data.image_shift }
        },
        global_batch: if validation { 1 } else { m.global_batch_size },
        micro_batch: if validation { 1 } else { m.micro_batch_size },
        shuffle: !validation && m.data.dataloader_type == Dataloader::Cyclic,
        seed: m.seed,
        reduction: m.loss_reduction,
    };
    Dataset::open(options, &setup.tokenizer)
}

/// Writes generation_config.json: greedy, and the token that ends an answer.
fn write_generation(dir: &Path, setup: &Setup) -> Result<()> {
    let t = &setup.tokenizer;
    let generation = json!({
        "bos_token_id": t.bos(), "eos_token_id": t.eos(), "pad_token_id": t.pad().or(t.eos()), "do_sample": false,
        "max_new_tokens": 256,
    });
    checkpoint::write_json(&dir.join("generation_config.json"), &generation)
}

/// Writes preprocessor_config.json and processor_config.json.
fn write_processors(dir: &Path, preprocess: &Preprocess, setup: &Setup) -> Result<()> {
    let model = setup.model.config();
    let processor = Processor {
        patch_size: model.vision.patch_size,
        vision_feature_select_strategy: if model.vision.keep_class { "full" } else { "default" }.into(),
        num_additional_image_tokens: 1,
        image_token: setup.tokenizer.piece(model.image_token).unwrap_or("<image>").into(),
    };
    checkpoint::write_json(&dir.join("preprocessor_config.json"), &preprocess.to_json())?;
    checkpoint::write_json(&dir.join("processor_config.json"), &processor.to_json())
}
