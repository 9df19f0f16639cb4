//! A model so small that its gradients can be checked by finite differences, and batches for it.
#![allow(clippy::unwrap_used, dead_code)] // each test file uses some of it

use engine::{DType, Device};
use kernels::activation::Act;
use kernels::random::Random;
use neva::model::config::{Mlp, NormKind};
use neva::model::{
    Batch, IGNORE, LlmConfig, LlmInit, Model, ModelConfig, ProjectorConfig, Source, Sources, Trainable,
    VisionConfig,
};

/// Everything learns.
pub const ALL: Trainable = Trainable { vision: true, projector: true, llm: true };
/// Only the projector learns.
pub const PHASE_1: Trainable = Trainable { vision: false, projector: true, llm: false };
/// All but the tower learns.
pub const PHASE_2: Trainable = Trainable { vision: false, projector: true, llm: true };

fn vision() -> VisionConfig {
    VisionConfig {
        image_size: 8,
        patch_size: 4,
        hidden_size: 16,
        layers: 3,
        heads: 2,
        ffn_size: 24,
        eps: 1e-5,
        activation: Act::QuickGelu,
        select_layer: -2,
        keep_class: false,
    }
}

/// LLaMA: RMSNorm, gated MLP, grouped keys.
pub fn llama() -> ModelConfig {
    ModelConfig {
        vision: vision(),
        projector: ProjectorConfig { layers: 2 },
        llm: LlmConfig {
            hidden_size: 32,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            ffn_size: 40,
            vocab_size: 24,
            max_positions: 64,
            norm: NormKind::Rms,
            eps: 1e-5,
            mlp: Mlp::Gated(Act::Silu),
            bias: false,
            rope_theta: 10000.0,
            rotary_percentage: 1.0,
            rope_factor: 1.0,
            tied: false,
            hidden_dropout: 0.0,
            ffn_dropout: 0.0,
        },
        image_token: 3,
        image_marks: None,
    }
}

/// NVGPT: LayerNorm1p, squared ReLU, half a head rotated, biases, tied embeddings, dropout.
pub fn nvgpt() -> ModelConfig {
    let mut config = llama();
    config.projector.layers = 1;
    config.vision.keep_class = true;
    config.vision.select_layer = -1;
    config.llm.norm = NormKind::Layer1p;
    config.llm.mlp = Mlp::Plain(Act::SquaredRelu);
    config.llm.rotary_percentage = 0.5;
    config.llm.bias = true;
    config.llm.kv_heads = 4;
    config.llm.tied = true;
    config.llm.hidden_dropout = 0.2;
    config.llm.ffn_dropout = 0.1;
    config
}

/// A model with fresh weights.
pub fn model(device: &Device, dtype: DType, config: &ModelConfig, trainable: Trainable) -> Model {
    let source = if device.is_plan() { Source::Zeros } else { Source::Fresh(7) };
    let init = LlmInit { std: 0.2, scaled: true };
    Model::new(device, dtype, config, trainable, Sources::all(source), init).unwrap()
}

/// Sequences with the given text lengths; each has an image in front unless `images` says otherwise.
pub fn batch(config: &ModelConfig, lengths: &[(usize, bool)]) -> Batch {
    let mut random = Random::new(5, 0);
    let mut b = Batch { cu_seqlens: vec![0], ..Batch::default() };
    let rows = config.vision.feature_rows();
    let side = config.vision.image_size;
    for (sample, &(text, image)) in lengths.iter().enumerate() {
        let n = text + if image { rows } else { 0 };
        let first = b.ids.len() as u32;
        for position in 0..n {
            let is_image = image && position < rows;
            if is_image {
                b.image_rows.push(first + position as u32);
            }
            b.ids.push(if is_image { config.image_token } else { 4 + random.below(20) });
            b.positions.push(position as u32);
            b.keys.push((sample * 1000 + position) as u32);
            let labelled = !is_image && position + 1 < n && position % 2 == 1;
            b.labels.push(if labelled { 4 + random.below(20) } else { IGNORE });
            b.weights.push(0.25);
        }
        if image {
            b.images += 1;
            b.pixels.extend((0..3 * side * side).map(|_| random.normal() as f32));
        }
        b.cu_seqlens.push(b.ids.len() as u32);
    }
    b
}

/// Two sequences with an image and one without.
pub fn mixed(config: &ModelConfig) -> Batch {
    batch(config, &[(5, true), (7, false), (3, true)])
}
