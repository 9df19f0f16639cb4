//! Our models against transformers: directories we write load there without a missing or unexpected key and give the
//! same logits for a prompt with an image.
//!
//! `tests/golden/make_model.py` makes the golden file: it has this test write the directories, loads them in
//! transformers and records the logits. The parameters are random by name and seed, so the test makes them again.
#![allow(clippy::unwrap_used)]

use engine::{DType, Device};
use kernels::activation::Act;
use neva::checkpoint::{self, Checkpoint, Extras, ModelFiles};
use neva::model::config::{Mlp, NormKind};
use neva::model::{
    Batch, IGNORE, LlmConfig, LlmInit, Model, ModelConfig, ProjectorConfig, Source, Sources, Trainable,
    VisionConfig,
};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

fn llama(projector: usize) -> ModelConfig {
    ModelConfig {
        vision: VisionConfig {
            image_size: 16,
            patch_size: 8,
            hidden_size: 16,
            layers: 3,
            heads: 2,
            ffn_size: 24,
            eps: 1e-5,
            activation: Act::QuickGelu,
            select_layer: -2,
            keep_class: false,
        },
        projector: ProjectorConfig { layers: projector },
        llm: LlmConfig {
            hidden_size: 32,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            ffn_size: 40,
            vocab_size: 48,
            max_positions: 64,
            norm: NormKind::Rms,
            eps: 1e-5,
            mlp: Mlp::Gated(Act::Silu),
            bias: false,
            rope_theta: 500.0,
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

fn nemotron(projector: usize) -> ModelConfig {
    let mut config = llama(projector);
    config.llm.norm = NormKind::Layer1p;
    config.llm.mlp = Mlp::Plain(Act::SquaredRelu);
    config.llm.rotary_percentage = 0.5;
    config.llm.head_dim = 16;
    config.vision.keep_class = true;
    config
}

fn cases() -> Vec<(&'static str, ModelConfig)> {
    let mut variant = llama(2);
    variant.llm.bias = true;
    variant.llm.rope_factor = 2.0;
    variant.llm.tied = true;
    variant.vision.select_layer = -1;
    vec![
        ("llama_linear", llama(1)),
        ("llama_mlp2x", llama(2)),
        ("llama_bias_interpolated_tied", variant),
        ("nemotron_linear", nemotron(1)),
        ("nemotron_mlp2x", nemotron(2)),
    ]
}

fn model(config: &ModelConfig) -> (Device, Model) {
    let device = Device::cpu();
    let init = LlmInit { std: 0.3, scaled: false };
    let sources = Sources::all(Source::Fresh(3));
    let model = Model::new(&device, DType::F32, config, Trainable::NONE, sources, init).unwrap();
    (device, model)
}

/// Two words, an image, five words.
fn batch(config: &ModelConfig) -> Batch {
    let rows = config.vision.feature_rows();
    let image: Vec<u32> = vec![config.image_token; rows];
    let ids = [&[1, 17][..], &image, &[5, 40, 8, 22, 9]].concat();
    let n = ids.len();
    let side = config.vision.image_size;
    Batch {
        positions: (0..n as u32).collect(),
        cu_seqlens: vec![0, n as u32],
        labels: vec![IGNORE; n],
        weights: vec![0.0; n],
        keys: vec![0; n],
        image_rows: (2..2 + rows as u32).collect(),
        pixels: (0..3 * side * side).map(|i| (i as f32 * 0.37).sin()).collect(),
        images: 1,
        ids,
    }
}

fn write(dir: &std::path::Path, model: &Model) {
    let files = ModelFiles { extras: &Extras::default(), write: &|_| Ok(()), previous: None };
    checkpoint::save(dir, model, &files, |_| Ok(())).unwrap();
}

#[test]
#[ignore = "writes the model directories for tests/golden/make_model.py into NEVA_GOLDEN_DIR"]
fn write_directories() {
    let root = PathBuf::from(std::env::var("NEVA_GOLDEN_DIR").unwrap());
    for (name, config) in cases() {
        let (_, model) = model(&config);
        let dir = root.join(name);
        write(&dir, &model);
        let batch = batch(&config);
        let input = json!({"ids": batch.ids, "pixels": batch.pixels, "side": config.vision.image_size});
        fs::write(dir.join("input.json"), input.to_string()).unwrap();
    }
}

#[test]
fn logits_are_those_of_transformers() {
    let golden: Value = serde_json::from_str(include_str!("golden/model.json")).unwrap();
    for (name, config) in cases() {
        let (device, model) = model(&config);
        let logits = model.logits(&device, &batch(&config)).unwrap().to_f64().unwrap();
        let expected: Vec<f64> =
            golden[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(logits.len(), expected.len(), "{name}");
        let size = expected.iter().map(|v| v.abs()).fold(0.0, f64::max);
        let worst = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        println!("{name}: off by {worst:.1e} of {size:.2}");
        assert!(worst <= 1e-4, "{name}: off by {worst:.2e}");
        assert!(size > 0.5, "{name}: logits that say something");
    }
}

#[test]
fn a_directory_reads_back_to_the_same_model() {
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("model-round-trip");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).unwrap();
    let mut all = cases();
    let mut three = llama(3);
    three.image_marks = Some((4, 5));
    all.push(("neva_mlp3x", three));
    let mut gated = nemotron(2);
    gated.llm.mlp = Mlp::Gated(Act::Silu);
    all.push(("neva_gated_layernorm1p", gated));
    let mut plain = llama(1);
    plain.llm.norm = NormKind::Layer;
    all.push(("neva_layernorm", plain));
    for (name, config) in all {
        let (device, model) = model(&config);
        let dir = root.join(name);
        write(&dir, &model);
        let json: Value =
            serde_json::from_str(&fs::read_to_string(dir.join("config.json")).unwrap()).unwrap();
        assert_eq!(json["model_type"], if name.starts_with("neva") { "neva" } else { "llava" }, "{name}");
        let checkpoint = Checkpoint::open(&dir).unwrap();
        assert_eq!(checkpoint.config(), &config, "{name}");
        let sources = Sources::all(Source::Checkpoint(&checkpoint));
        let init = LlmInit { std: 0.0, scaled: false };
        let again = Model::new(&device, DType::F32, &config, Trainable::NONE, sources, init).unwrap();
        for (a, b) in model.params().into_iter().zip(again.params()) {
            assert_eq!(a.value().to_host().unwrap(), b.value().to_host().unwrap(), "{name}: {}", a.name());
        }
    }
}
