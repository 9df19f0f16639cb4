//! The keys this program honours, in NeMo's names and nesting. Keys that NeMo does not have say **ours**.
//!
//! A key of the *architecture* is an `Option`: `None` (not given, or `null`) means "as the model directory says",
//! and a value that contradicts the directory is an error of the model, not silently one or the other. For a part
//! that is born here (no directory given for it), loading the configuration fills every such key in: see
//! [`LlmArchitecture`](super::LlmArchitecture) and [`VisionArchitecture`](super::VisionArchitecture).

use std::path::PathBuf;

use super::setting::{ABOVE_ZERO, At, EPSILON, SHARE, Setting, choices, section};
use super::value::Value;
use crate::Result;

choices! {
    /// The arithmetic of training.
    Precision {
        /// Everything in f32.
        F32 = "32" | "32-true",
        /// NeMo's O2: bf16 weights and activations; f32 master weights, moments, gradient accumulation, statistics,
        /// softmax and loss.
        Bf16 = "bf16" | "bf16-mixed",
    } refused "16" | "16-mixed" | "fp16": "there is no loss scaling in this version"
}

choices! {
    /// Where to compute.
    Accelerator {
        /// A GPU where there is one with CUDA, else the CPU.
        Auto = "auto",
        /// The CPU.
        Cpu = "cpu",
        /// The first GPU; `--device cuda:N` is another.
        Gpu = "gpu" | "cuda",
    }
}

impl Accelerator {
    /// What the command line calls it.
    pub fn device(self) -> &'static str {
        match self {
            Accelerator::Auto => "auto",
            Accelerator::Cpu => "cpu",
            Accelerator::Gpu => "cuda",
        }
    }

    /// What a device of the command line is called here: `--device` has the last word.
    pub fn of_device(name: &str) -> Self {
        match name {
            "auto" => Accelerator::Auto,
            "cpu" => Accelerator::Cpu,
            _ => Accelerator::Gpu,
        }
    }
}

choices! {
    /// Which validation loss is the better one.
    MonitorMode {
        /// The smaller.
        Min = "min",
    }
}

choices! {
    /// What checkpoints are ranked by.
    Monitor {
        /// The mean loss on the validation data.
        ValLoss = "val_loss",
    }
}

choices! {
    /// A prompt template: the frame around the turns of a conversation.
    Template {
        /// Image and caption only, as phase 1 trains.
        Plain = "plain",
        /// Vicuna's `USER: … ASSISTANT: …`.
        V1 = "v1",
        /// LLaMA-2's `[INST] … [/INST]`.
        Llama2 = "llama_2",
        /// NVGPT's `<extra_id_1>User …`.
        Nvgpt = "nvgpt" | "nv_steerlm",
    } refused "llama_3" | "mistral" | "yi_34b" | "nv_dpo" | "interleaved" | "vita":
        "its template is not in this version"
}

choices! {
    /// The decoder's normalization layers.
    Normalization {
        /// Root mean square, with weight.
        RmsNorm = "rmsnorm",
        /// Mean and variance, with weight and bias.
        LayerNorm = "layernorm",
        /// LayerNorm whose stored weight w means 1 + w.
        LayerNorm1p = "layernorm1p",
    }
}

choices! {
    /// The decoder's feed-forward activation. The `fast-` names and the plain ones are the same function (NeMo's
    /// plain gated ones use two matrices, the fast ones one packed matrix, which is the form stored here).
    Activation {
        /// x Φ(x), with the exact error function.
        Gelu = "gelu",
        /// GELU's tanh approximation.
        ApproxGelu = "approx-gelu",
        /// max(x, 0)².
        SquaredRelu = "squared-relu",
        /// GELU(gate) · up.
        Geglu = "fast-geglu" | "geglu",
        /// SiLU(gate) · up.
        Swiglu = "fast-swiglu" | "swiglu",
        /// ReLU(gate) · up.
        Reglu = "fast-reglu" | "reglu",
    }
}

choices! {
    /// Which tokens of the tower the projector gets.
    SelectFeature {
        /// The patches, without the class token.
        Patch = "patch",
        /// All, the class token first.
        ClsPatch = "cls_patch",
    }
}

choices! {
    /// How an image is brought to the tower's square.
    AspectRatio {
        /// Resize the short side, cut the centre.
        Square = "square",
        /// Pad to a square first.
        Pad = "pad",
        /// Keep the aspect ratio, no cut.
        Keep = "keep",
    }
}

choices! {
    /// The order of the records.
    Dataloader {
        /// A new permutation every epoch, from the seed.
        Cyclic = "cyclic",
        /// The order of the file.
        Single = "single",
    }
}

choices! {
    /// The kind of tokenizer file.
    TokenizerLibrary {
        /// `tokenizer.model`, named by `model.tokenizer.model`.
        SentencePiece = "sentencepiece",
        /// `tokenizer.json`, named (it or its directory) by `model.tokenizer.type`.
        HuggingFace = "huggingface",
    }
}

choices! {
    /// The optimiser. Both names are AdamW.
    OptimName {
        /// NeMo's default name.
        FusedAdam = "fused_adam",
        /// The algorithm's own name.
        AdamW = "adamw",
    } refused "distributed_fused_adam": "the optimiser's state is not sharded in this version"
}

choices! {
    /// The learning rate's course.
    Schedule {
        /// Linear warm-up, half a cosine down to `min_lr`, and `min_lr` after.
        CosineAnnealing = "CosineAnnealing",
    }
}

choices! {
    /// How the losses of tokens become one number.
    LossReduction {
        /// The mean over the supervised tokens of the global batch: independent of the micro-batch size.
        Token = "token",
        /// NeMo's: the mean over micro-batches of each one's mean.
        MicroBatch = "micro_batch",
    }
}

section! {
    /// `trainer`.
    Trainer {
        /// 32 or bf16.
        precision: Precision = Precision::Bf16,
        /// auto, cpu or gpu; `--device` has the last word.
        accelerator: Accelerator = Accelerator::Auto,
        /// Whether a run repeats bit for bit; false lets a GPU add in the order that is fastest. On the CPU a run always
        /// repeats.
        deterministic: bool = true,
        /// Devices: 1.
        devices: usize [1..] = 1,
        /// **Ours.** CPU threads; null is one per core.
        threads: Option<usize> [1..=4096] = None,
        /// Optimizer steps in all.
        max_steps: u64 [1..] = 4650,
        /// Steps between two lines of progress.
        log_every_n_steps: u64 [1..] = 10,
        /// Steps between two validations.
        val_check_interval: u64 [1..] = 100,
        /// Global batches of a validation; null is the whole validation set, 0 is no validation.
        limit_val_batches: Option<u64> = Some(50),
        /// Largest global L2 norm of the gradient; null or 0 does not clip.
        gradient_clip_val: Option<f64> [0.0..] = Some(1.0),
    }
}

section! {
    /// `exp_manager.checkpoint_callback_params`.
    CheckpointCallback {
        /// val_loss.
        monitor: Monitor = Monitor::ValLoss,
        /// min.
        mode: MonitorMode = MonitorMode::Min,
        /// Checkpoints kept, the best by `monitor`, -1 for all; the last is kept besides.
        save_top_k: i64 [-1..] = 10,
        /// Steps between two checkpoints; null saves after each validation and at the end.
        every_n_train_steps: Option<u64> [1..] = None,
    }
}

section! {
    /// `exp_manager`.
    ExpManager {
        /// The run directory: resolved YAML, metrics, checkpoints. Null: `exp_dir/name`.
        explicit_log_dir: Option<PathBuf> = None,
        /// Where run directories are made when `explicit_log_dir` is null; null is `nemo_experiments`.
        exp_dir: Option<PathBuf> = None,
        /// The run's name.
        name: String = "neva".to_string(),
        /// Go on from the last checkpoint in the run directory. False: a run directory with one is an error.
        resume_if_exists: bool = true,
        /// With `resume_if_exists`: start anew if there is no checkpoint. False: that is an error.
        resume_ignore_no_checkpoint: bool = true,
        /// What to keep and when.
        checkpoint_callback_params: CheckpointCallback = CheckpointCallback::default(),
    }
}

section! {
    /// `model.mm_cfg.llm`.
    Llm {
        /// The language model's directory; null: born here, or part of `model.restore_from_path`.
        from_pretrained: Option<PathBuf> = None,
        /// Keep the language model as it is.
        freeze: bool = true,
        /// The conversation style the model was trained for: the default of `model.data.conv_template`.
        model_type: Template = Template::Llama2,
    }
}

section! {
    /// `model.mm_cfg.vision_encoder`.
    VisionEncoder {
        /// The CLIP tower's directory; null: born here, or part of `model.restore_from_path`.
        from_pretrained: Option<PathBuf> = None,
        /// Keep the tower as it is. False trains it (in NeMo it does not).
        freeze: bool = true,
        /// Side of a patch, pixels. Born here: 14.
        patch_dim: Option<usize> [1..=1024] = None,
        /// Height and width of the image, pixels, equal. Born here: [224, 224].
        crop_size: Option<[usize; 2]> [1..=16384] = None,
        /// Width of the tower. Born here: 1024.
        hidden_size: Option<usize> [1..=65536] = None,
        /// **Ours.** Layers of the tower. Born here: 24.
        num_layers: Option<usize> [1..=1024] = None,
        /// **Ours.** Attention heads of the tower. Born here: `hidden_size` / 64.
        num_attention_heads: Option<usize> [1..=4096] = None,
        /// **Ours.** Inner width of the tower's feed-forward layers. Born here: 4 x `hidden_size`.
        ffn_hidden_size: Option<usize> [1..=1048576] = None,
        /// Class tokens in front of the patches: 1. Born here: 1.
        class_token_length: Option<usize> = None,
        /// Which of the num_layers + 1 hidden states to take; negative counts from the end. Born here: -2.
        vision_select_layer: Option<i64> = None,
        /// patch or cls_patch. Born here: patch.
        vision_select_feature: Option<SelectFeature> = None,
    }
}

section! {
    /// `model.mm_cfg`.
    MmCfg {
        /// The language model.
        llm: Llm = Llm::default(),
        /// The tower.
        vision_encoder: VisionEncoder = VisionEncoder::default(),
        /// A model directory to take only the projector from; null: born here.
        pretrain_mm_mlp_adapter: Option<PathBuf> = None,
        /// `linear` or `mlp{N}x_gelu`. Born here: linear.
        mm_mlp_adapter_type: Option<MlpAdapter> = None,
        /// Learned start and end tokens stand around the image's features, instead of being overwritten by them.
        /// Born here: false.
        use_im_start_end: Option<bool> = None,
    }
}

/// `model.mm_cfg.mm_mlp_adapter_type`: the projector from the tower's width to the language model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpAdapter {
    /// One linear layer.
    Linear,
    /// This many linear layers (1 to 16) with GELU between them.
    Mlp(usize),
}

impl Setting for MlpAdapter {
    fn read(value: &Value, at: &At) -> Result<Self> {
        let word = value.scalar_text().unwrap_or_default();
        let layers = word.strip_prefix("mlp").and_then(|rest| rest.strip_suffix("x_gelu"));
        match (word.as_str(), layers.map(str::parse)) {
            ("linear", _) => Ok(MlpAdapter::Linear),
            (_, Some(Ok(layers @ 1..=16))) => Ok(MlpAdapter::Mlp(layers)),
            ("mlp_downsample" | "identity", _) => {
                Err(at.error(format!("{word} is not supported: the projector is linear or mlp{{N}}x_gelu")))
            }
            _ => Err(at.expected("linear or mlp{N}x_gelu with N from 1 to 16", value)),
        }
    }

    fn write(&self) -> Value {
        Value::Text(match self {
            MlpAdapter::Linear => "linear".to_string(),
            MlpAdapter::Mlp(layers) => format!("mlp{layers}x_gelu"),
        })
    }
}

section! {
    /// `model.tokenizer`.
    Tokenizer {
        /// sentencepiece or huggingface.
        library: TokenizerLibrary = TokenizerLibrary::SentencePiece,
        /// With huggingface: `tokenizer.json`, or the directory it is in.
        kind as "type": Option<PathBuf> = None,
        /// With sentencepiece: `tokenizer.model`. Both null: the tokenizer of the model directory.
        model: Option<PathBuf> = None,
    }
}

section! {
    /// `model.data`.
    Data {
        /// LLaVA JSON files, one or a list; a list is read as one set, file after file.
        data_path: Vec<PathBuf> = Vec::new(),
        /// The directory that the records' image names start from.
        image_folder: Option<PathBuf> = None,
        /// **Ours.** LLaVA JSON to validate on; null: no validation. (NeMo validates on `data_path`.)
        validation_data_path: Vec<PathBuf> = Vec::new(),
        /// **Ours.** The image directory of the validation data; null: `image_folder`.
        validation_image_folder: Option<PathBuf> = None,
        /// cyclic (shuffled anew each epoch) or single (the file's order).
        dataloader_type: Dataloader = Dataloader::Cyclic,
        /// The prompt template; not given: that of `model.mm_cfg.llm.model_type`.
        conv_template: Option<Template> = None,
        /// square, pad or keep.
        image_aspect_ratio: AspectRatio = AspectRatio::Square,
        /// **Ours.** Training pictures are mirrored, left and right exchanged, every other time they are shown.
        image_flip: bool = false,
        /// **Ours.** They are moved by up to so many pixels of the tower's input, each time anew.
        image_shift: usize [0..=16384] = 0,
    }
}

section! {
    /// `model.optim.sched`.
    Sched {
        /// CosineAnnealing.
        name: Schedule = Schedule::CosineAnnealing,
        /// Steps of linear warm-up.
        warmup_steps: u64 = 140,
        /// Steps at `min_lr` at the end.
        constant_steps: u64 = 0,
        /// Learning rate at the end of the cosine.
        min_lr: f64 [0.0..] = 2e-5,
    }
}

section! {
    /// `model.optim`.
    Optim {
        /// fused_adam or adamw.
        name: OptimName = OptimName::FusedAdam,
        /// Highest learning rate.
        lr: f64 [ABOVE_ZERO] = 2e-3,
        /// Decoupled weight decay of everything but norms and biases.
        weight_decay: f64 [0.0..] = 0.0,
        /// Decay of the first and second moment.
        betas: [f64; 2] [0.0..1.0] = [0.9, 0.95],
        /// Added to the square root of the second moment.
        eps: f64 [EPSILON] = 1e-8,
        /// The learning rate's course.
        sched: Sched = Sched::default(),
    }
}

section! {
    /// `model`.
    Model {
        /// The same as `trainer.precision`, where NeMo's files repeat it.
        precision: Option<Precision> = None,
        /// bf16 is always O2 (f32 master weights): must be true with bf16; means nothing with 32.
        megatron_amp_o2 as "megatron_amp_O2": bool = true,
        /// Sequences in one forward pass.
        micro_batch_size: usize [1..] = 16,
        /// Sequences of one optimizer step: a multiple of `micro_batch_size`.
        global_batch_size: usize [1..] = 128,
        /// The model directory to go on from (phase 2: phase 1's result); it holds tower, projector and decoder.
        restore_from_path: Option<PathBuf> = None,
        /// Tower, projector and language model.
        mm_cfg: MmCfg = MmCfg::default(),
        /// Longest sequence, image rows included; longer ones are cut.
        encoder_seq_length: usize [1..=16777216] = 4096,
        /// Positions the decoder is made for. Born here: `encoder_seq_length`.
        max_position_embeddings: Option<usize> [1..=16777216] = None,
        /// Decoder layers. Born here: required.
        num_layers: Option<usize> [1..=1024] = None,
        /// Decoder width. Born here: required.
        hidden_size: Option<usize> [1..=65536] = None,
        /// Inner width of the feed-forward layers. Born here: required.
        ffn_hidden_size: Option<usize> [1..=1048576] = None,
        /// Query heads. Born here: required.
        num_attention_heads: Option<usize> [1..=4096] = None,
        /// Key/value heads. Born here: `num_attention_heads`.
        num_query_groups: Option<usize> [1..=4096] = None,
        /// Width of a head. Born here: `hidden_size` / `num_attention_heads`.
        kv_channels: Option<usize> [1..=256] = None,
        /// rmsnorm, layernorm or layernorm1p. Born here: rmsnorm.
        normalization: Option<Normalization> = None,
        /// Added to the variance. Born here: 1e-5.
        layernorm_epsilon: Option<f64> [EPSILON] = None,
        /// Bias terms in the decoder's linear layers. Born here: false.
        bias: Option<bool> = None,
        /// The feed-forward activation. Born here: fast-swiglu.
        activation: Option<Activation> = None,
        /// Share of a head's width that rotates. Born here: 1.
        rotary_percentage: Option<f64> [SHARE] = None,
        /// Base of the rotary frequencies. Born here: 10000.
        rotary_base: Option<f64> [1.0..=1e30] = None,
        /// Positions are divided by this; null is 1.
        seq_len_interpolation_factor: Option<f64> [1e-3..=1e6] = None,
        /// One matrix for the token embedding and the output. Born here: false.
        share_embeddings_and_output_weights: Option<bool> = None,
        /// The vocabulary is padded to a multiple of this when the model is born.
        make_vocab_size_divisible_by: usize [1..=65536] = 128,
        /// Standard deviation of new weights.
        init_method_std: f64 [0.0..=100.0] = 0.014,
        /// Divide it by sqrt(2 x num_layers) for the two output projections of a layer.
        use_scaled_init_method: bool = true,
        /// Dropout after attention and feed-forward.
        hidden_dropout: f64 [0.0..1.0] = 0.0,
        /// Dropout inside the feed-forward layer.
        ffn_dropout: f64 [0.0..1.0] = 0.0,
        /// Weight decay on normalization weights too.
        do_layer_norm_weight_decay: bool = false,
        /// **Ours.** token or micro_batch.
        loss_reduction: LossReduction = LossReduction::Token,
        /// Seed of new weights, dropout and data order.
        seed: u64 = 1234,
        /// Text to ids.
        tokenizer: Tokenizer = Tokenizer::default(),
        /// What to train on.
        data: Data = Data::default(),
        /// How to train.
        optim: Optim = Optim::default(),
    }
}

section! {
    /// The whole file.
    Root {
        /// The run.
        trainer: Trainer = Trainer::default(),
        /// Where it writes.
        exp_manager: ExpManager = ExpManager::default(),
        /// The model, its data and its optimiser.
        model: Model = Model::default(),
    }
}
