//! NeMo's other keys: those this version refuses, and those that mean nothing here.
//!
//! Every key that a NeVA user's file can hold is in exactly one of three places: a section of
//! [`schema`](super::schema) (honoured), [`REFUSED`] or [`WITHOUT_EFFECT`]. Anything else is a mistake.

use super::schema::Root;
use super::setting::Setting;
use super::value::{Source, Value};
use crate::Result;

/// The values at which a refused feature is switched off.
#[derive(Clone, Copy)]
pub(super) enum Off {
    /// null, false, 0, or an empty text, list or mapping.
    Nothing,
    /// The same, or 1.
    One,
    /// true.
    True,
    /// This word, or null.
    Word(&'static str),
}

impl Off {
    fn admits(self, value: &Value) -> bool {
        let nothing = match value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Int(value) => *value == 0,
            Value::Float(value) => *value == 0.0,
            Value::Text(text) => text.is_empty(),
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
        };
        match self {
            Off::Nothing => nothing,
            Off::One => nothing || *value == Value::Int(1),
            Off::True => *value == Value::Bool(true),
            Off::Word(word) => *value == Value::Null || value.scalar_text().as_deref() == Some(word),
        }
    }
}

/// Features this version does not have: key, the value that does without it, and why.
#[rustfmt::skip]
pub(super) const REFUSED: &[(&str, Off, &str)] = &[
    ("restore_from_path", Off::Nothing, "give the model directory as model.restore_from_path"),
    ("trainer.num_nodes", Off::One, "training runs on one node"),
    ("trainer.max_epochs", Off::Word("-1"), "trainer.max_steps says how long to train"),
    ("trainer.accumulate_grad_batches", Off::One, "accumulation follows from model.global_batch_size"),
    ("exp_manager.create_wandb_logger", Off::Nothing, "metrics are written to metrics.jsonl in the run directory"),
    ("exp_manager.resume_from_checkpoint", Off::Nothing, "training resumes from the run directory"),
    ("exp_manager.create_checkpoint_callback", Off::True, "checkpoints are always written"),
    ("exp_manager.ema.enable", Off::Nothing, "an exponential moving average of the weights is not kept"),
    ("model.resume_from_checkpoint", Off::Nothing, "training resumes from the run directory"),
    ("model.tensor_model_parallel_size", Off::One, "there is no tensor parallelism in this version"),
    ("model.pipeline_model_parallel_size", Off::One, "there is no pipeline parallelism in this version"),
    ("model.virtual_pipeline_model_parallel_size", Off::One, "there is no pipeline parallelism in this version"),
    ("model.context_parallel_size", Off::One, "there is no context parallelism in this version"),
    ("model.expert_model_parallel_size", Off::One, "there is no mixture of experts in this version"),
    ("model.num_moe_experts", Off::Nothing, "there is no mixture of experts in this version"),
    ("model.sequence_parallel", Off::Nothing, "there is no tensor parallelism in this version"),
    ("model.pre_process", Off::True, "the model is always whole"),
    ("model.post_process", Off::True, "the model is always whole"),
    ("model.mm_cfg.vision_encoder.from_hf", Off::True, "the tower is read in Hugging Face's layout"),
    ("model.mm_cfg.vision_encoder.model_type", Off::Nothing, "the tower is a CLIP vision transformer"),
    ("model.mm_cfg.use_lita", Off::Nothing, "there is no video in this version"),
    ("model.position_embedding_type", Off::Word("rope"), "positions are rotary (rope)"),
    ("model.attention_type", Off::Word("multihead"), "attention is multihead"),
    ("model.attention_dropout", Off::Nothing, "attention has no dropout in this version"),
    ("model.headscale", Off::Nothing, "there are no learned head scales"),
    ("model.transformer_block_type", Off::Word("pre_ln"), "layers are pre_ln: normalized before attention and feed-forward"),
    ("model.normalize_attention_scores", Off::True, "attention scores are always divided by the square root of the head's width"),
    ("model.openai_gelu", Off::Nothing, "say model.activation: approx-gelu"),
    ("model.megatron_legacy", Off::Nothing, "Megatron's old checkpoints cannot be read"),
    ("model.use_emha", Off::Nothing, "there is one attention kernel"),
    ("model.fp32_residual_connection", Off::Nothing, "the residual stream has the precision of the activations"),
    ("model.fp16_lm_cross_entropy", Off::Nothing, "the loss is computed in f32"),
    ("model.fp8", Off::Nothing, "there is no FP8 in this version"),
    ("model.fp8_e4m3", Off::Nothing, "there is no FP8 in this version"),
    ("model.fp8_hybrid", Off::Nothing, "there is no FP8 in this version"),
    ("model.activations_checkpoint_granularity", Off::Nothing, "activations are not recomputed in this version"),
    ("model.activations_checkpoint_method", Off::Nothing, "activations are not recomputed in this version"),
    ("model.activations_checkpoint_num_layers", Off::Nothing, "activations are not recomputed in this version"),
    ("model.activations_checkpoint_layers_per_pipeline", Off::Nothing, "activations are not recomputed in this version"),
    ("model.num_micro_batches_with_partial_activation_checkpoints", Off::Nothing, "activations are not recomputed in this version"),
    ("model.peft.peft_scheme", Off::Word("none"), "there are no adapters (LoRA) in this version"),
    ("model.tokenizer.vocab_file", Off::Nothing, "give the tokenizer as tokenizer.model or tokenizer.json"),
    ("model.tokenizer.merge_file", Off::Nothing, "give the tokenizer as tokenizer.model or tokenizer.json"),
    ("model.tokenizer.additional_special_tokens", Off::Nothing, "special tokens are part of the tokenizer's file"),
    ("model.data.packed_sequence", Off::Nothing, "there is no sequence packing in this version"),
    ("model.data.is_multimodal", Off::True, "records without an image may be among the data as they are"),
    ("model.data.media_type", Off::Word("image"), "there is no video in this version"),
    ("model.data.sep_image_conv_front", Off::Nothing, "<image> stays where the record has it"),
    ("model.data.concat_sampling_probabilities", Off::Nothing, "data sets are not blended by weight in this version"),
    ("model.data.splice_single_frame", Off::Nothing, "there is no video in this version"),
    ("model.data.video_folder", Off::Nothing, "there is no video in this version"),
    ("model.energon.use_energon", Off::Nothing, "data are LLaVA JSON files"),
    ("model.data.energon.use_energon", Off::Nothing, "data are LLaVA JSON files"),
    ("energon.use_energon", Off::Nothing, "data are LLaVA JSON files"),
    ("model.nsys_profile.enabled", Off::Nothing, "there is no profiler hook in this version"),
];

/// Keys that steer how NeMo computes, not what: there is nothing here for them to steer. A final `*` is every key
/// that begins so.
#[rustfmt::skip]
pub(super) const WITHOUT_EFFECT: &[&str] = &[
    "name",
    "trainer.logger", "trainer.enable_checkpointing", "trainer.use_distributed_sampler", "trainer.benchmark",
    "trainer.check_val_every_n_epoch", "trainer.limit_test_batches", "trainer.enable_model_summary",
    "exp_manager.wandb_logger_kwargs.*", "exp_manager.ema.*",
    "exp_manager.checkpoint_callback_params.always_save_nemo",
    "exp_manager.checkpoint_callback_params.save_nemo_on_train_end",
    "exp_manager.checkpoint_callback_params.filename",
    "exp_manager.checkpoint_callback_params.model_parallel_size",
    "model.mm_cfg.lita.*", "model.peft.*",
    "model.mcore_gpt", "model.transformer_engine", "model.use_flash_attention",
    "model.apply_query_key_layer_scaling", "model.persist_layer_norm",
    "model.masked_softmax_fusion", "model.bias_dropout_add_fusion", "model.bias_activation_fusion",
    "model.gradient_accumulation_fusion", "model.moe_*",
    "model.overlap_p2p_comm", "model.batch_p2p_comm",
    "model.native_amp_init_scale", "model.native_amp_growth_interval", "model.hysteresis",
    "model.use_cpu_initialization", "model.onnx_safe", "model.fp8_*",
    "model.async_grad_allreduce", "model.grad_allreduce_chunk_size_mb", "model.grad_div_ar_fusion",
    "model.apex_transformer_log_level", "model.gradient_as_bucket_view",
    "model.tokenizer.delimiter", "model.tokenizer.sentencepiece_legacy",
    "model.data.num_workers", "model.data.lazy_preprocess", "model.data.image_token_len",
    "model.data.num_frames", "model.data.sep_token_between_frames",
    "model.energon.*", "model.data.energon.*", "energon.*",
    "model.nsys_profile.*",
];

/// What a key is.
enum Class {
    Honoured,
    /// A mapping on the way to known keys.
    Section,
    Refused(Off, &'static str),
    /// The row of [`WITHOUT_EFFECT`].
    WithoutEffect(&'static str),
    Unknown,
}

/// The known keys, and what each is.
pub(super) struct Keys {
    honoured: Vec<String>,
}

impl Keys {
    pub fn new() -> Self {
        let mut honoured = Vec::new();
        Root::keys("", &mut honoured);
        Keys { honoured }
    }

    /// Every key of the three lists.
    fn all(&self) -> impl Iterator<Item = &str> {
        let refused = REFUSED.iter().map(|(key, _, _)| *key);
        self.honoured.iter().map(String::as_str).chain(refused).chain(WITHOUT_EFFECT.iter().copied())
    }

    fn class(&self, key: &str) -> Class {
        if self.honoured.iter().any(|honoured| honoured == key) {
            return Class::Honoured;
        }
        if let Some((_, off, why)) = REFUSED.iter().find(|(refused, _, _)| *refused == key) {
            return Class::Refused(*off, why);
        }
        if self.all().any(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))) {
            return Class::Section;
        }
        for row in WITHOUT_EFFECT {
            let found = match row.strip_suffix('*') {
                Some(start) => key.starts_with(start),
                None => key == *row,
            };
            if found {
                return Class::WithoutEffect(row);
            }
        }
        Class::Unknown
    }

    /// Whether a mapping or a value may stand at `key`.
    pub fn knows(&self, key: &str) -> bool {
        !matches!(self.class(key), Class::Unknown)
    }

    /// "unknown key", with the nearest known one if there is one near.
    pub fn unknown(&self, key: &str) -> String {
        let leaf = |key: &str| key.rsplit('.').next().unwrap_or_default().to_string();
        let depth = key.split('.').count();
        let mut candidates: Vec<String> = Vec::new();
        for known in self.all() {
            let known = known.trim_end_matches(".*");
            candidates.push(known.to_string());
            // A mistyped section is compared with sections.
            candidates.push(known.split('.').take(depth).collect::<Vec<_>>().join("."));
        }
        let nearest = candidates
            .iter()
            .map(|known| {
                let misplaced = leaf(known) == leaf(key);
                let distance = if misplaced { 1 } else { edit_distance(key, known) };
                (distance, known)
            })
            .min();
        match nearest {
            Some((distance, known)) if distance <= 1 + leaf(key).chars().count() / 4 => {
                format!("unknown key; did you mean {known}?")
            }
            _ => "unknown key".to_string(),
        }
    }

    /// Refuses unknown keys.
    pub fn check_known(&self, tree: &Value, source: &Source) -> Result<()> {
        self.walk(tree, "", &mut |class, key, entry| match class {
            Class::Unknown => Err(source.error(entry.origin, key, self.unknown(key))),
            _ => Ok(()),
        })
    }

    /// Refuses features that are switched on, and lists the keys without effect that were given a value: each once,
    /// in the file's order.
    pub fn check_features(&self, tree: &Value, source: &Source) -> Result<Vec<&'static str>> {
        let mut without_effect = Vec::new();
        self.walk(tree, "", &mut |class, key, entry| match class {
            Class::Refused(off, why) if !off.admits(&entry.value) => {
                let message = format!("{} is not supported: {why}", entry.value.describe());
                Err(source.error(entry.origin, key, message))
            }
            Class::Section if !matches!(entry.value, Value::Map(_) | Value::Null) => {
                let message = format!("expected a mapping of keys, got {}", entry.value.describe());
                Err(source.error(entry.origin, key, message))
            }
            Class::WithoutEffect(row) => {
                if entry.value != Value::Null && !without_effect.contains(&row) {
                    without_effect.push(row);
                }
                Ok(())
            }
            _ => Ok(()),
        })?;
        Ok(without_effect)
    }

    /// Visits each entry of the tree with its class; goes into sections only.
    fn walk(&self, tree: &Value, key: &str, visit: &mut Visit) -> Result<()> {
        let Value::Map(entries) = tree else { return Ok(()) };
        for entry in entries {
            let key = if key.is_empty() { entry.key.clone() } else { format!("{key}.{}", entry.key) };
            let class = self.class(&key);
            let is_section = matches!(class, Class::Section);
            visit(class, &key, entry)?;
            if is_section {
                self.walk(&entry.value, &key, visit)?;
            }
        }
        Ok(())
    }
}

type Visit<'a> = dyn FnMut(Class, &str, &super::value::Entry) -> Result<()> + 'a;

/// Insertions, deletions and substitutions of characters between two words (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    // A key as long as a file is no typing mistake.
    for (i, from) in a.chars().take(256).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_one_class() {
        let keys = Keys::new();
        let mut all: Vec<&str> = keys.all().collect();
        all.sort_unstable();
        assert!(all.len() > 150);
        for pair in all.windows(2) {
            assert_ne!(pair[0], pair[1], "{} is in two classes", pair[0]);
        }
        // A key that is a section of others could be given a value that nobody reads.
        for key in &all {
            assert!(
                !all.iter().any(|other| other.starts_with(&format!("{key}."))),
                "{key} is a key and a section"
            );
        }
    }
}
