//! From a configuration to a model: which directory each part comes from, what is born here, what learns.

use crate::Result;
use crate::checkpoint::{Checkpoint, Extras, arch};
use crate::config::Config;
use crate::config::schema::{Activation, MlpAdapter, Normalization, SelectFeature, Template};
use crate::model::config::{LlmConfig, Mlp, NormKind, ProjectorConfig, VisionConfig};
use crate::model::{LlmInit, Model, ModelConfig, Source, Sources, Trainable};
use crate::tokenizer::Tokenizer;
use engine::{DType, Device};
use kernels::activation::Act;
use std::path::{Path, PathBuf};

/// A model ready to train, with what its directory will need beside the weights.
pub struct Setup {
    /// The model on the device.
    pub model: Model,
    /// Text to ids.
    pub tokenizer: Tokenizer,
    /// The template and the image mode.
    pub extras: Extras,
    /// The template.
    pub template: Template,
}

/// Builds the model that `config` asks for on `device`; `resume` is a checkpoint of the same run to go on from,
/// which then is where every parameter comes from.
///
/// Errors: a directory that does not hold what it should; a key that contradicts the directory; a tokenizer that
/// lacks the image token or is larger than the embedding.
pub fn build(config: &Config, device: &Device, dtype: DType, resume: Option<&Path>) -> Result<Setup> {
    let m = &config.model;
    let whole = resume.or(m.restore_from_path.as_deref());
    let part = |dir: &'_ Option<PathBuf>| dir.clone().filter(|_| resume.is_none());
    let tower_dir = part(&m.mm_cfg.vision_encoder.from_pretrained);
    let llm_dir = part(&m.mm_cfg.llm.from_pretrained);
    let adapter_dir = part(&m.mm_cfg.pretrain_mm_mlp_adapter);
    let restored = whole.map(|dir| arch::read(&dir.join("config.json"))).transpose()?;
    let tokenizer = tokenizer(config, whole)?;

    let vision = match (&restored, &tower_dir) {
        (_, Some(dir)) => arch::read_vision(&dir.join("config.json"))?,
        (Some((restored, _)), None) => restored.vision.clone(),
        (None, None) => born_vision(config),
    };
    let vision = select_features(config, vision);
    let llm = match (&restored, &llm_dir) {
        (_, Some(dir)) => arch::read_llm(&dir.join("config.json"))?,
        (Some((restored, _)), None) => restored.llm.clone(),
        (None, None) => born_llm(config, tokenizer.vocab_size()),
    };
    let llm = LlmConfig { hidden_dropout: m.hidden_dropout, ffn_dropout: m.ffn_dropout, ..llm };
    let adapted = adapter_dir.as_ref().map(|dir| arch::read(&dir.join("config.json"))).transpose()?;
    let projector = match (&adapted, &restored, m.mm_cfg.mm_mlp_adapter_type) {
        (Some((from, _)), ..) | (None, Some((from, _)), _) => from.projector,
        (None, None, Some(MlpAdapter::Mlp(layers))) => ProjectorConfig { layers },
        (None, None, _) => ProjectorConfig { layers: 1 },
    };
    let (image_token, image_marks) = image_tokens(config, &tokenizer, restored.as_ref().map(|r| &r.0))?;
    let model_config = ModelConfig { vision, projector, llm, image_token, image_marks };
    check_against(config, &model_config)?;
    if tokenizer.vocab_size() > model_config.llm.vocab_size {
        let key = if m.tokenizer.model.is_some() { "model.tokenizer.model" } else { "model.tokenizer" };
        return Err(config.error(
            key,
            format!(
                "the tokenizer has {} pieces, the embedding of the language model only {} rows",
                tokenizer.vocab_size(),
                model_config.llm.vocab_size
            ),
        ));
    }

    let open = |dir: &Path| Checkpoint::with_config(dir, model_config.clone());
    let whole = whole.map(open).transpose()?;
    let tower = tower_dir.as_deref().map(open).transpose()?;
    let decoder = llm_dir.as_deref().map(open).transpose()?;
    let adapter = adapter_dir.as_deref().map(open).transpose()?;
    let rest = whole.as_ref().map_or(Source::Fresh(m.seed), Source::Checkpoint);
    let sources = Sources {
        vision: tower.as_ref().map_or(rest, Source::Checkpoint),
        projector: adapter.as_ref().map_or(rest, Source::Checkpoint),
        llm: decoder.as_ref().map_or(rest, Source::Checkpoint),
    };
    let trainable =
        Trainable { vision: !m.mm_cfg.vision_encoder.freeze, projector: true, llm: !m.mm_cfg.llm.freeze };
    let init = LlmInit { std: m.init_method_std, scaled: m.use_scaled_init_method };
    let model = Model::new(device, dtype, &model_config, trainable, sources, init)?;
    let template = m.data.conv_template.unwrap_or(m.mm_cfg.llm.model_type);
    let extras = Extras {
        conv_template: template.word().into(),
        image_aspect_ratio: m.data.image_aspect_ratio.word().into(),
    };
    Ok(Setup { model, tokenizer, extras, template })
}

/// The configured tokenizer, else the one of the directory the language model comes from.
fn tokenizer(config: &Config, whole: Option<&Path>) -> Result<Tokenizer> {
    let m = &config.model;
    if let Some(file) = m.tokenizer.model.as_ref().or(m.tokenizer.kind.as_ref()) {
        return if file.is_dir() { Tokenizer::load(file) } else { Tokenizer::load_file(file) };
    }
    match m.mm_cfg.llm.from_pretrained.as_deref().or(whole) {
        Some(dir) => Tokenizer::load(dir),
        None => Err(config.error(
            "model.tokenizer.model",
            "is not given, and no directory of a language model is that could hold a tokenizer",
        )),
    }
}

fn born_vision(config: &Config) -> VisionConfig {
    let v = config.model.vision_architecture().expect("the configuration fills in a tower that is born here");
    VisionConfig {
        image_size: v.crop_size,
        patch_size: v.patch_dim,
        hidden_size: v.hidden_size,
        layers: v.num_layers,
        heads: v.num_attention_heads,
        ffn_size: v.ffn_hidden_size,
        eps: 1e-5,
        activation: Act::QuickGelu,
        select_layer: -2,
        keep_class: false,
    }
}

/// The two keys that choose features are not part of a tower: they always follow the configuration if given.
fn select_features(config: &Config, vision: VisionConfig) -> VisionConfig {
    let v = &config.model.mm_cfg.vision_encoder;
    VisionConfig {
        select_layer: v.vision_select_layer.unwrap_or(vision.select_layer),
        keep_class: match v.vision_select_feature {
            Some(feature) => feature == SelectFeature::ClsPatch,
            None => vision.keep_class,
        },
        ..vision
    }
}

fn norm_of(n: Normalization) -> NormKind {
    match n {
        Normalization::RmsNorm => NormKind::Rms,
        Normalization::LayerNorm => NormKind::Layer,
        Normalization::LayerNorm1p => NormKind::Layer1p,
    }
}

fn mlp_of(a: Activation) -> Mlp {
    match a {
        Activation::Gelu => Mlp::Plain(Act::GeluErf),
        Activation::ApproxGelu => Mlp::Plain(Act::GeluTanh),
        Activation::SquaredRelu => Mlp::Plain(Act::SquaredRelu),
        Activation::Geglu => Mlp::Gated(Act::GeluErf),
        Activation::Swiglu => Mlp::Gated(Act::Silu),
        Activation::Reglu => Mlp::Gated(Act::Relu),
    }
}

fn born_llm(config: &Config, pieces: usize) -> LlmConfig {
    let a = config.model.llm_architecture().expect("the configuration fills in a decoder that is born here");
    LlmConfig {
        hidden_size: a.hidden_size,
        layers: a.num_layers,
        heads: a.num_attention_heads,
        kv_heads: a.num_query_groups,
        head_dim: a.kv_channels,
        ffn_size: a.ffn_hidden_size,
        vocab_size: pieces.next_multiple_of(config.model.make_vocab_size_divisible_by),
        max_positions: a.max_position_embeddings,
        norm: norm_of(a.normalization),
        eps: a.layernorm_epsilon,
        mlp: mlp_of(a.activation),
        bias: a.bias,
        rope_theta: a.rotary_base,
        rotary_percentage: a.rotary_percentage,
        rope_factor: a.seq_len_interpolation_factor.unwrap_or(1.0),
        tied: a.share_embeddings_and_output_weights,
        hidden_dropout: 0.0,
        ffn_dropout: 0.0,
    }
}

/// The token that stands for image rows, and the two around it: those of the restored model, else found in the
/// tokenizer by the names that LLaVA and NeMo give them.
#[allow(clippy::type_complexity)]
fn image_tokens(
    config: &Config,
    tokenizer: &Tokenizer,
    restored: Option<&ModelConfig>,
) -> Result<(u32, Option<(u32, u32)>)> {
    let find = |names: [&str; 2], what: &str| {
        names.iter().find_map(|n| tokenizer.id(n)).ok_or_else(|| {
            config.error(
                "model.tokenizer.model",
                format!("the tokenizer has no {what} token: neither {} nor {}", names[0], names[1]),
            )
        })
    };
    let marks = match (config.model.mm_cfg.use_im_start_end, restored) {
        (Some(false), _) | (None, None) => None,
        (None, Some(restored)) => restored.image_marks,
        (Some(true), _) => Some((
            find(["<im_start>", "<extra_id_4>"], "image start")?,
            find(["<im_end>", "<extra_id_5>"], "image end")?,
        )),
    };
    let token = match restored {
        Some(restored) => restored.image_token,
        None => find(["<image>", "<extra_id_3>"], "image")?,
    };
    Ok((token, marks))
}

/// Every key of the architecture that was given must say what the model is.
fn check_against(config: &Config, model: &ModelConfig) -> Result<()> {
    let m = &config.model;
    let v = &m.mm_cfg.vision_encoder;
    let (llm, tower) = (&model.llm, &model.vision);
    let same = |key: &str, given: Option<String>, is: String| match given {
        Some(given) if given != is => {
            Err(config.error(key, format!("is {given}, but the model directory says {is}")))
        }
        _ => Ok(()),
    };
    let number = |n: Option<usize>| n.map(|n| n.to_string());
    let float = |n: Option<f64>| n.map(|n| n.to_string());
    same("model.num_layers", number(m.num_layers), llm.layers.to_string())?;
    same("model.hidden_size", number(m.hidden_size), llm.hidden_size.to_string())?;
    same("model.ffn_hidden_size", number(m.ffn_hidden_size), llm.ffn_size.to_string())?;
    same("model.num_attention_heads", number(m.num_attention_heads), llm.heads.to_string())?;
    same("model.num_query_groups", number(m.num_query_groups), llm.kv_heads.to_string())?;
    same("model.kv_channels", number(m.kv_channels), llm.head_dim.to_string())?;
    same("model.max_position_embeddings", number(m.max_position_embeddings), llm.max_positions.to_string())?;
    let debug = |x: &dyn std::fmt::Debug| format!("{x:?}");
    same("model.normalization", m.normalization.map(|n| debug(&norm_of(n))), debug(&llm.norm))?;
    same("model.activation", m.activation.map(|a| debug(&mlp_of(a))), debug(&llm.mlp))?;
    same("model.layernorm_epsilon", float(m.layernorm_epsilon), llm.eps.to_string())?;
    same("model.bias", m.bias.map(|b| b.to_string()), llm.bias.to_string())?;
    same("model.rotary_percentage", float(m.rotary_percentage), llm.rotary_percentage.to_string())?;
    same("model.rotary_base", float(m.rotary_base), llm.rope_theta.to_string())?;
    same(
        "model.seq_len_interpolation_factor",
        float(m.seq_len_interpolation_factor),
        llm.rope_factor.to_string(),
    )?;
    same(
        "model.share_embeddings_and_output_weights",
        m.share_embeddings_and_output_weights.map(|b| b.to_string()),
        llm.tied.to_string(),
    )?;
    let at = |key: &str| format!("model.mm_cfg.vision_encoder.{key}");
    same(&at("patch_dim"), number(v.patch_dim), tower.patch_size.to_string())?;
    same(&at("crop_size"), number(v.crop_size.map(|c| c[0])), tower.image_size.to_string())?;
    same(&at("hidden_size"), number(v.hidden_size), tower.hidden_size.to_string())?;
    same(&at("num_layers"), number(v.num_layers), tower.layers.to_string())?;
    same(&at("num_attention_heads"), number(v.num_attention_heads), tower.heads.to_string())?;
    same(&at("ffn_hidden_size"), number(v.ffn_hidden_size), tower.ffn_size.to_string())?;
    let layers = m.mm_cfg.mm_mlp_adapter_type.map(|t| match t {
        MlpAdapter::Linear => 1,
        MlpAdapter::Mlp(layers) => layers,
    });
    same(
        "model.mm_cfg.mm_mlp_adapter_type",
        layers.map(|n| format!("{n} linear layers")),
        format!("{} linear layers", model.projector.layers),
    )?;
    let states = tower.layers as i64 + 1;
    if !(-states..states).contains(&tower.select_layer) {
        let message =
            format!("is {}, but the tower has hidden states 0 to {}", tower.select_layer, states - 1);
        return Err(config.error(&at("vision_select_layer"), message));
    }
    if m.encoder_seq_length > llm.max_positions {
        let message = format!(
            "is {}, more than the {} positions the language model was made for",
            m.encoder_seq_length, llm.max_positions
        );
        return Err(config.error("model.encoder_seq_length", message));
    }
    Ok(())
}
