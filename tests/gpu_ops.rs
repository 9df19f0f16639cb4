//! Ops on the simulated GPU where the catalogue's cases do not reach: contents that point outside, buffers that are not
//! aligned, a whole optimiser step.
#![allow(clippy::unwrap_used)]

mod simulated;

use engine::{AdamW, AdamWConfig, Param, Tensor, backward};
use kernels::adamw::AdamW as Step;
use kernels::cross_entropy::{CrossEntropy, IGNORED};
use kernels::embedding::Embedding;
use kernels::kv_cache::KvAppend;
use kernels::op::Want;
use kernels::splice::Splice;
use kernels::sum_squares::SumSquares;
use kernels::top_k::TopK;
use kernels::{Buffer, DType, Device, Needs, Op, Role, Spec, run};
use simulated::simulated;

/// Races and accesses outside a buffer are errors.
const CHECKED: &[(&str, &str)] = &[("NEVA_SIM", "check=race+bounds")];

/// Numbers without a pattern, from 0 to 1, the same for each seed.
fn numbers(seed: u64, n: usize) -> Vec<f64> {
    (0..n).map(|i| kernels::random::derive(seed, &[i as u64]) as f64 / u64::MAX as f64).collect()
}

fn floats(device: &Device, dtype: DType, dims: &[usize], values: &[f64]) -> Buffer {
    Buffer::from_f64(device, Spec::new(dtype, dims), values, Role::Activation).unwrap()
}

fn u32s(device: &Device, values: &[u32]) -> Buffer {
    Buffer::from_slice(device, [values.len()], values, Role::Activation).unwrap()
}

/// Runs forward and backward with an output gradient of ones: outputs, and the gradients that `needs` names.
fn run_op(op: &dyn Op, ins: Vec<Buffer>, needs: u32) -> (Vec<f64>, Vec<Option<Vec<f64>>>) {
    let specs: Vec<Spec> = ins.iter().map(Buffer::spec).collect();
    let ran = run::forward(op, ins, Needs(needs)).unwrap();
    let out = &ran.outs[0];
    let values = out.to_f64().unwrap();
    if needs == 0 {
        return (values, vec![]);
    }
    let ones = floats(out.device(), out.dtype(), out.dims(), &vec![1.0; values.len()]);
    let want = |i| match Needs(needs).has(i) {
        true => Want::New(specs[i].dtype.acc(), Role::Gradient),
        false => Want::No,
    };
    let wants = (0..specs.len()).map(want).collect();
    let grads = run::backward(op, &"".into(), &specs, ran.saved, vec![Some(ones)], wants).unwrap();
    (values, grads.into_iter().map(|g| g.map(|g| g.to_f64().unwrap())).collect())
}

fn rows(values: &[f64], width: usize) -> Vec<&[f64]> {
    values.chunks(width).collect()
}

fn is_nan(row: &[f64]) -> bool {
    row.iter().all(|v| v.is_nan())
}

#[test]
fn an_id_outside_the_table_gives_a_row_of_nan_and_touches_nothing() {
    simulated(&[CHECKED], || {
        let gpu = Device::gpu_poisoned(0).unwrap();
        for (dtype, width) in [(DType::F32, 8), (DType::Bf16, 8), (DType::F32, 3), (DType::Bf16, 5)] {
            let table = numbers(1, 5 * width).iter().map(|v| (v * 64.0).floor()).collect::<Vec<_>>();
            // The first id that is none is there often enough for the kernel of long buckets.
            let ids = [&[4, 5, 0, u32::MAX, 4][..], &[5; 70]].concat();
            let ins = vec![floats(&gpu, dtype, &[5, width], &table), u32s(&gpu, &ids)];
            let (y, grads) = run_op(&Embedding, ins, 1);
            for (row, &id) in rows(&y, width).iter().zip(&ids) {
                match rows(&table, width).get(id as usize) {
                    Some(expected) => assert_eq!(row, expected),
                    None => assert!(is_nan(row)),
                }
            }
            let count = |id: usize| ids.iter().filter(|other| **other as usize == id).count() as f64;
            let expected: Vec<f64> = (0..5 * width).map(|i| count(i / width)).collect();
            assert_eq!(grads[0].as_ref().unwrap(), &expected);
        }
    });
}

#[test]
fn a_label_outside_the_row_makes_its_row_and_the_loss_nan() {
    simulated(&[CHECKED], || {
        let gpu = Device::gpu_poisoned(0).unwrap();
        for dtype in [DType::F32, DType::Bf16] {
            let logits = || floats(&gpu, dtype, &[3, 9], &numbers(2, 27));
            let w = || floats(&gpu, DType::F32, &[3], &[1.0; 3]);
            let (loss, grads) = run_op(&CrossEntropy, vec![logits(), u32s(&gpu, &[3, 9, IGNORED]), w()], 1);
            assert!(is_nan(&loss));
            let dx = grads[0].as_ref().unwrap();
            let dx = rows(dx, 9);
            assert!(dx[0].iter().sum::<f64>().abs() < 1e-2 && dx[0][3] < 0.0);
            assert!(is_nan(dx[1]));
            assert_eq!(dx[2], [0.0; 9]);
        }
    });
}

/// Bit for bit what the CPU gives, where the values of NaN are among them.
#[test]
fn of_a_row_with_nan_all_values_come_in_the_order_of_the_cpu() {
    simulated(&[CHECKED], || {
        let [cpu, gpu] = [Device::cpu_poisoned(), Device::gpu_poisoned(0).unwrap()];
        let rare = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, 1.0, -f64::NAN];
        let values: Vec<f64> = (0..2 * 200).map(|i| rare[i * i % 31 % 7]).collect();
        for (dtype, k) in [(DType::F32, 200), (DType::Bf16, 200), (DType::F32, 1), (DType::Bf16, 90)] {
            for values in [&values[..], &[f64::NAN; 400]] {
                let of = |device| {
                    let x = floats(device, dtype, &[2, 200], values);
                    let ran = run::forward(&TopK { k, columns: 200 }, vec![x], Needs(0)).unwrap();
                    let bits = |v: &f32| if v.is_nan() { u32::MAX } else { v.to_bits() };
                    let values = ran.outs[0].to_vec::<f32>().unwrap().iter().map(bits).collect::<Vec<_>>();
                    (values, ran.outs[1].to_vec::<u32>().unwrap())
                };
                assert_eq!(of(&gpu), of(&cpu), "{dtype}, {k}");
            }
        }
    });
}

#[test]
fn rows_outside_are_written_nowhere() {
    simulated(&[CHECKED], || {
        let gpu = Device::gpu_poisoned(0).unwrap();
        for width in [4, 3] {
            let (x, features) = (vec![1.0; 3 * width], vec![2.0; 3 * width]);
            let ins = vec![
                floats(&gpu, DType::F32, &[3, width], &x),
                floats(&gpu, DType::F32, &[3, width], &features),
                u32s(&gpu, &[2, 3, u32::MAX]),
            ];
            let (y, grads) = run_op(&Splice, ins, 3);
            assert_eq!(y, [&x[..2 * width], &features[..width]].concat());
            let ones = vec![1.0; width];
            assert_eq!(grads[0].as_ref().unwrap(), &[&ones[..], &ones, &vec![0.0; width]].concat());
            let dfeatures = grads[1].as_ref().unwrap();
            assert_eq!(dfeatures[..width], ones);
            assert!(is_nan(&dfeatures[width..]));

            let append = KvAppend { kv_heads: 1, head_dim: width };
            let cache = floats(&gpu, DType::F32, &[1, 3, 2 * width], &vec![1.0; 6 * width]);
            let qkv = floats(&gpu, DType::F32, &[3, 3 * width], &vec![2.0; 9 * width]);
            let ins = vec![cache, qkv, u32s(&gpu, &[3, 1, u32::MAX])];
            let (cache, _) = run_op(&append, ins, 0);
            let [old, new] = [vec![1.0; 2 * width], vec![2.0; 2 * width]];
            assert_eq!(cache, [&old[..], &new, &old].concat());
        }
    });
}

/// The same values `skip` elements into a larger buffer, whose only holder the view is.
fn shifted(device: &Device, dtype: DType, values: &[f64], skip: usize) -> Buffer {
    let padded = [&vec![0.0; skip], values].concat();
    floats(device, dtype, &[padded.len()], &padded).rows(skip..padded.len())
}

#[test]
fn tensors_that_are_not_aligned_take_the_scalar_path() {
    simulated(&[CHECKED], || {
        let devices = [Device::gpu_poisoned(0).unwrap(), Device::cpu_poisoned()];
        let op = Step { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 0.5, narrow: true };
        let step = |device: &Device| -> Vec<Vec<f64>> {
            let mut ins = vec![
                floats(device, DType::F32, &[3], &op.hyper(1e-2, 3)),
                floats(device, DType::F32, &[1], &[4.0]),
            ];
            // One is off in all, one in the weight alone, one nowhere.
            for (seed, n, wide, narrow) in [(1, 33, 1, 1), (2, 20_000, 0, 3), (3, 70, 0, 0)] {
                let wides = (0..4).map(|i| shifted(device, DType::F32, &numbers(4 * seed + i, n), wide));
                ins.extend(wides);
                ins.push(shifted(device, DType::Bf16, &numbers(seed, n), narrow));
            }
            run::update(&op, ins).unwrap().iter().map(|out| out.to_f64().unwrap()).collect()
        };
        let [gpu, cpu] = devices.each_ref().map(step);
        for (t, (gpu, cpu)) in gpu.iter().zip(&cpu).enumerate() {
            let rounding = if t % 4 == 3 { 2f64.powi(-8) } else { 1e-6 };
            for (a, b) in gpu.iter().zip(cpu) {
                assert!((a - b).abs() <= rounding * b.abs().max(1e-2), "output {t}: {a} and {b}");
            }
        }
        let squares = |device: &Device, dtype| {
            let tensors = [(1, 33, 1), (2, 40_000, 3), (3, 64, 0)];
            let tensors = tensors.map(|(seed, n, skip)| shifted(device, dtype, &numbers(seed, n), skip));
            run::update(&SumSquares, tensors.into()).unwrap()[0].to_f64().unwrap()[0]
        };
        for dtype in [DType::F32, DType::Bf16] {
            let [gpu, cpu] = devices.each_ref().map(|device| squares(device, dtype));
            assert!((gpu - cpu).abs() <= 1e-6 * cpu, "{gpu} and {cpu}");
        }
    });
}

/// Clipping begins above the clip. It is so small here that the 1e-6 beside the norm would halve the gradient.
#[test]
fn a_norm_of_exactly_the_clip_is_not_clipped() {
    simulated(&[&[]], || {
        let gpu = Device::gpu_poisoned(0).unwrap();
        let step = |clip: f64| -> Vec<Vec<f64>> {
            let op = Step { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip, narrow: false };
            let mut ins = vec![
                floats(&gpu, DType::F32, &[3], &op.hyper(1e-2, 3)),
                floats(&gpu, DType::F32, &[1], &[2f64.powi(-40)]),
            ];
            ins.extend((0..4).map(|seed| floats(&gpu, DType::F32, &[9], &numbers(seed, 9))));
            run::update(&op, ins).unwrap().iter().map(|out| out.to_f64().unwrap()).collect()
        };
        assert_eq!(step(2f64.powi(-20)), step(0.0));
        assert_ne!(step(2f64.powi(-21)), step(0.0));
    });
}

/// Three steps on tables whose rows are logits, then one whose loss is infinite: norms and weights after each.
fn train(device: &Device, dtype: DType) -> Vec<(f64, Vec<Vec<f64>>)> {
    let param = |seed: u64, size: usize, width: usize, decays: bool| {
        let value = Buffer::from_f64(
            device,
            Spec::new(dtype, [size, width]),
            &numbers(seed, size * width),
            Role::Weight,
        );
        Param::new("", value.unwrap(), true, decays)
    };
    let params = [param(1, 7, 40, true), param(2, 5, 1001, false), param(3, 70, 300, true)];
    let config =
        AdamWConfig { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, decay_all: false, clip: 0.5 };
    let mut optimizer = AdamW::new(config, &params);
    let ids = Tensor::from_slice(device, [4], &[0u32, 4, 2, 4]).unwrap();
    let labels = Tensor::from_slice(device, [4], &[1u32, 30, IGNORED, 39]).unwrap();
    let scales = [1.0f32, 0.1, 2.0, f32::INFINITY];
    let step = |scale: f32| {
        let w = Tensor::from_slice(device, [4], &[scale; 4]).unwrap();
        for param in &params {
            let loss = param.tensor().embedding(&ids).unwrap().cross_entropy(&labels, &w).unwrap();
            backward(loss, 1.0, &mut |_| Ok(())).unwrap();
        }
        let norm = optimizer.step(1e-2).unwrap();
        (norm, params.iter().map(|p| p.value().to_f64().unwrap()).collect())
    };
    let steps = scales.map(step).into();
    assert_eq!(optimizer.steps(), 3, "the last one is not counted");
    steps
}

#[test]
fn an_optimiser_step_on_the_device_is_that_of_the_cpu() {
    simulated(&[&[("NEVA_SIM", "schedule=random:5")]], || {
        for dtype in [DType::F32, DType::Bf16] {
            let gpu = train(&Device::gpu_poisoned(0).unwrap(), dtype);
            let cpu = train(&Device::cpu_poisoned(), dtype);
            let rounding = if dtype == DType::Bf16 { 2f64.powi(-7) } else { 1e-5 };
            for (step, ((norm, weights), (cpu_norm, cpu_weights))) in gpu.iter().zip(&cpu).enumerate() {
                let close = (norm - cpu_norm).abs() <= rounding * cpu_norm;
                assert!(close || !norm.is_finite() && !cpu_norm.is_finite(), "{step}: {norm} and {cpu_norm}");
                for (a, b) in weights.iter().flatten().zip(cpu_weights.iter().flatten()) {
                    assert!((a - b).abs() <= rounding * b.abs().max(0.1), "{dtype} step {step}: {a} and {b}");
                }
            }
            assert!(!gpu[3].0.is_finite());
            assert_eq!(gpu[2].1, gpu[3].1, "an infinite norm changes nothing");
            assert_ne!(gpu[1].1, gpu[2].1);
        }
    });
}
