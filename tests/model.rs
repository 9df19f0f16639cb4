//! The whole model, tiny: gradients against finite differences in f64, what frozen parts cost, what memory a plan
//! predicts, and that a row's result depends on its own sequence alone.
#![allow(clippy::unwrap_used)]

mod tiny_model;

use engine::{AdamW, AdamWConfig, Buffer, DType, Device, Param, Pass, Role, Tensor, backward};
use kernels::random::Random;
use neva::model::config::Mlp;
use neva::model::{Batch, IGNORE, Model, NewRows, Trainable};
use tiny_model::{ALL, PHASE_1, PHASE_2, batch, llama, mixed, model, nvgpt};

fn loss(device: &Device, model: &Model, batch: &Batch) -> f64 {
    let _no_grad = device.no_grad();
    model.loss(device, batch, Some(11)).unwrap().item().unwrap()
}

#[test]
fn every_parameter_has_the_gradient_that_finite_differences_give() {
    for config in [llama(), nvgpt()] {
        let device = Device::cpu_poisoned();
        let model = model(&device, DType::F64, &config, ALL);
        let batch = mixed(&config);
        backward(model.loss(&device, &batch, Some(11)).unwrap(), 1.0, &mut |_| Ok(())).unwrap();
        let mut random = Random::new(9, 0);
        let mut checked = 0;
        for param in model.params() {
            let Some(grad) = param.grad() else {
                // Behind the selected hidden state: never run.
                let (name, used) = (param.name(), config.vision.layers_used());
                let behind =
                    name.starts_with(&format!("vision.layers.{used}.")) || name.contains("post_norm");
                assert!(behind, "{name} has no gradient");
                continue;
            };
            let start = param.value().to_f64().unwrap();
            let direction: Vec<f64> = start.iter().map(|_| random.normal()).collect();
            let analytic: f64 = grad.to_f64().unwrap().iter().zip(&direction).map(|(g, d)| g * d).sum();
            const H: f64 = 1e-6;
            let moved = |sign: f64| {
                let at: Vec<f64> = start.iter().zip(&direction).map(|(x, d)| x + sign * H * d).collect();
                set(&device, param, &at);
                loss(&device, &model, &batch)
            };
            let numeric = (moved(1.0) - moved(-1.0)) / (2.0 * H);
            set(&device, param, &start);
            let error = (analytic - numeric).abs() / numeric.abs().max(1e-3);
            assert!(error < 1e-6, "{}: {analytic} against {numeric}", param.name());
            checked += 1;
        }
        println!("{checked} parameters");
        assert!(checked > 30);
    }
}

fn set(device: &Device, param: &Param, values: &[f64]) {
    param.set_value(Buffer::from_f64(device, param.spec(), values, Role::Weight).unwrap());
}

#[test]
fn phase_1_launches_no_weight_gradient_of_the_llm_and_no_backward_of_the_tower() {
    let config = llama();
    let device = Device::cpu();
    let model = model(&device, DType::F32, &config, PHASE_1);
    device.start_trace();
    let loss = model.loss(&device, &mixed(&config), None).unwrap();
    backward(loss, 1.0, &mut |_| Ok(())).unwrap();
    let trace = device.take_trace().unwrap();
    let backwards: Vec<_> = trace.iter().filter(|e| matches!(e.pass, Pass::Backward(_))).collect();
    assert!(backwards.iter().any(|e| e.scope.starts_with("llm")));
    for event in backwards {
        assert!(!event.scope.starts_with("vision"), "{event:?}");
        if event.op == "gemm" && event.scope.starts_with("llm") {
            assert_eq!(event.pass, Pass::Backward(0b1), "only the input's gradient: {event:?}");
        }
    }
    for param in model.params() {
        assert_eq!(param.grad().is_some(), param.name().starts_with("projector."), "{}", param.name());
    }
}

#[test]
fn rows_without_a_label_end_at_the_last_attention_and_no_gradient_changes() {
    for config in [llama(), nvgpt()] {
        let device = Device::cpu();
        let model = model(&device, DType::F64, &config, ALL);
        let batch = mixed(&config);
        let gradients = |loss: Tensor| {
            backward(loss, 1.0, &mut |_| Ok(())).unwrap();
            let gradients: Vec<f64> = model
                .params()
                .iter()
                .filter_map(|p| p.take_grad())
                .flat_map(|g| g.to_f64().unwrap())
                .collect();
            gradients
        };
        device.start_trace();
        let loss = model.loss(&device, &batch, None).unwrap();
        let last = format!("llm.{}", config.llm.layers - 1);
        let trace = device.take_trace().unwrap();
        let flops = trace.iter().filter(|e| e.op == "gemm" && *e.scope == last).map(|e| e.flops);
        let flops: Vec<u64> = flops.collect();
        let c = &config.llm;
        let product =
            |rows: usize, from: usize, to: usize| (rows * to * (2 * from + usize::from(c.bias))) as u64;
        let up = if matches!(c.mlp, Mlp::Gated(_)) { 2 * c.ffn_size } else { c.ffn_size };
        let labelled = batch.supervised();
        assert!(labelled < batch.ids.len() / 2);
        let wanted = [
            product(batch.ids.len(), c.hidden_size, c.qkv_size()),
            product(labelled, c.heads * c.head_dim, c.hidden_size),
            product(labelled, c.hidden_size, up),
            product(labelled, c.ffn_size, c.hidden_size),
        ];
        assert_eq!(flops, wanted);
        let value = loss.item().unwrap();
        let got = gradients(loss);

        // The same loss of logits of all rows: those without a label weigh nothing.
        let logits = model.logits(&device, &batch).unwrap();
        let labels: Vec<u32> = batch.labels.iter().map(|&l| if l == IGNORE { 0 } else { l }).collect();
        let weight = |(&label, &weight): (&u32, &f32)| if label == IGNORE { 0.0 } else { f64::from(weight) };
        let weights: Vec<f64> = batch.labels.iter().zip(&batch.weights).map(weight).collect();
        let n = labels.len();
        let labels = Tensor::from_slice(&device, [n], &labels).unwrap();
        let weights = Tensor::from_slice(&device, [n], &weights).unwrap();
        let whole = logits.cross_entropy(&labels, &weights).unwrap();
        assert!((whole.item().unwrap() - value).abs() < 1e-12 * value.abs());
        let want = gradients(whole);
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < 1e-11 * (1.0 + want.abs()), "{got}, not {want}");
        }
    }
}

#[test]
fn a_text_only_batch_records_nothing_in_phase_1() {
    let config = llama();
    let device = Device::cpu();
    let model = model(&device, DType::F32, &config, PHASE_1);
    let loss = model.loss(&device, &batch(&config, &[(6, false)]), None).unwrap();
    assert!(!loss.requires_grad());
}

fn optimizer(model: &Model) -> AdamW {
    let config =
        AdamWConfig { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, decay_all: false, clip: 1.0 };
    AdamW::new(config, model.params())
}

#[test]
fn a_plan_predicts_live_and_peak_bytes_to_the_byte() {
    for dtype in [DType::F32, DType::Bf16] {
        for trainable in [PHASE_1, PHASE_2, ALL] {
            for config in [llama(), nvgpt()] {
                let bytes = |device: Device| {
                    let model = model(&device, dtype, &config, trainable);
                    let mut optimizer = optimizer(&model);
                    let mut seen = vec![];
                    for _ in 0..2 {
                        for micro in [mixed(&config), batch(&config, &[(9, true)])] {
                            let loss = model.loss(&device, &micro, Some(3)).unwrap();
                            seen.push(device.live_bytes(Role::Activation));
                            backward(loss, 1.0, &mut |_| Ok(())).unwrap();
                        }
                        optimizer.step(1e-3).unwrap();
                        seen.push(device.peak_bytes());
                        seen.extend(Role::ALL.map(|role| device.live_bytes(role)));
                        seen.extend(Role::ALL.map(|role| device.peak_bytes_of(role)));
                    }
                    seen
                };
                assert_eq!(bytes(Device::plan()), bytes(Device::cpu()), "{dtype} {trainable:?}");
            }
        }
    }
}

#[test]
fn a_training_step_leaves_no_activation_behind() {
    let config = llama();
    let device = Device::cpu();
    let model = model(&device, DType::Bf16, &config, ALL);
    let mut optimizer = optimizer(&model);
    let loss = model.loss(&device, &mixed(&config), None).unwrap();
    backward(loss, 1.0, &mut |_| Ok(())).unwrap();
    optimizer.step(1e-3).unwrap();
    assert_eq!(device.live_bytes(Role::Activation), 0);
    assert_eq!(device.live_bytes(Role::Gradient), 0);
    assert_eq!(device.live_bytes(Role::Workspace), 0);
}

#[test]
fn the_loss_falls() {
    for (config, dtype) in [(llama(), DType::F32), (nvgpt(), DType::Bf16)] {
        let device = Device::cpu();
        let model = model(&device, dtype, &config, ALL);
        let batch = mixed(&config);
        let mut optimizer = optimizer(&model);
        let before = loss(&device, &model, &batch);
        for _ in 0..40 {
            let loss = model.loss(&device, &batch, None).unwrap();
            backward(loss, 1.0, &mut |_| Ok(())).unwrap();
            optimizer.step(5e-3).unwrap();
        }
        let after = loss(&device, &model, &batch);
        assert!(after < 0.3 * before, "{dtype}: {before} to {after}");
    }
}

#[test]
fn a_pack_gives_each_sequence_the_logits_it_gets_alone_bit_for_bit() {
    for dtype in [DType::F32, DType::Bf16] {
        for config in [llama(), nvgpt()] {
            let device = Device::cpu();
            let model = model(&device, dtype, &config, Trainable::NONE);
            let pack = batch(&config, &[(5, true), (7, false), (3, true)]);
            let together = model.logits(&device, &pack).unwrap().to_f64().unwrap();
            let vocab = config.llm.vocab_size;
            let pixels = pack.pixels.len() / pack.images;
            let mut image = 0;
            for s in 0..3 {
                let rows = pack.cu_seqlens[s] as usize..pack.cu_seqlens[s + 1] as usize;
                let has = pack.image_rows.iter().any(|r| rows.contains(&(*r as usize)));
                let alone = Batch {
                    ids: pack.ids[rows.clone()].to_vec(),
                    positions: pack.positions[rows.clone()].to_vec(),
                    cu_seqlens: vec![0, rows.len() as u32],
                    labels: pack.labels[rows.clone()].to_vec(),
                    weights: pack.weights[rows.clone()].to_vec(),
                    keys: pack.keys[rows.clone()].to_vec(),
                    image_rows: pack
                        .image_rows
                        .iter()
                        .filter(|r| rows.contains(&(**r as usize)))
                        .map(|r| r - rows.start as u32)
                        .collect(),
                    pixels: if has {
                        pack.pixels[image * pixels..(image + 1) * pixels].to_vec()
                    } else {
                        vec![]
                    },
                    images: has as usize,
                };
                image += has as usize;
                let got = model.logits(&device, &alone).unwrap().to_f64().unwrap();
                assert_eq!(got, together[rows.start * vocab..rows.end * vocab], "{dtype} sequence {s}");
            }
        }
    }
}

#[test]
fn the_cache_gives_the_logits_of_the_whole_sequence_bit_for_bit() {
    for dtype in [DType::F32, DType::Bf16] {
        for config in [llama(), nvgpt()] {
            let device = Device::cpu();
            let model = model(&device, dtype, &config, Trainable::NONE);
            let whole = batch(&config, &[(9, true)]);
            let expected = model.logits(&device, &whole).unwrap().to_f64().unwrap();
            let vocab = config.llm.vocab_size;
            // The prompt at once into slot 1, then row by row, while slot 0 holds another sequence.
            let prompt = config.vision.feature_rows() + 3;
            let mut cache = model.cache(&device, 2, 32).unwrap();
            let other = NewRows {
                ids: vec![5, 6, 7],
                slots: vec![0; 3],
                positions: vec![0, 1, 2],
                ..NewRows::default()
            };
            model.extend(&device, &mut cache, &other, &[2]).unwrap();
            let n = whole.ids.len();
            let features = model.encode_images(&device, &whole.pixels, 1).unwrap();
            let mut got = vec![];
            for (from, to) in std::iter::once((0, prompt)).chain((prompt..n).map(|i| (i, i + 1))) {
                let first = from == 0;
                let rows = NewRows {
                    ids: whole.ids[from..to].to_vec(),
                    slots: vec![1; to - from],
                    positions: (from as u32..to as u32).collect(),
                    features: first.then(|| features.clone()),
                    image_rows: if first { whole.image_rows.clone() } else { vec![] },
                };
                let wanted: Vec<u32> = (0..(to - from) as u32).collect();
                got.extend(model.extend(&device, &mut cache, &rows, &wanted).unwrap().to_f64().unwrap());
            }
            assert_eq!(got.len(), n * vocab);
            assert_eq!(got, expected, "{dtype}");
        }
    }
}
