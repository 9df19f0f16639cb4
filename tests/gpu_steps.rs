//! What a step asks of the GPU: it waits as often as the design says, and runs the ops that the CPU runs, so nothing of it
//! is computed on the host.
#![allow(clippy::unwrap_used)]

mod simulated;
mod tiny;
mod tiny_model;

use engine::{AdamW, AdamWConfig, DType, Device, Event, Tensor, backward};
use kernels::random::{Random, derive};
use neva::config::Config;
use neva::model::{Model, NewRows, Trainable};
use neva::sampling::{Logits, Sampling};
use neva::train;
use simulated::{simulated, simulator, text};
use std::path::Path;
use std::process::Command;
use std::{env, fs};
use tiny::{data, scratch, yaml};
use tiny_model::{ALL, PHASE_1, PHASE_2, llama, mixed, model, nvgpt};

/// Calls of a command that waited for the device, and bytes that it took from there.
fn counted(arguments: &[String]) -> Option<[u64; 2]> {
    let output = Command::new(env!("CARGO_BIN_EXE_neva"))
        .args(arguments)
        .env_remove("NEVA_KERNEL_DIR")
        .envs(simulator()?.environment())
        .env("NEVA_SIM", "waits=1")
        .output()
        .unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{arguments:?}: {text}");
    let number = |key: &str| text.lines().rev().find_map(|line| line.strip_prefix(key)?.parse().ok());
    Some(["waits=", "downloaded="].map(|key| number(key).unwrap_or_else(|| panic!("{text}"))))
}

fn waits(arguments: &[String]) -> Option<u64> {
    Some(counted(arguments)?[0])
}

/// Once for the norm of the gradients, when all of the step has been asked for. The losses, one per micro-batch, are read
/// behind that, when nothing is left to wait for but the copies themselves.
#[test]
fn a_training_step_waits_for_the_norm_and_then_reads_its_losses() {
    let dir = scratch("gpu-waits");
    data(&dir);
    let recipe = dir.join("recipe.yaml");
    fs::write(&recipe, yaml(&dir)).unwrap();
    for (name, phase) in [("1", "model.mm_cfg.llm.freeze=true"), ("2", "model.mm_cfg.llm.freeze=false")] {
        for micro in [2, 6] {
            let train = |steps: u64| {
                let _ = fs::remove_dir_all(dir.join("run"));
                waits(&[
                    "train".into(),
                    recipe.to_str().unwrap().into(),
                    format!("exp_manager.explicit_log_dir={}", dir.join("run").display()),
                    format!("trainer.max_steps={steps}"),
                    "trainer.val_check_interval=100".into(),
                    "trainer.precision=bf16".into(),
                    format!("model.micro_batch_size={micro}"),
                    phase.into(),
                    "--device".into(),
                    "cuda".into(),
                ])
            };
            // The first run waits more often: it measures algorithms for its products, and the choice is kept.
            let Some(_) = train(5) else { return };
            let [few, many] = [2, 5].map(|steps| train(steps).unwrap());
            let micro_batches = 6 / micro;
            assert_eq!(many - few, 3 * (1 + micro_batches), "phase {name}, {micro_batches} micro-batches");
        }
    }
}

/// Four bytes a token where the likeliest is taken, eight for each of the k likeliest where one of them is drawn; all
/// logits where a token may be any.
#[test]
fn only_what_decides_leaves_the_gpu() {
    let dir = scratch("gpu-downloads");
    data(&dir);
    let log = format!("exp_manager.explicit_log_dir={}", dir.join("run").display());
    let overrides = [log, "trainer.max_steps=2".into(), "trainer.accelerator=cpu".into()];
    let trained =
        train::run(&Config::parse("test.yaml", &yaml(&dir), &overrides).unwrap(), &|_| false).unwrap();
    let model = trained.checkpoint.to_str().unwrap();
    let bytes = |more: &[&str]| {
        let fixed = ["generate", "--device", "cuda", "--dtype", "f32", "--max-new-tokens", "5", "--raw"];
        let prompt = ["--prompt", "Which colour?", "--model", model];
        let arguments: Vec<String> = fixed.iter().chain(&prompt).chain(more).map(|a| a.to_string()).collect();
        Some(counted(&arguments)?[1])
    };
    let tokens = |downloaded: u64, each: u64| {
        assert!(downloaded.is_multiple_of(each), "{downloaded} bytes are not {each} a token");
        assert!((2..=5).contains(&(downloaded / each)), "{downloaded} bytes, {each} a token");
    };
    let config = fs::read_to_string(trained.checkpoint.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let vocabulary = config["text_config"]["vocab_size"].as_u64().unwrap();
    let Some(greedy) = bytes(&[]) else { return };
    tokens(greedy, 4);
    tokens(bytes(&["--temperature", "1", "--top-k", "7"]).unwrap(), 7 * 8);
    tokens(bytes(&["--temperature", "1", "--top-k", "7", "--top-p", "0.9"]).unwrap(), 7 * 8);
    tokens(bytes(&["--temperature", "1", "--top-p", "0.9"]).unwrap(), 4 * vocabulary);
    tokens(bytes(&["--repetition-penalty", "1.2"]).unwrap(), 4 * vocabulary);
}

/// The choice that the host makes when it has all logits, written down once more, step by step.
fn choice(logits: &[f32], seen: &[u32], sampling: &Sampling, random: &mut Random) -> u32 {
    let mut logits: Vec<f64> = logits.iter().map(|l| f64::from(*l)).collect();
    let penalty = sampling.repetition_penalty as f32;
    for (_, l) in logits.iter_mut().enumerate().filter(|(id, _)| seen.contains(&(*id as u32))) {
        let narrow = *l as f32;
        *l = f64::from(if narrow > 0.0 { narrow / penalty } else { narrow * penalty });
    }
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|a, b| logits[*b].partial_cmp(&logits[*a]).unwrap().then(a.cmp(b)));
    if sampling.temperature == 0.0 {
        return ids[0] as u32;
    }
    if sampling.top_k > 0 {
        ids.truncate(sampling.top_k);
    }
    let weights: Vec<f64> =
        ids.iter().map(|id| ((logits[*id] - logits[ids[0]]) / sampling.temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let before = |n: usize| weights[..n].iter().sum::<f64>();
    let kept = (1..ids.len()).find(|n| before(*n) >= sampling.top_p * total).unwrap_or(ids.len());
    let mut left = random.uniform() * before(kept);
    for n in 0..kept {
        left -= weights[n];
        if left < 0.0 {
            return ids[n] as u32;
        }
    }
    ids[kept - 1] as u32
}

#[test]
fn the_device_chooses_the_tokens_that_the_host_would() {
    simulated(&[&[]], || {
        const ROWS: usize = 3;
        const PIECES: usize = 597;
        const VOCABULARY: usize = 600;
        // Of two hundred values some are equal; what no piece has, is the largest.
        let logit = |i: usize| match i % VOCABULARY {
            column if column < PIECES => (derive(1, &[i as u64]) % 200) as f32 / 16.0 - 6.0,
            _ => 50.0,
        };
        let logits: Vec<f32> = (0..ROWS * VOCABULARY).map(logit).collect();
        let seen = [3, 5, 5, 100, 599, 17];
        let mut settings = vec![];
        for temperature in [0.0, 0.7, 2.0] {
            for top_k in [0, 1, 7, 256, 257, 1000] {
                for top_p in [1.0, 0.8, 1e-3] {
                    for repetition_penalty in [1.0, 1.5] {
                        let base = Sampling::default();
                        settings.push(Sampling { temperature, top_k, top_p, repetition_penalty, ..base });
                    }
                }
            }
        }
        for device in [Device::cpu(), Device::gpu(0).unwrap()] {
            for dtype in [DType::F32, DType::Bf16] {
                let tensor = Tensor::from_f32(&device, dtype, [ROWS, VOCABULARY], &logits).unwrap();
                for sampling in &settings {
                    let read = Logits::read(&tensor, PIECES, sampling).unwrap();
                    let [mut ours, mut theirs] = [Random::new(9, 0), Random::new(9, 0)];
                    for row in 0..8 * ROWS {
                        let row = row % ROWS;
                        let pieces = &logits[row * VOCABULARY..][..PIECES];
                        let token = read.choose(row, &seen, sampling, &mut ours);
                        assert_eq!(
                            token,
                            choice(pieces, &seen, sampling, &mut theirs),
                            "{dtype} {sampling:?}"
                        );
                    }
                    assert_eq!(ours.uniform(), theirs.uniform(), "as many draws");
                }
            }
        }
    });
}

/// The ops of a training step, of a prefill and of three tokens, in order.
fn ops(device: &Device, dtype: DType, train: Trainable, config: &neva::model::ModelConfig) -> Vec<String> {
    let network = model(device, dtype, config, train);
    let settings =
        AdamWConfig { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, decay_all: false, clip: 1.0 };
    let mut optimizer = AdamW::new(settings, network.params());
    device.start_trace();
    let loss = network.loss(device, &mixed(config), Some(3)).unwrap();
    backward(loss, 1.0, &mut |_| Ok(())).unwrap();
    optimizer.step(1e-3).unwrap();
    generate(device, &network, config);
    let named = |e: &Event| format!("{} {:?} in {}", e.op, e.pass, e.scope);
    device.take_trace().unwrap().iter().map(named).collect()
}

fn generate(device: &Device, network: &Model, config: &neva::model::ModelConfig) {
    let _no_grad = device.no_grad();
    let batch = mixed(config);
    let prompt = batch.cu_seqlens[1] as usize;
    let mut cache = network.cache(device, 1, prompt + 3).unwrap();
    let mut rows = NewRows {
        ids: batch.ids[..prompt].to_vec(),
        slots: vec![0; prompt],
        positions: (0..prompt as u32).collect(),
        features: Some(network.encode_images(device, &batch.pixels[..batch.pixels.len() / 2], 1).unwrap()),
        image_rows: batch.image_rows.iter().copied().filter(|r| (*r as usize) < prompt).collect(),
    };
    for position in prompt as u32..prompt as u32 + 3 {
        let last = rows.ids.len() as u32 - 1;
        network.extend(device, &mut cache, &rows, &[last]).unwrap().to_f64().unwrap();
        rows = NewRows { ids: vec![5], slots: vec![0], positions: vec![position], ..NewRows::default() };
    }
}

/// The device of a trace runs each op that is in it; what it cannot do is an error, not done elsewhere. So that every op
/// of the CPU's trace is in the GPU's says that nothing was left to the host.
#[test]
fn a_step_and_a_generation_run_every_op_on_the_gpu() {
    simulated(&[&[]], || {
        let (cpu, gpu) = (Device::cpu(), Device::gpu(0).unwrap());
        for config in [llama(), nvgpt()] {
            for train in [PHASE_1, PHASE_2, ALL] {
                for dtype in [DType::F32, DType::Bf16] {
                    let (host, card) = (ops(&cpu, dtype, train, &config), ops(&gpu, dtype, train, &config));
                    assert_eq!(host, card, "{dtype} {train:?}");
                    assert!(host.iter().any(|op| op.starts_with("cached_attention")), "{host:?}");
                    assert!(host.iter().any(|op| op.starts_with("adamw Update")), "{host:?}");
                }
            }
        }
    });
}

/// The `.cu` and `.cuh` files of the kernels, with a line put before the first one that holds `from`.
fn damaged(name: &str, file: &str, from: &str, to: &str) -> (std::path::PathBuf, usize) {
    let target = scratch(name);
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut folders = vec![kernels.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let inside = path.strip_prefix(&kernels).unwrap();
            if path.is_dir() {
                folders.push(path.clone());
            } else if path.extension().is_some_and(|e| e == "cu" || e == "cuh" || e == "yaml") {
                fs::create_dir_all(target.join(inside).parent().unwrap()).unwrap();
                fs::copy(&path, target.join(inside)).unwrap();
            }
        }
    }
    let text = fs::read_to_string(target.join(file)).unwrap();
    let line = 1 + text.lines().position(|line| line.contains(from)).unwrap();
    fs::write(target.join(file), text.replacen(from, to, 1)).unwrap();
    (target, line)
}

#[test]
fn a_kernel_that_does_not_compile_fails_with_the_compilers_words_and_line() {
    let dir = scratch("gpu-damaged-data");
    data(&dir);
    let recipe = dir.join("recipe.yaml");
    fs::write(&recipe, yaml(&dir)).unwrap();
    let log = format!("exp_manager.explicit_log_dir={}", dir.join("run").display());
    let step = ["bench", "step", "--device", "cuda", "--steps", "1", "--image", "16", "--text", "4"];
    for (name, file, from) in [
        ("gpu-damaged-cu", "rms_norm/rms_norm.cu", "#include"),
        ("gpu-damaged-cuh", "cuda/rms_norm.cuh", "template"),
    ] {
        let Some(simulator) = simulator() else { return };
        let (kernels, line) = damaged(name, file, from, &format!("undeclared_name x;\n{from}"));
        let commands: [&[&str]; 4] = [
            &["kernels", "check", "rms_norm", "--device", "cuda"],
            &["kernels", "bench", "rms_norm", "--device", "cuda", "--smoke"],
            &step,
            &["train", recipe.to_str().unwrap(), &log, "--device", "cuda"],
        ];
        for arguments in commands {
            let output = Command::new(env!("CARGO_BIN_EXE_neva"))
                .args(arguments)
                .envs(simulator.environment())
                .env("NEVA_KERNEL_DIR", &kernels)
                .output()
                .unwrap();
            let text = text(&output);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
            let place = format!("{}:{line}:", file.rsplit('/').next().unwrap());
            assert!(
                text.contains(&place) && text.contains("undeclared_name"),
                "{arguments:?}: {place}: {text}"
            );
        }
    }
}
