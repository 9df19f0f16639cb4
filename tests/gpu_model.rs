//! A whole model on the simulated GPU: a training step and its gradients, optimiser and generation, against the CPU.
#![allow(clippy::unwrap_used)]

mod simulated;
mod tiny_model;

use engine::{AdamW, AdamWConfig, Buffer, DType, Device, Param, Role, backward};
use neva::model::{Batch, Model, ModelConfig, NewRows, Trainable};
use simulated::simulated;
use tiny_model::{PHASE_1, PHASE_2, llama, mixed, model, nvgpt};

/// What a training step computes: the loss, and every gradient by name.
struct Step {
    loss: f64,
    grads: Vec<(String, Vec<f64>)>,
}

fn step(device: &Device, model: &Model, batch: &Batch) -> Step {
    let loss = model.loss(device, batch, Some(11)).unwrap();
    let value = loss.item().unwrap();
    backward(loss, 1.0, &mut |_| Ok(())).unwrap();
    let grad = |p: &&Param| Some((p.name().to_string(), p.take_grad()?.to_f64().unwrap()));
    Step { loss: value, grads: model.params().iter().filter_map(grad).collect() }
}

/// The step of a model in f64 whose weights are those of `like`, rounded as they are there.
fn exact(config: &ModelConfig, trainable: Trainable, like: &Model, batch: &Batch) -> Step {
    let device = Device::cpu();
    let exact = model(&device, DType::F64, config, trainable);
    for (param, rounded) in exact.params().iter().zip(like.params()) {
        let values = rounded.value().to_f64().unwrap();
        param.set_value(Buffer::from_f64(&device, param.spec(), &values, Role::Weight).unwrap());
    }
    step(&device, &exact, batch)
}

/// The root of the mean square of the differences.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    (a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / a.len() as f64).sqrt()
}

/// The GPU may be twice as far from the exact value as the CPU is in the same precision, plus one rounding step: of a
/// single number, such as the loss, the CPU's error may by luck be next to nothing.
#[test]
fn a_training_step_is_as_close_to_the_exact_one_as_the_cpus() {
    simulated(&[&[("NEVA_SIM", "schedule=random:3")]], || {
        for (config, trainable) in [(llama(), PHASE_2), (llama(), PHASE_1), (nvgpt(), PHASE_2)] {
            for dtype in [DType::F32, DType::Bf16] {
                let rounding = if dtype == DType::Bf16 { 2f64.powi(-8) } else { 2f64.powi(-24) };
                let batch = mixed(&config);
                let (cpu, gpu) = (Device::cpu(), Device::gpu_poisoned(0).unwrap());
                let on_cpu = model(&cpu, dtype, &config, trainable);
                let expected = exact(&config, trainable, &on_cpu, &batch);
                let host = step(&cpu, &on_cpu, &batch);
                let card = step(&gpu, &model(&gpu, dtype, &config, trainable), &batch);
                let close = |name: &str, want: &[f64], host: &[f64], card: &[f64]| {
                    let size = distance(want, &vec![0.0; want.len()]);
                    let allowed = 2.0 * distance(host, want) + rounding * size;
                    let error = distance(card, want);
                    assert!(error <= allowed, "{dtype} {name}: {error:e}, allowed are {allowed:e}");
                };
                close("loss", &[expected.loss], &[host.loss], &[card.loss]);
                assert_eq!(card.grads.len(), host.grads.len());
                assert!(!card.grads.is_empty());
                for ((want, host), card) in expected.grads.iter().zip(&host.grads).zip(&card.grads) {
                    assert_eq!((&want.0, &want.0), (&host.0, &card.0));
                    close(&want.0, &want.1, &host.1, &card.1);
                }
            }
        }
    });
}

#[test]
fn the_loss_falls_as_on_the_cpu() {
    fn losses(device: &Device) -> Vec<f64> {
        let config = llama();
        let model = model(device, DType::F32, &config, PHASE_2);
        let settings =
            AdamWConfig { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, decay_all: false, clip: 1.0 };
        let mut optimizer = AdamW::new(settings, model.params());
        let batch = mixed(&config);
        let mut step = |_| {
            let loss = model.loss(device, &batch, None).unwrap();
            let value = loss.item().unwrap();
            backward(loss, 1.0, &mut |_| Ok(())).unwrap();
            optimizer.step(5e-3).unwrap();
            value
        };
        (0..8).map(&mut step).collect()
    }
    simulated(&[&[]], || {
        let (host, card) = (losses(&Device::cpu()), losses(&Device::gpu(0).unwrap()));
        assert!(card[7] < 0.8 * card[0], "{card:?}");
        for (a, b) in host.iter().zip(&card) {
            assert!((a - b).abs() < 1e-4 * a.abs(), "{host:?} and {card:?}");
        }
    });
}

#[test]
fn greedy_generation_in_f32_gives_the_tokens_of_the_cpu() {
    fn tokens(device: &Device, config: &ModelConfig) -> Vec<u32> {
        let model = model(device, DType::F32, config, Trainable::NONE);
        let batch = mixed(config);
        let prompt = batch.cu_seqlens[1] as usize;
        let mut cache = model.cache(device, 1, prompt + 12).unwrap();
        let mut rows = NewRows {
            ids: batch.ids[..prompt].to_vec(),
            slots: vec![0; prompt],
            positions: (0..prompt as u32).collect(),
            features: Some(model.encode_images(device, &batch.pixels[..batch.pixels.len() / 2], 1).unwrap()),
            image_rows: batch.image_rows.iter().copied().filter(|r| (*r as usize) < prompt).collect(),
        };
        let mut all = vec![];
        for position in prompt as u32..prompt as u32 + 12 {
            let last = rows.ids.len() as u32 - 1;
            let logits = model.extend(device, &mut cache, &rows, &[last]).unwrap().to_f64().unwrap();
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
            all.push(best);
            rows =
                NewRows { ids: vec![best], slots: vec![0], positions: vec![position], ..NewRows::default() };
        }
        all
    }
    simulated(&[&[]], || {
        for config in [llama(), nvgpt()] {
            assert_eq!(tokens(&Device::gpu(0).unwrap(), &config), tokens(&Device::cpu(), &config));
        }
    });
}
