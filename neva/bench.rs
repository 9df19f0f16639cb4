//! `neva bench step`: the time of one training step of a model with random weights on one fixed random batch, of the
//! same sizes and with the same output as the PyTorch peer in `benches/peers/train_step.py`.

use crate::Result;
use crate::model::config::{Mlp, NormKind};
use crate::model::{
    Batch, IGNORE, LlmConfig, LlmInit, Model, ModelConfig, ProjectorConfig, Source, Sources, Trainable,
    VisionConfig,
};
use engine::{AdamW, AdamWConfig, DType, Device, Event, backward};
use kernels::activation::Act;
use kernels::random::Random;
use serde_json::{Value, json};
use std::time::Instant;

/// Width, layers, heads and MLP width of a transformer.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the MLP.
    pub ffn: usize,
}

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
    /// The ops of one more step, recorded after the timing.
    pub trace: Vec<Event>,
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
        step()?;
        step()?;
        let mut ms = (0..self.steps).map(|_| step()).collect::<Result<Vec<_>>>()?;
        ms.sort_by(f64::total_cmp);
        device.start_trace();
        step()?;
        let trace = device.take_trace()?;
        let device = device.describe();
        Ok(StepTimes { device, ms, rows: batch.ids.len(), loss, trace })
    }

    fn config(&self) -> ModelConfig {
        let (v, l) = (self.vision, self.llm);
        ModelConfig {
            vision: VisionConfig {
                image_size: self.image,
                patch_size: self.patch,
                hidden_size: v.hidden,
                layers: v.layers,
                heads: v.heads,
                ffn_size: v.ffn,
                eps: 1e-5,
                activation: Act::QuickGelu,
                select_layer: -2,
                keep_class: false,
            },
            projector: ProjectorConfig { layers: 2 },
            llm: LlmConfig {
                hidden_size: l.hidden,
                layers: l.layers,
                heads: l.heads,
                kv_heads: self.kv,
                head_dim: l.hidden / l.heads,
                ffn_size: l.ffn,
                vocab_size: self.vocab,
                max_positions: 4096,
                norm: NormKind::Rms,
                eps: 1e-6,
                mlp: Mlp::Gated(Act::Silu),
                bias: false,
                rope_theta: 10000.0,
                rotary_percentage: 1.0,
                rope_factor: 1.0,
                tied: false,
                hidden_dropout: 0.0,
                ffn_dropout: 0.0,
            },
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

    /// The line that the peer prints too.
    pub fn to_json(&self, times: &StepTimes) -> Value {
        let best = times.ms[0];
        let train = match (self.train.vision, self.train.llm) {
            (true, _) => "all",
            (false, true) => "llm",
            (false, false) => "projector",
        };
        json!({
            "peer": concat!("neva ", env!("CARGO_PKG_VERSION")),
            "device": times.device,
            "dtype": self.dtype.to_string(),
            "threads": rayon::current_num_threads(),
            "train": train,
            "ms_median": (times.ms[times.ms.len() / 2] * 10.0).round() / 10.0,
            "ms_best": (best * 10.0).round() / 10.0,
            "tokens_per_s_best": (times.rows as f64 / best * 1e3).round(),
            "loss": (times.loss * 1e4).round() / 1e4,
        })
    }
}
