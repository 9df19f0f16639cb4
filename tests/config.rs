//! The configuration: values, interpolation, overrides, and the exact text of every error.
#![allow(clippy::unwrap_used)]

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

fn error(text: &str, overrides: &[&str]) -> String {
    Config::parse("a.yaml", text, &words(overrides)).unwrap_err().to_string()
}

/// The error of `TINY` with more YAML behind it, which starts on line 6 and inside `model`.
fn tiny_error(more: &str) -> String {
    error(&format!("{TINY}{more}\n"), &[])
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
    let recipe = include_str!("../configs/neva_llama2_7b_finetune.yaml");
    for (text, overrides) in [
        (TINY, vec![]),
        (recipe, vec![]),
        (
            TINY,
            vec![
                "+trainer.threads=2",
                "trainer.precision=32",
                "model.optim.eps=1e-300",
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
    let config = parse(include_str!("config/nemo_keys.yaml"), &[]);
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
fn interpolations_that_cannot_be() {
    for (line, message) in [
        ("  seed: ${.sed}", "a.yaml:6: model.seed: ${.sed} refers to model.sed, which the file does not set"),
        ("  seed: ${...x}", "a.yaml:6: model.seed: ${...x} goes above the root"),
        ("  seed: ${model.seed}", "a.yaml:6: model.seed: refers to itself: model.seed -> model.seed"),
        (
            "  seed: ${.num_query_groups}\n  num_query_groups: ${.seed}",
            "a.yaml:6: model.seed: refers to itself: model.seed -> model.num_query_groups -> model.seed",
        ),
        ("  seed: ${model}", "a.yaml:6: model.seed: refers to itself: model.seed -> model -> model"),
        (
            "  seed: ${model.num_layers",
            "a.yaml:6: model.seed: \"${model.num_layers\" opens ${ and does not close it",
        ),
        (
            "  seed: ${eval:1+1}",
            "a.yaml:6: model.seed: ${eval:…} is not known; expected add, multiply, int_div, div or oc.env",
        ),
        (
            "  seed: ${multiply:1}",
            "a.yaml:6: model.seed: ${multiply:…} does not take 1 arguments of this kind",
        ),
        ("  seed: ${multiply:1,x}", "a.yaml:6: model.seed: ${multiply:…} of 1 and \"x\" has no value"),
        ("  seed: ${int_div:1,0}", "a.yaml:6: model.seed: ${int_div:…} of 1 and 0 has no value"),
        (
            "  seed: x${model.data}\n  data: {}",
            "a.yaml:6: model.seed: \"x${model.data}\" puts a mapping inside a text",
        ),
        (
            "  seed: ${oc.env:NEVA_TEST_NO_SUCH_VARIABLE}",
            "a.yaml:6: model.seed: the environment variable NEVA_TEST_NO_SUCH_VARIABLE is not set",
        ),
    ] {
        assert_eq!(tiny_error(line), message, "{line}");
    }
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

#[test]
fn overrides_that_cannot_be() {
    for (word, message) in [
        (
            "model.hiden_size=3",
            "command line: model.hiden_size: unknown key; did you mean model.hidden_size?",
        ),
        ("+model.foo=3", "command line: model.foo: unknown key"),
        (
            "+model.num_layers=3",
            "command line: model.num_layers: is already set at a.yaml:2; say model.num_layers=… or \
             ++model.num_layers=… to change it",
        ),
        ("~model.seed", "command line: model.seed: is not in the file, so it cannot be removed"),
        ("model.seed", "command line: \"model.seed\": expected key=value, +key=value, ++key=value or ~key"),
        ("model..seed=1", "command line: \"model..seed=1\": expected a key of words with dots between"),
        ("=1", "command line: \"=1\": expected a key of words with dots between"),
        ("model.seed=", "command line: model.seed: expected a whole number, got \"\""),
        (
            "model.seed=[",
            "command line: model.seed: \"[\" is not valid YAML: did not find expected node content",
        ),
        ("model.seed=[1]", "command line: model.seed: expected a whole number, got a list of 1"),
        ("model.optim={lr: 1, lr: 2}", "command line: model.optim: \"{lr: 1, lr: 2}\" holds lr twice"),
        ("model.optim.lr=0", "command line: model.optim.lr: expected a number above 0, got 0"),
        ("model=3", "command line: model: expected a mapping of keys, got 3"),
        ("model.num_layers.x=3", "command line: model.num_layers.x: unknown key"),
    ] {
        assert_eq!(error(TINY, &[word]), message, "{word}");
    }
    let long = format!("model.{}=1", "a.".repeat(10_000));
    assert!(error(TINY, &[&long]).ends_with("expected a key of words with dots between"));
}

#[test]
fn unknown_keys_name_the_nearest() {
    for (line, message) in [
        ("  hiden_size: 3", "a.yaml:6: model.hiden_size: unknown key; did you mean model.hidden_size?"),
        ("  max_steps: 3", "a.yaml:6: model.max_steps: unknown key; did you mean trainer.max_steps?"),
        (
            "  tensor_model_parallel: 1",
            "a.yaml:6: model.tensor_model_parallel: unknown key; did you mean model.tensor_model_parallel_size?",
        ),
        ("  colour: red", "a.yaml:6: model.colour: unknown key"),
        ("trainr:\n  max_steps: 3", "a.yaml:6: trainr: unknown key; did you mean trainer?"),
        (
            "  mm_cfg:\n    llm:\n      freez: 1",
            "a.yaml:8: model.mm_cfg.llm.freez: unknown key; did you mean model.mm_cfg.llm.freeze?",
        ),
        ("  <<: {seed: 1}", "a.yaml:6: model.<<: unknown key"),
        ("  \"a\\nb\": 1", "a.yaml:6: model.a\\nb: unknown key"),
        // A mistyped key is named before the reference that misses it.
        (
            "  max_position_embeddings: ${.encoder_seq_length}\n  encoder_seq_lenght: 8",
            "a.yaml:7: model.encoder_seq_lenght: unknown key; did you mean model.encoder_seq_length?",
        ),
    ] {
        assert_eq!(tiny_error(line), message, "{line}");
    }
    assert!(tiny_error(&format!("  {}: 1", "x".repeat(1000))).len() < 300);
}

#[test]
fn wrong_types_and_ranges_say_what_was_expected() {
    for (line, message) in [
        ("  seed: abc", "model.seed: expected a whole number, got \"abc\""),
        ("  seed: 1.0", "model.seed: expected a whole number, got 1.0"),
        ("  seed: -1", "model.seed: expected a whole number from 0 to 18446744073709551615, got -1"),
        ("  seed:", "model.seed: expected a whole number, got null"),
        ("  micro_batch_size: 0", "model.micro_batch_size: expected a number of at least 1, got 0"),
        ("  hidden_dropout: 1", "model.hidden_dropout: expected a number of at least 0 and below 1, got 1"),
        ("  hidden_dropout: .nan", "model.hidden_dropout: expected a finite number, got NaN"),
        ("  init_method_std: .inf", "model.init_method_std: expected a finite number, got inf"),
        (
            "  rotary_percentage: 1.5",
            "model.rotary_percentage: expected a number above 0 and of at most 1, got 1.5",
        ),
        ("  bias: yes", "model.bias: expected true or false, got \"yes\""),
        (
            "  normalization: batchnorm",
            "model.normalization: expected rmsnorm or layernorm or layernorm1p, got \"batchnorm\"",
        ),
        ("  optim: {betas: 0.9}", "model.optim.betas: expected a list of 2, got 0.9"),
        ("  optim: {betas: [0.9]}", "model.optim.betas: expected a list of 2, got a list of 1"),
        (
            "  optim: {betas: [0.9, 1]}",
            "model.optim.betas: expected a number of at least 0 and below 1, got 1",
        ),
        ("  optim: [1]", "model.optim: expected a mapping of keys, got a list of 1"),
        ("  nsys_profile: true", "model.nsys_profile: expected a mapping of keys, got true"),
        ("  data: {data_path: 3}", "model.data.data_path: expected a path, got 3"),
        ("  data: {data_path: [{}]}", "model.data.data_path: expected a path, got a mapping"),
        (
            "  activation: {}",
            "model.activation: expected gelu or approx-gelu or squared-relu or fast-geglu or fast-swiglu or fast-reglu, got a mapping",
        ),
        (
            "  mm_cfg: {mm_mlp_adapter_type: mlp0x_gelu}",
            "model.mm_cfg.mm_mlp_adapter_type: expected linear or mlp{N}x_gelu with N from 1 to 16, got \"mlp0x_gelu\"",
        ),
    ] {
        assert_eq!(tiny_error(line), format!("a.yaml:6: {message}"), "{line}");
    }
}

#[test]
fn features_that_are_missing_are_refused_by_name() {
    for (line, message) in [
        (
            "  attention_dropout: 0.1",
            "model.attention_dropout: 0.1 is not supported: attention has no dropout in this version",
        ),
        (
            "  tensor_model_parallel_size: 8",
            "model.tensor_model_parallel_size: 8 is not supported: there is no tensor parallelism in this version",
        ),
        (
            "  context_parallel_size: 2",
            "model.context_parallel_size: 2 is not supported: there is no context parallelism in this version",
        ),
        (
            "  num_moe_experts: 8",
            "model.num_moe_experts: 8 is not supported: there is no mixture of experts in this version",
        ),
        (
            "  sequence_parallel: True",
            "model.sequence_parallel: true is not supported: there is no tensor parallelism in this version",
        ),
        (
            "  transformer_block_type: post_ln",
            "model.transformer_block_type: \"post_ln\" is not supported: layers are pre_ln: normalized before attention and feed-forward",
        ),
        (
            "  activations_checkpoint_granularity: full",
            "model.activations_checkpoint_granularity: \"full\" is not supported: activations are not recomputed in this version",
        ),
        ("  fp8: True", "model.fp8: true is not supported: there is no FP8 in this version"),
        (
            "  peft: {peft_scheme: lora}",
            "model.peft.peft_scheme: \"lora\" is not supported: there are no adapters (LoRA) in this version",
        ),
        (
            "  data: {media_type: video}",
            "model.data.media_type: \"video\" is not supported: there is no video in this version",
        ),
        (
            "  data: {packed_sequence: True}",
            "model.data.packed_sequence: true is not supported: there is no sequence packing in this version",
        ),
        (
            "  mm_cfg: {mm_mlp_adapter_type: mlp_downsample}",
            "model.mm_cfg.mm_mlp_adapter_type: mlp_downsample is not supported: the projector is linear or mlp{N}x_gelu",
        ),
        (
            "  mm_cfg: {vision_encoder: {class_token_length: 0}}",
            "model.mm_cfg.vision_encoder.class_token_length: 0 is not supported: the tower is a CLIP, which has 1 class token",
        ),
        (
            "  data: {conv_template: llama_3}",
            "model.data.conv_template: llama_3 is not supported: its template is not in this version; expected plain or v1 or llama_2 or nvgpt",
        ),
        (
            "  megatron_amp_O2: False",
            "model.megatron_amp_O2: false is not supported with trainer.precision bf16: the master weights are kept in f32",
        ),
        (
            "trainer: {precision: 16}",
            "trainer.precision: 16 is not supported: there is no loss scaling in this version; expected 32 or bf16",
        ),
        (
            "trainer: {accelerator: gpu}",
            "trainer.accelerator: gpu is not supported: training runs on the CPU in this version; expected auto or cpu",
        ),
        ("trainer: {devices: 8}", "trainer.devices: 8 is not supported: training uses one device"),
        (
            "exp_manager: {ema: {enable: True}}",
            "exp_manager.ema.enable: true is not supported: an exponential moving average of the weights is not kept",
        ),
    ] {
        assert_eq!(tiny_error(line), format!("a.yaml:6: {message}"), "{line}");
    }
}

#[test]
fn values_that_do_not_fit_each_other_are_both_named() {
    for (overrides, message) in [
        (
            vec!["model.num_attention_heads=3"],
            "model.num_attention_heads: 3 does not divide model.hidden_size 64",
        ),
        (
            vec!["model.num_query_groups=3"],
            "model.num_query_groups: 3 does not divide model.num_attention_heads 4",
        ),
        (
            vec!["model.num_attention_heads=16"],
            "model.kv_channels: a head is 4 wide; expected a multiple of 8, at most 256",
        ),
        (
            vec!["model.kv_channels=12"],
            "model.kv_channels: a head is 12 wide; expected a multiple of 8, at most 256",
        ),
        (
            vec!["model.rotary_percentage=0.1"],
            "model.rotary_percentage: 0.1 of a head 16 wide is 1.6 dimensions; expected an even whole number",
        ),
        (
            vec!["model.micro_batch_size=3"],
            "model.global_batch_size: 128 is not a multiple of model.micro_batch_size 3",
        ),
        (
            vec!["trainer.max_steps=100"],
            "model.optim.sched.warmup_steps: 140 and constant_steps 0 are together more than trainer.max_steps 100",
        ),
        (
            vec!["model.optim.lr=1e-6"],
            "model.optim.sched.min_lr: 0.00002 is more than model.optim.lr 0.000001",
        ),
        (
            vec!["model.precision=32"],
            "model.precision: is 32, but trainer.precision is bf16; expected the same",
        ),
        (
            vec!["model.max_position_embeddings=100"],
            "model.encoder_seq_length: 4096 is more than model.max_position_embeddings 100",
        ),
        (
            vec!["model.mm_cfg.vision_encoder.crop_size=[224, 336]"],
            "model.mm_cfg.vision_encoder.crop_size: 224 is not 336; expected a square",
        ),
        (
            vec!["model.mm_cfg.vision_encoder.crop_size=[225, 225]"],
            "model.mm_cfg.vision_encoder.crop_size: 225 is not a multiple of patch_dim 14",
        ),
        (
            vec!["model.mm_cfg.vision_encoder.num_attention_heads=5"],
            "model.mm_cfg.vision_encoder.num_attention_heads: 5 does not divide hidden_size 1024",
        ),
        (
            vec!["model.mm_cfg.vision_encoder.vision_select_layer=-26"],
            "model.mm_cfg.vision_encoder.vision_select_layer: -26 is none of the 25 hidden states of num_layers 24",
        ),
        (
            vec!["model.restore_from_path=a", "model.mm_cfg.llm.from_pretrained=b"],
            "model.mm_cfg.llm.from_pretrained: b cannot be combined with model.restore_from_path a, which holds the whole model",
        ),
        (
            vec!["model.tokenizer.type=t"],
            "model.tokenizer.type: t with library sentencepiece: give the path as model",
        ),
        (
            vec!["model.data.validation_image_folder=i"],
            "model.data.validation_image_folder: is given without model.data.validation_data_path",
        ),
        (
            vec!["~model.num_layers"],
            "model.num_layers: is required, because no directory gives the language model (model.restore_from_path or model.mm_cfg.llm.from_pretrained)",
        ),
    ] {
        let text = error(TINY, &overrides);
        let (_origin, rest) = text.split_once(": ").unwrap();
        assert_eq!(rest, message, "{overrides:?}");
    }
    // The place is that of the key the message is about, given or not.
    assert!(error(TINY, &["model.num_attention_heads=3"]).starts_with("command line: "));
    assert!(error(TINY, &["trainer.max_steps=100"]).starts_with("a.yaml: "));
    assert!(error(TINY, &["model.hidden_size=62"]).starts_with("a.yaml:5: model.num_attention_heads"));
}

#[test]
fn broken_files_are_one_clear_error() {
    let deep = format!("model: {}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_block: String = (0..1_000).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    let mut bomb = "model:\n  data:\n    data_path: &a0 [x, x, x, x, x, x, x, x, x]\n".to_string();
    for level in 1..20 {
        let item = format!("*a{}", level - 1);
        bomb += &format!("  k{level}: &a{level} [{}]\n", vec![item; 9].join(", "));
    }
    for (text, message) in [
        ("", "a.yaml: is empty; expected the keys trainer, exp_manager and model"),
        ("# nothing\n", "a.yaml: is empty; expected the keys trainer, exp_manager and model"),
        ("[1, 2]", "a.yaml: expected the keys trainer, exp_manager and model, got a list of 2"),
        ("model: {", "a.yaml:2: is not valid YAML: did not find expected node content"),
        ("model:\n  seed: 1\n seed: 2\n", "a.yaml:3: is not valid YAML: did not find expected key"),
        ("model:\n\tseed: 1\n", "a.yaml:2: is not valid YAML: found character that cannot start any token"),
        (
            "a: 1\n---\nb: 2\n",
            "a.yaml: is not valid YAML: deserializing from YAML containing more than one document is not supported",
        ),
        (
            "model:\n  seed: 1\n  data: {}\n  seed: 2\n",
            "a.yaml:4: model.seed: is given twice, first at a.yaml:2",
        ),
        ("model: {seed: 1, seed: 1}\n", "a.yaml:1: model.seed: is given twice, first at a.yaml:1"),
        (
            "model:\n  seed: !secret 1\n",
            "a.yaml:2: is not valid YAML: model.seed: invalid type: enum, expected a value without a !tag",
        ),
        (
            "model:\n  ? [1]\n  : 2\n",
            "a.yaml:2: is not valid YAML: model: invalid type: sequence, expected a word as the key",
        ),
        ("model: *nowhere\n", "a.yaml:1: is not valid YAML: unknown anchor"),
        (&deep, "a.yaml:1: is nested more than 128 levels deep"),
        (&deep_block, "a.yaml:129: is nested more than 128 levels deep"),
        (&bomb, "a.yaml: aliases (*name) multiply this to more than 100 times its length"),
    ] {
        assert_eq!(error(text, &[]), message, "{:?}", &text[..text.len().min(60)]);
    }
}

#[test]
fn interpolations_cannot_explode() {
    // Keys below `model.peft` are not looked at, but resolved they are.
    let mut doubling = format!("{TINY}  peft:\n");
    for level in 0..40 {
        doubling += &format!("    p{level}: ${{.p{}}}${{.p{}}}\n", level + 1, level + 1);
    }
    let message = "its interpolations are nested too deep or multiply too far";
    assert_eq!(error(&format!("{doubling}    p40: x\n"), &[]), format!("a.yaml:7: model.peft.p0: {message}"));
    let mut chain = format!("{TINY}  peft:\n    p10000: x\n");
    for level in 0..10_000 {
        chain += &format!("    p{level}: ${{.p{}}}\n", level + 1);
    }
    assert_eq!(error(&chain, &[]), format!("a.yaml:8: model.peft.p0: {message}"));
    let many = "${model.seed}".repeat(80_000);
    assert_eq!(
        tiny_error(&format!("  seed: 12\n  data: {{image_folder: \"{many}\"}}")),
        "a.yaml:7: model.data.image_folder: its interpolations make a text of more than 64 KiB"
    );
    let nested = format!("{}1{}", "${".repeat(5_000), "}".repeat(5_000));
    assert_eq!(
        tiny_error(&format!("  seed: \"{nested}\"")),
        "a.yaml:6: model.seed: its interpolations are nested too deep"
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let directory = std::env::temp_dir().join(format!("neva-config-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let load = |path: &Path| Config::load(path, &[]).unwrap_err().to_string();

    let missing = directory.join("missing.yaml");
    assert_eq!(load(&missing), format!("{}: No such file or directory (os error 2)", missing.display()));
    assert_eq!(load(&directory), format!("{}: Is a directory (os error 21)", directory.display()));
    let latin = directory.join("latin.yaml");
    std::fs::write(&latin, b"model:\n  # caf\xe9\n").unwrap();
    let message = "is not UTF-8 text from line 2 on; expected a configuration in YAML";
    assert_eq!(load(&latin), format!("{}: {message}", latin.display()));
    let long = directory.join("long.yaml");
    std::fs::write(&long, vec![b'#'; (1 << 20) + 1]).unwrap();
    let message = "is longer than 1 MiB; expected a configuration in YAML";
    assert_eq!(load(&long), format!("{}: {message}", long.display()));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn later_errors_know_the_place_of_a_key() {
    let config = parse(TINY, &["model.seed=3"]);
    let place = |key: &str| config.error(key, "no").to_string();
    assert_eq!(place("model.hidden_size"), "a.yaml:3: model.hidden_size: no");
    assert_eq!(place("model.seed"), "command line: model.seed: no");
    assert_eq!(place("model.optim.lr"), "a.yaml: model.optim.lr: no");
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
        let mut bytes = include_bytes!("../configs/neva_llama2_7b_pretrain.yaml").to_vec();
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = to }
        let text = String::from_utf8_lossy(&bytes);
        let _ = Config::parse("a.yaml", &text, &[]);
    }
}
