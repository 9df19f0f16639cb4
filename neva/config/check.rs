//! Values that must fit each other, and the architecture of what is born here.
//!
//! Every message holds both values.

use super::schema::{
    Activation, MlpAdapter, Normalization, Precision, SelectFeature, TokenizerLibrary, VisionEncoder,
};
use super::{Config, Model};
use crate::Result;

/// The decoder of a model that is born here; the fields are the keys of `model`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct LlmArchitecture {
    pub max_position_embeddings: usize,
    pub num_layers: usize,
    pub hidden_size: usize,
    pub ffn_hidden_size: usize,
    pub num_attention_heads: usize,
    pub num_query_groups: usize,
    pub kv_channels: usize,
    pub normalization: Normalization,
    pub layernorm_epsilon: f64,
    pub bias: bool,
    pub activation: Activation,
    pub rotary_percentage: f64,
    pub rotary_base: f64,
    pub seq_len_interpolation_factor: Option<f64>,
    pub share_embeddings_and_output_weights: bool,
}

/// The tower of a model that is born here; the fields are the keys of `model.mm_cfg.vision_encoder`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct VisionArchitecture {
    pub patch_dim: usize,
    /// Height and width, pixels.
    pub crop_size: usize,
    pub hidden_size: usize,
    pub num_layers: usize,
    pub num_attention_heads: usize,
    pub ffn_hidden_size: usize,
}

/// Widths the attention takes.
const HEAD_WIDTHS: &str = "a multiple of 8, at most 256";

impl Model {
    /// The decoder to make, `None` if it comes from a directory.
    pub fn llm_architecture(&self) -> Option<LlmArchitecture> {
        if self.restore_from_path.is_some() || self.mm_cfg.llm.from_pretrained.is_some() {
            return None;
        }
        Some(LlmArchitecture {
            max_position_embeddings: self.max_position_embeddings?,
            num_layers: self.num_layers?,
            hidden_size: self.hidden_size?,
            ffn_hidden_size: self.ffn_hidden_size?,
            num_attention_heads: self.num_attention_heads?,
            num_query_groups: self.num_query_groups?,
            kv_channels: self.kv_channels?,
            normalization: self.normalization?,
            layernorm_epsilon: self.layernorm_epsilon?,
            bias: self.bias?,
            activation: self.activation?,
            rotary_percentage: self.rotary_percentage?,
            rotary_base: self.rotary_base?,
            seq_len_interpolation_factor: self.seq_len_interpolation_factor,
            share_embeddings_and_output_weights: self.share_embeddings_and_output_weights?,
        })
    }

    /// The tower to make, `None` if it comes from a directory.
    pub fn vision_architecture(&self) -> Option<VisionArchitecture> {
        let tower = &self.mm_cfg.vision_encoder;
        if self.restore_from_path.is_some() || tower.from_pretrained.is_some() {
            return None;
        }
        Some(VisionArchitecture {
            patch_dim: tower.patch_dim?,
            crop_size: tower.crop_size?[0],
            hidden_size: tower.hidden_size?,
            num_layers: tower.num_layers?,
            num_attention_heads: tower.num_attention_heads?,
            ffn_hidden_size: tower.ffn_hidden_size?,
        })
    }
}

impl Config {
    /// Fills in the architecture of what is born here and checks everything that spans keys.
    pub(super) fn check(&mut self) -> Result<()> {
        self.check_run()?;
        self.check_sources()?;
        if self.model.restore_from_path.is_none() {
            if self.model.mm_cfg.llm.from_pretrained.is_none() {
                self.fill_llm()?;
            }
            self.fill_vision();
            self.model.mm_cfg.mm_mlp_adapter_type.get_or_insert(MlpAdapter::Linear);
            self.model.mm_cfg.use_im_start_end.get_or_insert(false);
        }
        self.model.data.conv_template.get_or_insert(self.model.mm_cfg.llm.model_type);
        self.check_llm()?;
        self.check_vision()
    }

    fn check_run(&self) -> Result<()> {
        let model = &self.model;
        if self.trainer.devices != 1 {
            let message = format!("{} is not supported: training uses one device", self.trainer.devices);
            return Err(self.error("trainer.devices", message));
        }
        let precision = self.trainer.precision;
        if model.precision.is_some_and(|other| other != precision) {
            let other = model.precision.map_or("", Precision::word);
            let message =
                format!("is {other}, but trainer.precision is {}; expected the same", precision.word());
            return Err(self.error("model.precision", message));
        }
        if precision == Precision::Bf16 && !model.megatron_amp_o2 {
            let message =
                "false is not supported with trainer.precision bf16: the master weights are kept in f32";
            return Err(self.error("model.megatron_amp_O2", message));
        }
        if !model.global_batch_size.is_multiple_of(model.micro_batch_size) {
            let message = format!(
                "{} is not a multiple of model.micro_batch_size {}",
                model.global_batch_size, model.micro_batch_size
            );
            return Err(self.error("model.global_batch_size", message));
        }
        let (sched, steps) = (&model.optim.sched, self.trainer.max_steps);
        if sched.warmup_steps.saturating_add(sched.constant_steps) > steps {
            let message = format!(
                "{} and constant_steps {} are together more than trainer.max_steps {steps}",
                sched.warmup_steps, sched.constant_steps
            );
            return Err(self.error("model.optim.sched.warmup_steps", message));
        }
        if sched.min_lr > model.optim.lr {
            let message = format!("{} is more than model.optim.lr {}", sched.min_lr, model.optim.lr);
            return Err(self.error("model.optim.sched.min_lr", message));
        }
        Ok(())
    }

    /// Where weights, tokenizer and data come from: one source each.
    fn check_sources(&self) -> Result<()> {
        let (model, mm_cfg) = (&self.model, &self.model.mm_cfg);
        let parts = [
            ("model.mm_cfg.llm.from_pretrained", &mm_cfg.llm.from_pretrained),
            ("model.mm_cfg.vision_encoder.from_pretrained", &mm_cfg.vision_encoder.from_pretrained),
            ("model.mm_cfg.pretrain_mm_mlp_adapter", &mm_cfg.pretrain_mm_mlp_adapter),
        ];
        for (key, part) in parts {
            if let (Some(part), Some(whole)) = (part, &model.restore_from_path) {
                let message = format!(
                    "{} cannot be combined with model.restore_from_path {}, which holds the whole model",
                    part.display(),
                    whole.display()
                );
                return Err(self.error(key, message));
            }
        }
        let (tokenizer, unused, other) = match model.tokenizer.library {
            TokenizerLibrary::SentencePiece => ("sentencepiece", &model.tokenizer.kind, ("type", "model")),
            TokenizerLibrary::HuggingFace => ("huggingface", &model.tokenizer.model, ("model", "type")),
        };
        if let Some(path) = unused {
            let (wrong, right) = other;
            let message = format!("{} with library {tokenizer}: give the path as {right}", path.display());
            return Err(self.error(&format!("model.tokenizer.{wrong}"), message));
        }
        let data = &model.data;
        if data.validation_image_folder.is_some() && data.validation_data_path.is_empty() {
            let message = "is given without model.data.validation_data_path";
            return Err(self.error("model.data.validation_image_folder", message));
        }
        Ok(())
    }

    fn fill_llm(&mut self) -> Result<()> {
        let model = &self.model;
        let required = [
            ("model.num_layers", model.num_layers),
            ("model.hidden_size", model.hidden_size),
            ("model.ffn_hidden_size", model.ffn_hidden_size),
            ("model.num_attention_heads", model.num_attention_heads),
        ];
        for (key, value) in required {
            if value.is_none() {
                let message = "is required, because no directory gives the language model \
                               (model.restore_from_path or model.mm_cfg.llm.from_pretrained)";
                return Err(self.error(key, message));
            }
        }
        let (Some(hidden), Some(heads)) = (model.hidden_size, model.num_attention_heads) else {
            unreachable!("both were found above");
        };
        if model.kv_channels.is_none() && !hidden.is_multiple_of(heads) {
            let message = format!("{heads} does not divide model.hidden_size {hidden}");
            return Err(self.error("model.num_attention_heads", message));
        }
        let model = &mut self.model;
        model.kv_channels.get_or_insert(hidden / heads);
        model.num_query_groups.get_or_insert(heads);
        model.max_position_embeddings.get_or_insert(model.encoder_seq_length);
        model.normalization.get_or_insert(Normalization::RmsNorm);
        model.layernorm_epsilon.get_or_insert(1e-5);
        model.bias.get_or_insert(false);
        model.activation.get_or_insert(Activation::Swiglu);
        model.rotary_percentage.get_or_insert(1.0);
        model.rotary_base.get_or_insert(10_000.0);
        model.share_embeddings_and_output_weights.get_or_insert(false);
        Ok(())
    }

    fn check_llm(&self) -> Result<()> {
        let model = &self.model;
        if let (Some(heads), Some(groups)) = (model.num_attention_heads, model.num_query_groups)
            && !heads.is_multiple_of(groups)
        {
            let message = format!("{groups} does not divide model.num_attention_heads {heads}");
            return Err(self.error("model.num_query_groups", message));
        }
        if let Some(width) = model.kv_channels {
            if !width.is_multiple_of(8) || width > 256 {
                let message = format!("a head is {width} wide; expected {HEAD_WIDTHS}");
                return Err(self.error("model.kv_channels", message));
            }
            if let Some(share) = model.rotary_percentage {
                let rotating = width as f64 * share;
                if rotating.fract() != 0.0 || !(rotating as usize).is_multiple_of(2) || rotating < 2.0 {
                    let message = format!(
                        "{share} of a head {width} wide is {rotating} dimensions; expected an even whole number"
                    );
                    return Err(self.error("model.rotary_percentage", message));
                }
            }
        }
        if let Some(positions) = model.max_position_embeddings
            && model.encoder_seq_length > positions
        {
            let message = format!(
                "{} is more than model.max_position_embeddings {positions}",
                model.encoder_seq_length
            );
            return Err(self.error("model.encoder_seq_length", message));
        }
        Ok(())
    }

    fn fill_vision(&mut self) {
        let tower = &mut self.model.mm_cfg.vision_encoder;
        if tower.from_pretrained.is_none() {
            let width = *tower.hidden_size.get_or_insert(1024);
            tower.patch_dim.get_or_insert(14);
            tower.crop_size.get_or_insert([224, 224]);
            tower.num_layers.get_or_insert(24);
            tower.num_attention_heads.get_or_insert((width / 64).max(1));
            tower.ffn_hidden_size.get_or_insert(4 * width);
            tower.class_token_length.get_or_insert(1);
        }
        tower.vision_select_layer.get_or_insert(-2);
        tower.vision_select_feature.get_or_insert(SelectFeature::Patch);
    }

    fn check_vision(&self) -> Result<()> {
        let tower: &VisionEncoder = &self.model.mm_cfg.vision_encoder;
        let error = |key: &str, message: String| {
            Err(self.error(&format!("model.mm_cfg.vision_encoder.{key}"), message))
        };
        if let Some(tokens) = tower.class_token_length
            && tokens != 1
        {
            let message = format!("{tokens} is not supported: the tower is a CLIP, which has 1 class token");
            return error("class_token_length", message);
        }
        if let Some([height, width]) = tower.crop_size {
            if height != width {
                return error("crop_size", format!("{height} is not {width}; expected a square"));
            }
            if let Some(patch) = tower.patch_dim
                && !height.is_multiple_of(patch)
            {
                return error("crop_size", format!("{height} is not a multiple of patch_dim {patch}"));
            }
        }
        if let (Some(hidden), Some(heads)) = (tower.hidden_size, tower.num_attention_heads) {
            if !hidden.is_multiple_of(heads) {
                return error("num_attention_heads", format!("{heads} does not divide hidden_size {hidden}"));
            }
            let width = hidden / heads;
            if !width.is_multiple_of(8) || width > 256 {
                return error(
                    "num_attention_heads",
                    format!("a head is {width} wide; expected {HEAD_WIDTHS}"),
                );
            }
        }
        if let (Some(select), Some(layers)) = (tower.vision_select_layer, tower.num_layers) {
            let states = layers as i64 + 1;
            if !(-states..states).contains(&select) {
                let message =
                    format!("{select} is none of the {states} hidden states of num_layers {layers}");
                return error("vision_select_layer", message);
            }
        }
        Ok(())
    }
}
