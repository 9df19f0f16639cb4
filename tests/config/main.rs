//! The configuration: values, interpolation, overrides. The exact text of every error is in `errors.rs`.
#![allow(clippy::unwrap_used)]

mod errors;

use std::path::{Path, PathBuf};

use neva::config::Config;
use neva::config::schema::{Activation, MlpAdapter, Normalization, Precision, SelectFeature, Template};
use proptest::prelude::*;

/// The least that a model which is born here needs.
const TINY: &str = "\
model:
  num_layers: 2
  hidden_size: 64
  ffn_hidden_size: 160
  num_attention_heads: 4
";

fn words(overrides: &[&str]) -> Vec<String> {
    overrides.iter().map(|word| word.to_string()).collect()
}

fn parse(text: &str, overrides: &[&str]) -> Config {
    Config::parse("a.yaml", text, &words(overrides)).unwrap()
}

fn same(a: &Config, b: &Config) -> bool {
    a.trainer == b.trainer && a.exp_manager == b.exp_manager && a.model == b.model
}

#[test]
fn defaults_are_nemos() {
    let config = parse(TINY, &[]);
    assert_eq!(config.trainer.precision, Precision::Bf16);
    assert_eq!((config.trainer.max_steps, config.trainer.val_check_interval), (4650, 100));
    assert_eq!((config.model.micro_batch_size, config.model.global_batch_size), (16, 128));
    assert_eq!((config.model.optim.lr, config.model.optim.betas), (2e-3, [0.9, 0.95]));
    assert_eq!((config.model.optim.sched.warmup_steps, config.model.optim.sched.min_lr), (140, 2e-5));
    assert_eq!(config.model.data.conv_template, Some(Template::Llama2));
    assert_eq!(config.run_directory(), Path::new("nemo_experiments/neva"));
    assert_eq!(config.warning(), None);
}

#[test]
fn what_is_born_here_is_filled_in() {
    let config = parse(TINY, &["+model.mm_cfg.vision_encoder={hidden_size: 192, crop_size: [28, 28]}"]);
    let llm = config.model.llm_architecture().unwrap();
    assert_eq!((llm.kv_channels, llm.num_query_groups, llm.max_position_embeddings), (16, 4, 4096));
    assert_eq!(
        (llm.normalization, llm.activation, llm.rotary_base),
        (Normalization::RmsNorm, Activation::Swiglu, 1e4)
    );
    let tower = config.model.vision_architecture().unwrap();
    assert_eq!((tower.crop_size, tower.patch_dim, tower.num_layers), (28, 14, 24));
    assert_eq!((tower.num_attention_heads, tower.ffn_hidden_size), (3, 768));
    let mm_cfg = &config.model.mm_cfg;
    assert_eq!(
        (mm_cfg.mm_mlp_adapter_type, mm_cfg.use_im_start_end),
        (Some(MlpAdapter::Linear), Some(false))
    );
    assert_eq!(mm_cfg.vision_encoder.vision_select_feature, Some(SelectFeature::Patch));
}

#[test]
fn what_a_directory_holds_is_left_open() {
    let config = parse("model: {restore_from_path: phase1}", &[]);
    assert_eq!(config.model.num_layers, None);
    assert_eq!(config.model.mm_cfg.mm_mlp_adapter_type, None);
    assert_eq!((config.model.llm_architecture(), config.model.vision_architecture()), (None, None));

    let config = parse("model: {mm_cfg: {llm: {from_pretrained: llama}}}", &[]);
    assert_eq!(config.model.llm_architecture(), None);
    assert!(config.model.vision_architecture().is_some());
}

#[test]
fn the_recipes_load() {
    for name in ["neva_llama2_7b_pretrain.yaml", "neva_llama2_7b_finetune.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name);
        let config = Config::load(&path, &[]).unwrap();
        assert_eq!(config.warning(), None, "{name}");
        assert_eq!(
            (config.model.num_layers, config.model.ffn_hidden_size),
            (Some(32), Some(11008)),
            "{name}"
        );
    }
}

#[test]
fn the_resolved_yaml_reads_back_as_the_same() {
    let recipe = include_str!("../../configs/neva_llama2_7b_finetune.yaml");
    for (text, overrides) in [
        (TINY, vec![]),
        (recipe, vec![]),
        (
            TINY,
            vec![
                "+trainer.threads=2",
                "trainer.precision=32",
                "model.optim.eps=1e-30",
                "model.optim.lr=0.1234567890123456789",
                "exp_manager.name='true'",
                "model.tokenizer={library: huggingface, type: 'a: b #c'}",
                "model.data.data_path=[one.json, '2', \"a\\nb\"]",
                "model.data.image_folder='\\${not.a.reference}'",
                "model.mm_cfg.mm_mlp_adapter_type=mlp3x_gelu",
                "model.init_method_std=3",
                "model.seed=18446744073709551615",
            ],
        ),
    ] {
        let config = parse(text, &overrides);
        let resolved = config.resolved_yaml();
        let again = Config::parse("resolved.yaml", &resolved, &[]).unwrap();
        assert!(same(&config, &again), "{resolved}");
        assert_eq!(again.resolved_yaml(), resolved);
        assert_eq!(again.warning(), None);
    }
}

#[test]
fn an_escaped_interpolation_is_text() {
    let config = parse(TINY, &["model.data.image_folder='\\${model.seed}/x'"]);
    assert_eq!(config.model.data.image_folder, Some(PathBuf::from("${model.seed}/x")));
}

#[test]
fn every_key_of_nemos_files_is_known() {
    let config = parse(include_str!("nemo_keys.yaml"), &[]);
    let warning = config.warning().unwrap();
    let expected = "a.yaml: NeMo keys without effect here: name, trainer.logger, trainer.enable_checkpointing, \
                    trainer.use_distributed_sampler, trainer.limit_test_batches, trainer.benchmark, \
                    trainer.enable_model_summary, \
                    exp_manager.checkpoint_callback_params.always_save_nemo, \
                    exp_manager.checkpoint_callback_params.save_nemo_on_train_end, \
                    exp_manager.checkpoint_callback_params.filename, \
                    exp_manager.checkpoint_callback_params.model_parallel_size, exp_manager.ema.*, \
                    model.mm_cfg.lita.*, model.peft.*, model.mcore_gpt, model.moe_*, \
                    model.apply_query_key_layer_scaling, model.persist_layer_norm, model.overlap_p2p_comm, \
                    model.batch_p2p_comm, model.use_flash_attention, model.native_amp_init_scale, \
                    model.native_amp_growth_interval, model.hysteresis, model.masked_softmax_fusion, \
                    model.bias_dropout_add_fusion, model.use_cpu_initialization, model.onnx_safe, \
                    model.gradient_accumulation_fusion, model.bias_activation_fusion, model.transformer_engine, \
                    model.fp8_*, model.async_grad_allreduce, model.grad_allreduce_chunk_size_mb, \
                    model.grad_div_ar_fusion, model.apex_transformer_log_level, model.gradient_as_bucket_view, \
                    model.tokenizer.sentencepiece_legacy, model.data.num_workers, model.data.lazy_preprocess, \
                    model.data.num_frames, model.data.sep_token_between_frames, model.data.image_token_len, \
                    model.nsys_profile.*";
    assert_eq!(warning, expected);
}

#[test]
fn interpolations_take_values_with_their_type() {
    let text = "\
trainer: {max_steps: 40, gradient_clip_val: '${multiply:${trainer.max_steps}, 0.5}'}
model:
  num_layers: 2
  hidden_size: ${multiply:${.num_attention_heads}, 16}
  ffn_hidden_size: ${int_div:${multiply:${.hidden_size}, 8}, 3}
  num_attention_heads: ${add:1, 3}
  encoder_seq_length: 512
  max_position_embeddings: ${.encoder_seq_length}
  optim: {lr: 1e-3, sched: {min_lr: '${div:${..lr}, 10}', warmup_steps: '${trainer.max_steps}'}}
  data:
    data_path: ['${..image_folder}/a.json', 'b.json']
    image_folder: images/${model.seed}
    validation_data_path: ${.data_path.0}
  seed: 7
exp_manager:
  name: ${oc.env:NEVA_TEST_NO_SUCH_VARIABLE, run-${model.seed}}
";
    let config = parse(text, &[]);
    assert_eq!(config.trainer.gradient_clip_val, Some(20.0));
    assert_eq!((config.model.hidden_size, config.model.ffn_hidden_size), (Some(64), Some(170)));
    assert_eq!(config.model.max_position_embeddings, Some(512));
    assert_eq!((config.model.optim.sched.min_lr, config.model.optim.sched.warmup_steps), (1e-4, 40));
    assert_eq!(config.model.data.data_path, [Path::new("images/7/a.json"), Path::new("b.json")]);
    assert_eq!(config.model.data.validation_data_path, [Path::new("images/7/a.json")]);
    assert_eq!(config.exp_manager.name, "run-7");
    // An override is what the others refer to.
    assert_eq!(parse(text, &["model.seed=8"]).exp_manager.name, "run-8");
    // A whole section by reference.
    let config = parse(&format!("{TINY}  mm_cfg: {{llm: '${{model.other}}'}}\n"), &["~model.mm_cfg"]);
    assert_eq!(config.model.num_layers, Some(2));
}

#[test]
fn overrides_are_hydras() {
    assert_eq!(parse(TINY, &["model.num_layers=3"]).model.num_layers, Some(3));
    assert_eq!(parse(TINY, &["model.seed=3"]).model.seed, 3, "a known key has its default");
    assert_eq!(parse(TINY, &["+model.seed=3"]).model.seed, 3);
    assert_eq!(parse(TINY, &["++model.num_layers=3", "++model.seed=3"]).model.num_layers, Some(3));
    assert_eq!(parse(TINY, &["model.optim.betas=[0.8, 0.9]"]).model.optim.betas, [0.8, 0.9]);
    assert_eq!(
        parse(TINY, &["model.data.image_folder=a=b"]).model.data.image_folder,
        Some(PathBuf::from("a=b"))
    );
    assert_eq!(parse(TINY, &["model.restore_from_path="]).model.restore_from_path, None);
    assert_eq!(parse(TINY, &["model.seed=1", "model.seed=2"]).model.seed, 2);
    let text = format!("{TINY}  optim: {{lr: 1, sched: {{warmup_steps: 3}}}}\n");
    let config = parse(&text, &["model.optim={lr: 0.5, sched: {min_lr: 0}}"]);
    assert_eq!(
        (config.model.optim.lr, config.model.optim.sched.warmup_steps),
        (0.5, 3),
        "mappings are merged"
    );
    let config = parse(&text, &["~model.optim.sched"]);
    assert_eq!((config.model.optim.lr, config.model.optim.sched.warmup_steps), (1.0, 140));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever the text and the words are, the answer is a configuration or an error of one line.
    #[test]
    fn no_text_and_no_word_panics(text in "\\PC{0,60}", word in "[+~]{0,2}model\\.[a-z_.]{0,20}=?\\PC{0,20}") {
        for (text, words) in [(text.as_str(), vec![]), (TINY, vec![word])] {
            if let Err(error) = Config::parse("a.yaml", text, &words) {
                prop_assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }

    /// A file of ours with one byte changed or cut short is read or refused, and never panics.
    #[test]
    fn no_damage_panics(at in 0usize..4000, to in 0u8..128, cut: bool) {
        let mut bytes = include_bytes!("../../configs/neva_llama2_7b_pretrain.yaml").to_vec();
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = to }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = Config::parse("a.yaml", &text, &[]) {
            prop_assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
