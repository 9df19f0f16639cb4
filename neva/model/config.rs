//! The architecture of a model: what its directory's config.json says, and what a training configuration asks for.

use kernels::activation::Act;

/// A whole NeVA.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The vision tower.
    pub vision: VisionConfig,
    /// The projector between them.
    pub projector: ProjectorConfig,
    /// The language model.
    pub llm: LlmConfig,
    /// The token whose rows image features replace.
    pub image_token: u32,
    /// Tokens around the image's rows that keep their learned embeddings, if the model has them
    /// (`use_im_start_end`): before and after.
    pub image_marks: Option<(u32, u32)>,
}

/// CLIP's vision transformer (Radford et al. 2021; Dosovitskiy et al. 2020).
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Side of the square image in pixels.
    pub image_size: usize,
    /// Side of a square patch in pixels.
    pub patch_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Layers in the checkpoint; features may come from an earlier one.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the MLP.
    pub ffn_size: usize,
    /// LayerNorm epsilon.
    pub eps: f64,
    /// Activation of the MLP: quick_gelu in OpenAI's checkpoints.
    pub activation: Act,
    /// Which hidden state the features are: 0 is the input of the first layer, -1 the output of the last.
    pub select_layer: i64,
    /// Whether features keep the class token's row (`cls_patch`) or drop it (`patch`).
    pub keep_class: bool,
}

/// From vision features to language embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectorConfig {
    /// How many linear layers, with erf GELU between them: 1 is `linear`, 2 is `mlp2x_gelu`.
    pub layers: usize,
}

/// A decoder, LLaMA or NVGPT by its settings.
#[derive(Debug, Clone, PartialEq)]
pub struct LlmConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub ffn_size: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// The longest sequence it was made for.
    pub max_positions: usize,
    /// Which normalisation.
    pub norm: NormKind,
    /// Its epsilon.
    pub eps: f64,
    /// Which MLP.
    pub mlp: Mlp,
    /// Whether linear layers have biases.
    pub bias: bool,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How much of a head rotates.
    pub rotary_percentage: f64,
    /// Positions are divided by this (linear interpolation); 1 leaves them.
    pub rope_factor: f64,
    /// Whether the output head is the embedding.
    pub tied: bool,
    /// Dropout on the embeddings and on each block's two outputs, in training.
    pub hidden_dropout: f64,
    /// Dropout inside the MLP, in training.
    pub ffn_dropout: f64,
}

/// Normalisation of the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMSNorm.
    Rms,
    /// LayerNorm.
    Layer,
    /// LayerNorm whose stored weight w means 1 + w.
    Layer1p,
}

/// The MLP of the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mlp {
    /// act(gate) * up, one packed projection.
    Gated(Act),
    /// act(up).
    Plain(Act),
}

impl VisionConfig {
    /// Patches of one image.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Rows of features per image.
    pub fn feature_rows(&self) -> usize {
        self.patches() + self.keep_class as usize
    }

    /// How many layers must run for the selected features: hidden state k is the output of k layers.
    pub fn layers_used(&self) -> usize {
        let states = self.layers as i64 + 1;
        let k = if self.select_layer < 0 { states + self.select_layer } else { self.select_layer };
        k.clamp(0, states - 1) as usize
    }
}

impl LlmConfig {
    /// How many dimensions of a head rotate: even.
    pub fn rotary_dim(&self) -> usize {
        (self.head_dim as f64 * self.rotary_percentage) as usize / 2 * 2
    }

    /// Width of a packed [q | k | v] row.
    pub fn qkv_size(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}
