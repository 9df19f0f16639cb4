//! What a step asks of the GPU: it waits as often as the design says, and runs the ops that the CPU runs, so nothing of it
//! is computed on the host.
#![allow(clippy::unwrap_used)]

mod simulated;
mod tiny;
mod tiny_model;

use engine::{AdamW, AdamWConfig, DType, Device, Event, backward};
use neva::model::{Model, NewRows, Trainable};
use simulated::{simulated, simulator, text};
use std::path::Path;
use std::process::Command;
use std::{env, fs};
use tiny::{data, scratch, yaml};
use tiny_model::{ALL, PHASE_1, PHASE_2, llama, mixed, model, nvgpt};

/// Calls of a command that waited for the device.
fn waits(arguments: &[String]) -> Option<u64> {
    let output = Command::new(env!("CARGO_BIN_EXE_neva"))
        .args(arguments)
        .env_remove("NEVA_KERNEL_DIR")
        .envs(simulator()?.environment())
        .env("NEVA_SIM", "waits=1")
        .output()
        .unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{arguments:?}: {text}");
    let line = text.lines().rev().find(|line| line.starts_with("waits=")).unwrap_or_else(|| panic!("{text}"));
    Some(line.strip_prefix("waits=").unwrap().parse().unwrap())
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
