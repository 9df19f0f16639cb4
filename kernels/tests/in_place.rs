//! Ops that say they work in the bytes of an input do so, and leave the input alone when someone else holds it.
#![allow(clippy::unwrap_used)]

use kernels::adamw::AdamW;
use kernels::cross_entropy::{CrossEntropy, IGNORED};
use kernels::embedding::Embedding;
use kernels::op::Want;
use kernels::splice::Splice;
use kernels::{Buffer, Device, Error, Needs, Role, Spec, run};

fn f32s(device: &Device, dims: &[usize], values: &[f32]) -> Buffer {
    Buffer::from_slice(device, dims, values, Role::Activation).unwrap()
}

fn u32s(device: &Device, values: &[u32]) -> Buffer {
    Buffer::from_slice(device, [values.len()], values, Role::Activation).unwrap()
}

fn cross_entropy(device: &Device, labels: &[u32]) -> [Buffer; 3] {
    let n = labels.len();
    let logits: Vec<f32> = (0..n * 5).map(|i| (i % 7) as f32).collect();
    [f32s(device, &[n, 5], &logits), u32s(device, labels), f32s(device, &[n], &vec![1.0; n])]
}

#[test]
fn the_logits_become_their_gradient_without_another_copy() {
    let device = Device::cpu();
    let ins = cross_entropy(&device, &[1; 64]);
    let logits = ins[0].spec();
    let address = ins[0].slice::<f32>().as_ptr();
    device.reset_peak();
    let before = device.peak_bytes();
    let specs: Vec<Spec> = ins.iter().map(Buffer::spec).collect();
    let ran = run::forward(&CrossEntropy, ins.into(), Needs(1)).unwrap();
    let dloss = f32s(&device, &[1], &[1.0]);
    let wants = vec![Want::New(logits.dtype, Role::Activation), Want::No, Want::No];
    let grads =
        run::backward(&CrossEntropy, &"".into(), &specs, ran.saved, vec![Some(dloss)], wants).unwrap();
    let dlogits = grads[0].as_ref().unwrap();
    assert_eq!(dlogits.slice::<f32>().as_ptr(), address);
    assert!(device.peak_bytes() < before + logits.bytes(), "a second tensor of logits was allocated");
    for row in dlogits.slice::<f32>().chunks(5) {
        assert!(row.iter().sum::<f32>().abs() < 1e-6, "the gradient of a row sums to 0");
    }
}

#[test]
fn shared_logits_stay_and_without_a_gradient_nothing_is_written() {
    let device = Device::cpu();
    for needs in [Needs(0), Needs(1)] {
        let ins = cross_entropy(&device, &[0, IGNORED, 4]);
        let held = ins[0].clone();
        let values = held.to_vec::<f32>().unwrap();
        let ran = run::forward(&CrossEntropy, ins.into(), needs).unwrap();
        assert_eq!(held.to_vec::<f32>().unwrap(), values);
        assert_eq!(ran.saved.len(), needs.0 as usize);
    }
}

#[test]
fn a_loss_of_ignored_rows_only_is_zero_with_a_zero_gradient() {
    let device = Device::cpu_poisoned();
    let ins = cross_entropy(&device, &[IGNORED, IGNORED]);
    let ran = run::forward(&CrossEntropy, ins.into(), Needs(1)).unwrap();
    assert_eq!(ran.outs[0].slice::<f32>(), [0.0]);
    assert!(ran.saved[0].slice::<f32>().iter().all(|g| *g == 0.0));
}

#[test]
fn large_logits_neither_overflow_nor_vanish() {
    let device = Device::cpu();
    let ins = [
        f32s(&device, &[2, 3], &[1e4, -1e4, 0.0, f32::NEG_INFINITY, 2.0, 2.0]),
        u32s(&device, &[1, 2]),
        f32s(&device, &[2], &[1.0, 1.0]),
    ];
    let ran = run::forward(&CrossEntropy, ins.into(), Needs(1)).unwrap();
    let expected = 2e4 + 2f32.ln();
    assert!((ran.outs[0].slice::<f32>()[0] - expected).abs() < 1e-2);
    assert_eq!(ran.saved[0].slice::<f32>(), [1.0, -1.0, 0.0, 0.0, 0.5, -0.5]);
}

#[test]
fn splice_writes_into_x_unless_x_is_held() {
    let device = Device::cpu();
    for held in [false, true] {
        let x = f32s(&device, &[3, 2], &[1.0; 6]);
        let address = x.slice::<f32>().as_ptr();
        let holder = held.then(|| x.clone());
        let ins = vec![x, f32s(&device, &[1, 2], &[5.0, 6.0]), u32s(&device, &[1])];
        let ran = run::forward(&Splice, ins, Needs::default()).unwrap();
        assert_eq!(ran.outs[0].slice::<f32>(), [1.0, 1.0, 5.0, 6.0, 1.0, 1.0]);
        assert_eq!(ran.outs[0].slice::<f32>().as_ptr() == address, !held);
        assert!(holder.is_none_or(|x| x.slice::<f32>() == [1.0; 6]));
    }
}

#[test]
fn adamw_updates_its_state_where_it_lies_and_refuses_what_is_held() {
    let device = Device::cpu();
    let op = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, clip: 0.0, narrow: false };
    let hyper: Vec<f32> = op.hyper(0.1, 1).iter().map(|v| *v as f32).collect();
    let ins = || {
        let state = |v: f32| f32s(&device, &[2], &[v, v]);
        let scalars = [f32s(&device, &[3], &hyper), f32s(&device, &[1], &[1.0])];
        scalars.into_iter().chain([1.0, 0.5, 0.0, 0.0].map(state)).collect::<Vec<_>>()
    };
    let fresh = ins();
    let address = fresh[2].slice::<f32>().as_ptr();
    let outs = run::update(&op, fresh).unwrap();
    assert_eq!(outs[0].slice::<f32>().as_ptr(), address);
    // The first step moves every element by the learning rate, whatever the gradient.
    assert!(outs[0].slice::<f32>().iter().all(|w| (w - 0.9).abs() < 1e-6));

    let shared = ins();
    let held = shared[2].clone();
    let refused = run::update(&op, shared).unwrap_err();
    assert!(matches!(refused, Error::NotUnique { op: "adamw", .. }), "{refused}");
    assert_eq!(held.slice::<f32>(), [1.0, 1.0]);
}

#[test]
fn data_that_points_outside_is_named() {
    let device = Device::cpu();
    let error = |op: &dyn kernels::Op, ins: Vec<Buffer>| {
        run::forward(op, ins, Needs::default()).unwrap_err().to_string()
    };
    let table = f32s(&device, &[2, 3], &[0.0; 6]);
    assert_eq!(
        error(&Embedding, vec![table.clone(), u32s(&device, &[0, 1, 2])]),
        "embedding: id 2 at position 2 is outside the table f32[2, 3]"
    );
    assert_eq!(
        error(&Splice, vec![table.clone(), table.clone(), u32s(&device, &[1, 2])]),
        "splice: row 2 of feature 1 is outside f32[2, 3]"
    );
    assert_eq!(
        error(&Splice, vec![table.clone(), table.clone(), u32s(&device, &[1, 1])]),
        "splice: row 1 of feature 1 comes twice in f32[2, 3]"
    );
    assert_eq!(
        error(&CrossEntropy, cross_entropy(&device, &[0, 5]).into()),
        "cross_entropy: label 5 of row 1 is outside f32[2, 5]"
    );
}
