//! config.json: the architecture as transformers writes it, and in the same file what transformers cannot say.
//!
//! A LLaMA with one or two projector layers, and a Nemotron without gates, are `model_type: llava`. Everything else
//! (three projector layers, gated NVGPT, LayerNorm in a LLaMA) is `model_type: neva`: the same keys, and ours for
//! the rest. Keys of ours stand under `neva` and are ignored by transformers.

use crate::error::one_line;
use crate::model::config::{LlmConfig, Mlp, ModelConfig, NormKind, ProjectorConfig, VisionConfig};
use crate::{Error, Result, json};
use kernels::activation::Act;
use serde_json::{Map, Value, json};
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::path::Path;

/// What a model directory says beside the architecture.
#[derive(Debug, Clone, PartialEq)]
pub struct Extras {
    /// The prompt template it was trained with: plain, v1, llama_2, nvgpt.
    pub conv_template: String,
    /// How images were made square: square, pad, keep.
    pub image_aspect_ratio: String,
}

impl Default for Extras {
    fn default() -> Self {
        Extras { conv_template: "v1".into(), image_aspect_ratio: "square".into() }
    }
}

/// Sizes that no model of this kind exceeds, those of the configuration's keys.
const LAYERS: RangeInclusive<usize> = 1..=1024;
const WIDTH: RangeInclusive<usize> = 1..=65_536;
const INNER: RangeInclusive<usize> = 1..=1_048_576;
const HEADS: RangeInclusive<usize> = 1..=4096;
/// Token ids; what is below the vocabulary is checked where that is known.
const ID: RangeInclusive<usize> = 0..=u32::MAX as usize;
/// What is added so that nothing is divided by zero: above zero in f32 too.
const EPSILON: (Bound<f64>, Bound<f64>) = (Bound::Included(1e-30), Bound::Included(1.0));
const THETA: (Bound<f64>, Bound<f64>) = (Bound::Included(1.0), Bound::Included(1e30));
const FACTOR: (Bound<f64>, Bound<f64>) = (Bound::Included(1e-3), Bound::Included(1e6));
const SHARE: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Included(1.0));
const DROPOUT: (Bound<f64>, Bound<f64>) = (Bound::Included(0.0), Bound::Excluded(1.0));

/// transformers' name for an activation.
fn act_name(kind: Act) -> &'static str {
    match kind {
        Act::GeluErf => "gelu",
        Act::GeluTanh => "gelu_pytorch_tanh",
        Act::QuickGelu => "quick_gelu",
        Act::SquaredRelu => "relu2",
        Act::Relu => "relu",
        Act::Silu => "silu",
    }
}

/// The activation that a part's `hidden_act` names.
fn act_of(part: &Node, name: &str) -> Result<Act> {
    Ok(match name {
        "gelu" => Act::GeluErf,
        "gelu_pytorch_tanh" | "gelu_new" => Act::GeluTanh,
        "quick_gelu" => Act::QuickGelu,
        "relu2" => Act::SquaredRelu,
        "relu" => Act::Relu,
        "silu" | "swish" => Act::Silu,
        other => {
            let known = "gelu, gelu_pytorch_tanh, gelu_new, quick_gelu, relu2, relu, silu or swish";
            return Err(part.error("hidden_act", format!("{other:?} is not supported, expected {known}")));
        }
    })
}

/// The `model_type` of the text model if transformers has one for this decoder.
fn text_type(c: &LlmConfig) -> Option<&'static str> {
    match (c.norm, c.mlp) {
        (NormKind::Rms, Mlp::Gated(_)) if c.rotary_percentage == 1.0 => Some("llama"),
        (NormKind::Layer1p, Mlp::Plain(_)) if c.rope_factor == 1.0 => Some("nemotron"),
        _ => None,
    }
}

/// Whether transformers' LLaVA classes can express the model.
pub fn is_llava(c: &ModelConfig) -> bool {
    c.projector.layers <= 2 && text_type(&c.llm).is_some()
}

/// config.json of a model stored in `dtype` ("float32", "bfloat16").
pub fn to_json(c: &ModelConfig, extras: &Extras, dtype: &str) -> Value {
    let llava = is_llava(c);
    let llm = &c.llm;
    let norm = match llm.norm {
        NormKind::Rms => "rmsnorm",
        NormKind::Layer => "layernorm",
        NormKind::Layer1p => "layernorm1p",
    };
    let (act, gated) = match llm.mlp {
        Mlp::Gated(act) => (act_name(act), true),
        Mlp::Plain(kind) => (act_name(kind), false),
    };
    let mut rope = json!({"rope_type": "default", "rope_theta": llm.rope_theta});
    if llm.rope_factor != 1.0 {
        rope = json!({"rope_type": "linear", "rope_theta": llm.rope_theta, "factor": llm.rope_factor});
    }
    if llm.rotary_percentage != 1.0 {
        rope["partial_rotary_factor"] = json!(llm.rotary_percentage);
    }
    let mut text = json!({
        "model_type": text_type(llm).unwrap_or("neva"),
        "hidden_size": llm.hidden_size,
        "intermediate_size": llm.ffn_size,
        "num_hidden_layers": llm.layers,
        "num_attention_heads": llm.heads,
        "num_key_value_heads": llm.kv_heads,
        "head_dim": llm.head_dim,
        "vocab_size": llm.vocab_size,
        "max_position_embeddings": llm.max_positions,
        "hidden_act": act,
        "attention_bias": llm.bias,
        "mlp_bias": llm.bias,
        "tie_word_embeddings": llm.tied,
        "rope_theta": llm.rope_theta,
        "rope_parameters": rope,
        "partial_rotary_factor": llm.rotary_percentage,
        "hidden_dropout": llm.hidden_dropout,
        "ffn_dropout": llm.ffn_dropout,
        "torch_dtype": dtype,
    });
    // LLaMA calls its epsilon rms_norm_eps, Nemotron norm_eps.
    text[if llm.norm == NormKind::Rms { "rms_norm_eps" } else { "norm_eps" }] = json!(llm.eps);
    if llm.rope_factor != 1.0 {
        text["rope_scaling"] = json!({"rope_type": "linear", "type": "linear", "factor": llm.rope_factor});
    }
    let v = &c.vision;
    let mut neva = json!({
        "conv_template": extras.conv_template,
        "image_aspect_ratio": extras.image_aspect_ratio,
        "normalization": norm,
        "gated": gated,
        "projector_layers": c.projector.layers,
    });
    if let Some((start, end)) = c.image_marks {
        neva["im_start_id"] = json!(start);
        neva["im_end_id"] = json!(end);
    }
    json!({
        "architectures": [if llava { "LlavaForConditionalGeneration" } else { "NevaForConditionalGeneration" }],
        "model_type": if llava { "llava" } else { "neva" },
        "image_token_index": c.image_token,
        "image_seq_length": v.feature_rows(),
        "vision_feature_layer": v.select_layer,
        "vision_feature_select_strategy": if v.keep_class { "full" } else { "default" },
        "projector_hidden_act": if c.projector.layers == 1 { "linear" } else { "gelu" },
        "multimodal_projector_bias": true,
        "tie_word_embeddings": llm.tied,
        "torch_dtype": dtype,
        "text_config": text,
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": v.hidden_size,
            "intermediate_size": v.ffn_size,
            "num_hidden_layers": v.layers,
            "num_attention_heads": v.heads,
            "image_size": v.image_size,
            "patch_size": v.patch_size,
            "num_channels": 3,
            "hidden_act": act_name(v.activation),
            "layer_norm_eps": v.eps,
            "projection_dim": v.hidden_size,
            "torch_dtype": dtype,
        },
        "neva": neva,
    })
}

/// Reads the tower out of the config.json of a LLaVA, a CLIP, or a CLIP vision model.
pub fn read_vision(path: &Path) -> Result<VisionConfig> {
    let json = json::read(path)?;
    let root = Node { path, at: String::new(), value: &json };
    // CLIP's vision model alone has its keys at the root.
    if root.has("vision_config") {
        vision(&root, &root.child("vision_config")?)
    } else {
        vision(&root, &root)
    }
}

/// Reads the decoder out of the config.json of a LLaVA, a LLaMA or a Nemotron.
pub fn read_llm(path: &Path) -> Result<LlmConfig> {
    let json = json::read(path)?;
    let root = Node { path, at: String::new(), value: &json };
    let ours = root.object_or_empty("neva")?;
    let ours = Node { path, at: "neva".into(), value: &ours };
    if root.has("text_config") {
        llm(&root, &root.child("text_config")?, &ours)
    } else {
        llm(&root, &root, &ours)
    }
}

/// Reads the config.json of a whole model.
pub fn read(path: &Path) -> Result<(ModelConfig, Extras)> {
    let json = json::read(path)?;
    let root = Node { path, at: String::new(), value: &json };
    let model_type = root.str("model_type", None)?;
    if !matches!(model_type, "llava" | "neva") {
        return Err(root.error(
            "model_type",
            format!("{model_type:?} is not a model of this kind, expected \"llava\" or \"neva\""),
        ));
    }
    let ours = root.object_or_empty("neva")?;
    let ours = Node { path, at: "neva".into(), value: &ours };
    let vision = vision(&root, &root.child("vision_config")?)?;
    let llm = llm(&root, &root.child("text_config")?, &ours)?;
    let layers = match root.str("projector_hidden_act", Some("gelu"))? {
        "linear" => 1,
        "gelu" => ours.whole("projector_layers", Some(2), 1..=16)?,
        other => {
            let message = format!("{other:?} is not supported, expected \"gelu\" or \"linear\"");
            return Err(root.error("projector_hidden_act", message));
        }
    };
    let marks = match (ours.get("im_start_id"), ours.get("im_end_id")) {
        (None, None) => None,
        // With one of them the other is missing.
        _ => Some((ours.whole("im_start_id", None, ID)? as u32, ours.whole("im_end_id", None, ID)? as u32)),
    };
    // transformers 4.x wrote image_token_index, 5.x image_token_id.
    let image_token =
        if root.get("image_token_index").is_some() { "image_token_index" } else { "image_token_id" };
    let config = ModelConfig {
        image_token: root.whole(image_token, None, ID)? as u32,
        projector: ProjectorConfig { layers },
        image_marks: marks,
        vision,
        llm,
    };
    let below_vocab_size = |node: &Node, key: &str, id: u32| {
        if (id as usize) < config.llm.vocab_size {
            return Ok(());
        }
        Err(node.error(key, format!("{id} is not below vocab_size {}", config.llm.vocab_size)))
    };
    below_vocab_size(&root, image_token, config.image_token)?;
    if let Some((start, end)) = config.image_marks {
        below_vocab_size(&ours, "im_start_id", start)?;
        below_vocab_size(&ours, "im_end_id", end)?;
    }
    let defaults = Extras::default();
    let extras = Extras {
        conv_template: ours.str("conv_template", Some(&defaults.conv_template))?.into(),
        image_aspect_ratio: ours.str("image_aspect_ratio", Some(&defaults.image_aspect_ratio))?.into(),
    };
    Ok((config, extras))
}

fn vision(root: &Node, v: &Node) -> Result<VisionConfig> {
    let name = v.str("hidden_act", Some("quick_gelu"))?;
    let config = VisionConfig {
        image_size: v.whole("image_size", Some(224), 1..=16384)?,
        patch_size: v.whole("patch_size", Some(32), 1..=1024)?,
        hidden_size: v.whole("hidden_size", Some(768), WIDTH)?,
        layers: v.whole("num_hidden_layers", Some(12), LAYERS)?,
        heads: v.whole("num_attention_heads", Some(12), HEADS)?,
        ffn_size: v.whole("intermediate_size", Some(3072), INNER)?,
        eps: v.real("layer_norm_eps", Some(1e-5), EPSILON)?,
        activation: act_of(v, name)?,
        select_layer: root.i64("vision_feature_layer", Some(-2))?,
        keep_class: match root.str("vision_feature_select_strategy", Some("default"))? {
            "default" => false,
            "full" => true,
            other => {
                let message = format!("{other:?}, expected \"default\" or \"full\"");
                return Err(root.error("vision_feature_select_strategy", message));
            }
        },
    };
    let last = config.layers as i64;
    if !(-last - 1..=last).contains(&config.select_layer) {
        let message = format!("is {}, but the tower has hidden states 0 to {last}", config.select_layer);
        return Err(root.error("vision_feature_layer", message));
    }
    v.divides("num_attention_heads", config.heads, "hidden_size", config.hidden_size)?;
    v.divides("patch_size", config.patch_size, "image_size", config.image_size)?;
    v.head_dim(config.hidden_size / config.heads)?;
    Ok(config)
}

fn llm(root: &Node, t: &Node, ours: &Node) -> Result<LlmConfig> {
    let kind = t.str("model_type", Some("llama"))?;
    let norm = match (kind, ours.str("normalization", Some(""))?) {
        ("llama" | "mistral", _) | ("neva", "rmsnorm") => NormKind::Rms,
        ("nemotron", _) | ("neva", "layernorm1p") => NormKind::Layer1p,
        ("neva", "layernorm") => NormKind::Layer,
        _ => {
            let message = format!("{kind:?} is not supported, expected llama, mistral, nemotron or neva");
            return Err(t.error("model_type", message));
        }
    };
    let gated = match kind {
        "llama" | "mistral" => true,
        "nemotron" => false,
        _ => ours.bool("gated", None)?,
    };
    let default_act = if gated { "silu" } else { "relu2" };
    let name = t.str("hidden_act", Some(default_act))?;
    let act = act_of(t, name)?;
    let hidden_size = t.whole("hidden_size", Some(4096), WIDTH)?;
    let heads = t.whole("num_attention_heads", Some(32), HEADS)?;
    if !t.has("head_dim") {
        t.divides("num_attention_heads", heads, "hidden_size", hidden_size)?;
    }
    let rope = t.object_or_empty("rope_parameters")?;
    let rope = Node { path: root.path, at: "text_config.rope_parameters".into(), value: &rope };
    let scaling = t.object_or_empty("rope_scaling")?;
    let scaling = Node { path: root.path, at: "text_config.rope_scaling".into(), value: &scaling };
    let (attention_bias, mlp_bias) =
        (t.bool("attention_bias", Some(false))?, t.bool("mlp_bias", Some(false))?);
    if attention_bias != mlp_bias {
        return Err(t.error("mlp_bias", "differs from attention_bias, which is not supported".into()));
    }
    let config = LlmConfig {
        hidden_size,
        layers: t.whole("num_hidden_layers", Some(32), LAYERS)?,
        heads,
        kv_heads: t.whole("num_key_value_heads", Some(heads), HEADS)?,
        head_dim: t.whole("head_dim", Some(hidden_size / heads), 0..=256)?,
        ffn_size: t.whole("intermediate_size", Some(11008), INNER)?,
        vocab_size: t.whole("vocab_size", Some(32000), 1..=1 << 24)?,
        max_positions: t.whole("max_position_embeddings", Some(2048), 1..=1 << 24)?,
        norm,
        // transformers' own defaults: LLaMA 1e-6, Nemotron 1e-5.
        eps: match norm {
            NormKind::Rms => t.real("rms_norm_eps", Some(1e-6), EPSILON)?,
            _ => t.real("norm_eps", Some(1e-5), EPSILON)?,
        },
        mlp: if gated { Mlp::Gated(act) } else { Mlp::Plain(act) },
        bias: attention_bias,
        rope_theta: rope.real("rope_theta", Some(t.real("rope_theta", Some(10000.0), THETA)?), THETA)?,
        rotary_percentage: rope.real(
            "partial_rotary_factor",
            Some(t.real("partial_rotary_factor", Some(if kind == "nemotron" { 0.5 } else { 1.0 }), SHARE)?),
            SHARE,
        )?,
        rope_factor: rope_factor(&rope)? * rope_factor(&scaling)?.max(1.0).powi(!rope.has("factor") as i32),
        tied: t.bool("tie_word_embeddings", Some(root.bool("tie_word_embeddings", Some(false))?))?,
        hidden_dropout: t.real("hidden_dropout", Some(0.0), DROPOUT)?,
        ffn_dropout: t.real("ffn_dropout", Some(0.0), DROPOUT)?,
    };
    t.divides("num_key_value_heads", config.kv_heads, "num_attention_heads", config.heads)?;
    t.head_dim(config.head_dim)?;
    if config.rotary_dim() == 0 {
        let message =
            format!("{} of a head {} wide rotates nothing", config.rotary_percentage, config.head_dim);
        return Err(t.error("partial_rotary_factor", message));
    }
    Ok(config)
}

/// The factor of linear interpolation; 1 where there is none. Other kinds of scaling are refused.
fn rope_factor(node: &Node) -> Result<f64> {
    let kind = if node.has("rope_type") { "rope_type" } else { "type" };
    match node.str(kind, Some("default"))? {
        "default" => Ok(1.0),
        "linear" => node.real("factor", None, FACTOR),
        other => {
            Err(node.error(kind, format!("{other:?} is not supported, expected \"default\" or \"linear\"")))
        }
    }
}

/// A part of the JSON with the path to it, for errors.
struct Node<'a> {
    path: &'a Path,
    at: String,
    value: &'a Value,
}

impl<'a> Node<'a> {
    fn error(&self, key: &str, message: String) -> Error {
        let at = if self.at.is_empty() { key.to_string() } else { format!("{}.{key}", self.at) };
        Error::Checkpoint { path: self.path.into(), message: one_line(format!("{at}: {message}")) }
    }

    /// The value, with null meaning absent.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|v| !v.is_null())
    }

    fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn child(&self, key: &str) -> Result<Node<'a>> {
        match self.get(key) {
            Some(value) if value.is_object() => Ok(Node { path: self.path, at: key.into(), value }),
            _ => Err(self.error(key, "expected an object".into())),
        }
    }

    fn object_or_empty(&self, key: &str) -> Result<Value> {
        match self.get(key) {
            None => Ok(Value::Object(Map::new())),
            Some(value) if value.is_object() => Ok(value.clone()),
            Some(_) => Err(self.error(key, "expected an object".into())),
        }
    }

    fn read<T>(
        &self,
        key: &str,
        default: Option<T>,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T> {
        match self.get(key) {
            None => default.ok_or_else(|| self.error(key, format!("missing, expected {expected}"))),
            Some(value) => read(value).ok_or_else(|| {
                self.error(key, format!("is {}, expected {expected}", json::shorten(value.clone())))
            }),
        }
    }

    /// A whole number within bounds that keep products of sizes within 64 bits.
    fn whole(&self, key: &str, default: Option<usize>, range: RangeInclusive<usize>) -> Result<usize> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.read(key, default, &expected, |v| {
            v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| range.contains(n))
        })
    }

    fn i64(&self, key: &str, default: Option<i64>) -> Result<i64> {
        self.read(key, default, "a whole number", Value::as_i64)
    }

    /// A number in a range.
    fn real(&self, key: &str, default: Option<f64>, range: (Bound<f64>, Bound<f64>)) -> Result<f64> {
        let bound = |bound, included, excluded| match bound {
            Bound::Included(n) => format!(" {included} {n:?}"),
            Bound::Excluded(n) => format!(" {excluded} {n:?}"),
            Bound::Unbounded => String::new(),
        };
        let expected =
            format!("a number{}{}", bound(range.0, "from", "above"), bound(range.1, "to", "and below"));
        self.read(key, default, &expected, |v| v.as_f64().filter(|n| range.contains(n)))
    }

    fn bool(&self, key: &str, default: Option<bool>) -> Result<bool> {
        self.read(key, default, "true or false", Value::as_bool)
    }

    fn str<'b>(&self, key: &str, default: Option<&'b str>) -> Result<&'b str>
    where
        'a: 'b,
    {
        self.read(key, default, "a string", |v| v.as_str().map(|s| s as &'b str))
    }

    fn divides(&self, small: &str, a: usize, big: &str, b: usize) -> Result<()> {
        if b.is_multiple_of(a) {
            Ok(())
        } else {
            Err(self.error(small, format!("{a} does not divide {big} {b}")))
        }
    }

    fn head_dim(&self, d: usize) -> Result<()> {
        if d.is_multiple_of(8) && d <= 256 {
            Ok(())
        } else {
            Err(self.error("head_dim", format!("is {d}, expected a multiple of 8 up to 256")))
        }
    }
}
