//! `neva bench`: how long whole pieces of work take.

mod decode;
mod step;

use crate::model::config::{LlmConfig, Mlp, NormKind, VisionConfig};
use kernels::activation::Act;

pub use decode::{DecodeBench, DecodeTimes};
pub use step::{StepBench, StepTimes};

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

impl Sizes {
    /// A CLIP tower of these sizes.
    fn tower(self, image: usize, patch: usize, select_layer: i64) -> VisionConfig {
        VisionConfig {
            image_size: image,
            patch_size: patch,
            hidden_size: self.hidden,
            layers: self.layers,
            heads: self.heads,
            ffn_size: self.ffn,
            eps: 1e-5,
            activation: Act::QuickGelu,
            select_layer,
            keep_class: false,
        }
    }

    /// A decoder of these sizes as LLaMA's are.
    fn llama(self, kv_heads: usize, vocab_size: usize, max_positions: usize) -> LlmConfig {
        LlmConfig {
            hidden_size: self.hidden,
            layers: self.layers,
            heads: self.heads,
            kv_heads,
            head_dim: self.hidden / self.heads,
            ffn_size: self.ffn,
            vocab_size,
            max_positions,
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
        }
    }
}

/// The most memory that this process ever had, resident in RAM, if the system tells: Linux does.
pub fn peak_resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
