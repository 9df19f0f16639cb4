//! `neva bench step`: the time of one training step of a model with random weights on one fixed random batch, of the
//! same sizes and with the same output as the PyTorch peer in `benches/peers/train_step.py`.
//!
//! What a step takes at least is its **floor**: the operations of its ops at the machine's rate, and 28 bytes per
//! parameter that learns at the rate of a copy (AdamW reads weight, gradient and two moments and writes all but the
//! gradient).
//!
//! What it needs of memory at most is its **allowance**: weights, gradients, master weights and moments; a tenth more
//! than what backward needs kept; and 64 MiB. Kept are, per row and layer, in elements of the arithmetic,
//!
//! ```text
//! decoder: 5 h + (h + 2 kv) + 3 F       (two residual sums, two norms, qkv, attention's result; gate, up, their product)
//! tower:   8 h + 2 F                    (two inputs, two norms, qkv, attention's result; fc1 before and behind its function)
//! ```
//!
//! with widths h of the row, kv of the keys, F of the MLP; four bytes per head and row for attention; and the logits
//! of the supervised rows.

use super::{Sizes, peak_resident_bytes};
use crate::Result;
use crate::model::{Batch, IGNORE, LlmInit, Model, ModelConfig, ProjectorConfig, Source, Sources, Trainable};
use engine::{AdamW, AdamWConfig, DType, Device, Event, Param, backward};
use kernels::random::Random;
use serde_json::{Value, json};
use std::time::Instant;

/// What to time.
#[derive(Debug, Clone)]
pub struct StepBench {
    /// f32 or bf16.
    pub dtype: DType,
    /// Sequences, each with one image.
    pub batch: usize,
    /// Text tokens of a sequence.
    pub text: usize,
    /// Steps timed; two more warm up.
    pub steps: usize,
    /// Side of the image.
    pub image: usize,
    /// Side of a patch.
    pub patch: usize,
    /// The tower.
    pub vision: Sizes,
    /// The decoder.
    pub llm: Sizes,
    /// Its key and value heads.
    pub kv: usize,
    /// Its vocabulary.
    pub vocab: usize,
    /// What learns.
    pub train: Trainable,
    /// Whether ops are recorded.
    pub trace: bool,
}

/// What it took.
pub struct StepTimes {
    /// On what, in words.
    pub device: String,
    /// Milliseconds, sorted.
    pub ms: Vec<f64>,
    /// Rows of a step.
    pub rows: usize,
    /// The loss of the last step.
    pub loss: f64,
    /// The ops of a step, each with its shortest time of all timed steps; without times if they were not recorded.
    pub ops: Vec<Event>,
    /// Elements of the parameters that learn.
    pub learning: usize,
    /// The most memory that this process ever had, if the system tells.
    pub peak_bytes: Option<usize>,
    /// The memory that it may take; see the module.
    pub allowed_bytes: usize,
}

impl StepTimes {
    /// Operations of a step, as its ops count them.
    pub fn flops(&self) -> u64 {
        self.ops.iter().map(|op| op.flops).sum()
    }
}

impl StepBench {
    /// Runs it on a device, the CPU with the current thread pool.
    pub fn run(&self, device: &Device) -> Result<StepTimes> {
        let config = self.config();
        let init = LlmInit { std: 0.02, scaled: false };
        let model =
            Model::new(device, self.dtype, &config, self.train, Sources::all(Source::Fresh(0)), init)?;
        let optimizer =
            AdamWConfig { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.01, decay_all: true, clip: 1.0 };
        let mut optimizer = AdamW::new(optimizer, model.params());
        let batch = self.batch(&config);
        let mut loss = 0.0;
        let mut step = || -> Result<f64> {
            let start = Instant::now();
            let part = model.loss(device, &batch, None)?;
            let value = part.detach();
            backward(part, 1.0, &mut |_| Ok(()))?;
            optimizer.step(1e-4)?;
            loss = value.item()?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        };
        device.start_trace();
        step()?;
        let mut ops = device.take_trace()?;
        step()?;
        let mut ms = vec![];
        for i in 0..self.steps {
            if self.trace {
                device.start_trace();
            }
            ms.push(step()?);
            for (op, again) in ops.iter_mut().zip(device.take_trace()?) {
                op.time = if i == 0 { again.time } else { op.time.min(again.time) };
            }
        }
        ms.sort_by(f64::total_cmp);
        let learning = model.params().iter().filter(|p| p.trainable()).map(|p| p.spec().elements()).sum();
        let allowed_bytes = self.allowed_bytes(&model, &batch);
        let (device, rows) = (device.describe(), batch.ids.len());
        Ok(StepTimes {
            device,
            ms,
            rows,
            loss,
            ops,
            learning,
            peak_bytes: peak_resident_bytes(),
            allowed_bytes,
        })
    }

    /// See the module.
    fn allowed_bytes(&self, model: &Model, batch: &Batch) -> usize {
        let (v, l) = (self.vision, self.llm);
        let size = self.dtype.size();
        let parameter = |p: &&Param| {
            let (acc, n) = (p.grad_dtype(), p.spec().elements());
            // Gradient and two moments, and a master where the weight is narrower.
            let learning = if acc == p.spec().dtype { 3 } else { 4 };
            p.spec().bytes() + if p.trainable() { learning * n * acc.size() } else { 0 }
        };
        let parameters: usize = model.params().iter().map(parameter).sum();
        let rows = batch.ids.len();
        let kv = 2 * self.kv * (l.hidden / l.heads);
        let decoder = rows * l.layers * (size * (6 * l.hidden + kv + 3 * l.ffn) + 4 * l.heads);
        let tower_rows = self.batch * (model.config().vision.patches() + 1);
        let tower = tower_rows * v.layers * (size * (8 * v.hidden + 2 * v.ffn) + 4 * v.heads);
        let logits = batch.supervised() * self.vocab * size;
        let kept = decoder + logits + if self.train.vision { tower } else { 0 };
        parameters + kept + kept / 10 + (64 << 20)
    }

    fn config(&self) -> ModelConfig {
        let l = self.llm;
        ModelConfig {
            vision: self.vision.tower(self.image, self.patch, -2),
            projector: ProjectorConfig { layers: 2 },
            llm: l.llama(self.kv, self.vocab, 4096),
            image_token: self.vocab as u32 - 1,
            image_marks: None,
        }
    }

    /// Every text token is predicted, the first by the last image row.
    fn batch(&self, config: &ModelConfig) -> Batch {
        let mut random = Random::new(0, 0);
        let patches = config.vision.patches();
        let n = patches + self.text;
        let mut b = Batch { cu_seqlens: vec![0], images: self.batch, ..Batch::default() };
        let weight = 1.0 / (self.batch * self.text) as f32;
        for s in 0..self.batch {
            let text: Vec<u32> = (0..self.text).map(|_| random.below(self.vocab as u32 - 1)).collect();
            for i in 0..n {
                if i < patches {
                    b.image_rows.push((s * n + i) as u32);
                }
                b.ids.push(if i < patches { config.image_token } else { text[i - patches] });
                b.positions.push(i as u32);
                b.keys.push((s * n + i) as u32);
                b.labels.push(if i + 1 >= patches && i + 1 < n { text[i + 1 - patches] } else { IGNORE });
                b.weights.push(weight);
            }
            b.cu_seqlens.push(b.ids.len() as u32);
        }
        b.pixels = (0..self.batch * 3 * self.image * self.image).map(|_| random.normal() as f32).collect();
        b
    }

    /// The line that the peer prints too, and more. `rates` are those of the machine: operations and bytes per second.
    pub fn to_json(&self, times: &StepTimes, rates: Option<[f64; 2]>) -> Value {
        let best = times.ms[0];
        let train = match (self.train.vision, self.train.llm) {
            (true, _) => "all",
            (false, true) => "llm",
            (false, false) => "projector",
        };
        let tenth = |x: f64| (x * 10.0).round() / 10.0;
        let mib = |bytes: usize| tenth(bytes as f64 / f64::from(1 << 20));
        let mut line = json!({
            "peer": concat!("neva ", env!("CARGO_PKG_VERSION")),
            "device": times.device,
            "dtype": self.dtype.to_string(),
            "threads": rayon::current_num_threads(),
            "train": train,
            "ms_median": tenth(times.ms[times.ms.len() / 2]),
            "ms_best": tenth(best),
            "tokens_per_s_best": (times.rows as f64 / best * 1e3).round(),
            "loss": (times.loss * 1e4).round() / 1e4,
            "gflop": tenth(times.flops() as f64 / 1e9),
            "learning": times.learning,
            "peak_mib": times.peak_bytes.map(mib),
            "allowed_mib": mib(times.allowed_bytes),
        });
        if let Some([flops, bytes]) = rates {
            let floor = times.flops() as f64 / flops + 28.0 * times.learning as f64 / bytes;
            line["gflop_per_s"] = json!(tenth(flops / 1e9));
            line["copy_gb_per_s"] = json!(tenth(bytes / 1e9));
            line["floor_ms"] = json!(tenth(floor * 1e3));
        }
        line
    }
}
