//! The exact text of every error of the configuration: place, key, and what was expected.

use std::path::Path;

use neva::config::Config;

use super::{TINY, parse, words};

fn error(text: &str, overrides: &[&str]) -> String {
    Config::parse("a.yaml", text, &words(overrides)).unwrap_err().to_string()
}

/// The error of `TINY` with more YAML behind it, which starts on line 6 and inside `model`.
fn tiny_error(more: &str) -> String {
    error(&format!("{TINY}{more}\n"), &[])
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
        ("trainer: {accelerator: tpu}", "trainer.accelerator: expected auto or cpu or gpu, got \"tpu\""),
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
            vec!["model.hidden_size=1024", "model.num_attention_heads=2"],
            "model.kv_channels: a head is 512 wide; expected a multiple of 8, at most 256",
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
    let deep = format!("model: {}1{}", "[".repeat(1_000), "]".repeat(1_000));
    let deeper = format!("model: {}", "[".repeat(500_000));
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
        (&deeper, "a.yaml: opens more than 1000 brackets without closing them"),
        (&deep_block, "a.yaml:129: is nested more than 128 levels deep"),
        (&bomb, "a.yaml:3: aliases (*name) multiply this too far"),
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
    let nested = format!("{}1{}", "${".repeat(900), "}".repeat(900));
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
    assert_eq!(load(&missing), format!("{}: no such file or directory", missing.display()));
    assert_eq!(load(&directory), format!("{}: is a directory, expected a file", directory.display()));
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
