//! The optimiser over several parameters: what a step computes, and what it leaves alone.
#![allow(clippy::unwrap_used)]

use engine::{AdamW, AdamWConfig, Buffer, DType, Device, Error, Param, Role, Spec, State, Tensor, backward};
use kernels::dtype::bf16;

const CONFIG: AdamWConfig =
    AdamWConfig { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, decay_all: false, clip: 1.0 };

fn param(device: &Device, name: &str, dtype: DType, values: &[f64], decays: bool) -> Param {
    let spec = Spec::new(dtype, [1, values.len()]);
    Param::new(name, Buffer::from_f64(device, spec, values, Role::Weight).unwrap(), true, decays)
}

/// Gives `param` this gradient: that of its product with a constant.
fn add_gradient(param: &Param, gradient: &[f64]) {
    let (weight, n) = (param.tensor(), gradient.len());
    let spec = Spec::new(weight.dtype(), [n, 1]);
    let constant = Buffer::from_f64(weight.device(), spec, gradient, Role::Activation).unwrap();
    backward(weight.matmul(&Tensor::constant(constant)).unwrap(), 1.0, &mut |_| Ok(())).unwrap();
}

fn values(param: &Param) -> Vec<f64> {
    param.value().to_f64().unwrap()
}

/// Everything a step may change, to the bit.
fn everything(optimizer: &AdamW) -> Vec<Vec<f64>> {
    let buffers = |(param, state): (&Param, Option<&State>)| {
        let state = state.into_iter().flat_map(|s| [Some(s.m.clone()), Some(s.v.clone()), s.master.clone()]);
        [Some(param.value())].into_iter().chain(state).flatten().collect::<Vec<_>>()
    };
    optimizer.states().flat_map(buffers).map(|b| b.to_f64().unwrap()).collect()
}

#[test]
fn steps_are_those_of_the_equations_for_every_group() {
    let device = Device::cpu_poisoned();
    let (a, b) = ([0.5, -1.5, 2.0], [1.0, 0.25]);
    let params = [
        param(&device, "decays", DType::F32, &a, true),
        param(&device, "does not", DType::F32, &b, false),
        param(&device, "narrow", DType::Bf16, &a, true),
        param(&device, "never used", DType::F32, &b, true),
    ];
    let mut optimizer = AdamW::new(CONFIG, &params);
    let start = [&a[..], &b, &a];
    let mut want: Vec<[Vec<f64>; 3]> =
        start.iter().map(|x| [x.to_vec(), vec![0.0; x.len()], vec![0.0; x.len()]]).collect();
    for (step, scale) in [(1, 0.25), (2, 4.0), (3, 0.125)] {
        let grads = start.map(|x| x.iter().map(|v| v * scale).collect::<Vec<_>>());
        for (param, grad) in params.iter().zip(&grads) {
            add_gradient(param, grad);
        }
        let norm = grads.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
        let got = optimizer.step(1e-2).unwrap();
        assert!((got - norm).abs() < 1e-6 * norm, "{got} and {norm}");
        assert_eq!(optimizer.steps(), step);
        let factor = if norm > 1.0 { 1.0 / (norm + 1e-6) } else { 1.0 };
        for (p, ([x, m, v], grad)) in want.iter_mut().zip(&grads).enumerate() {
            let decay = if p == 1 { 0.0 } else { 0.1 };
            for i in 0..x.len() {
                let g = factor * grad[i];
                m[i] = 0.9 * m[i] + (1.0 - 0.9) * g;
                v[i] = 0.95 * v[i] + (1.0 - 0.95) * g * g;
                let [mean, root] =
                    [m[i] / (1.0 - 0.9f64.powf(step as f64)), v[i] / (1.0 - 0.95f64.powf(step as f64))];
                x[i] = x[i] * (1.0 - 1e-2 * decay) - 1e-2 * mean / (root.sqrt() + 1e-8);
            }
        }
        for (p, [x, ..]) in want.iter().enumerate() {
            for (got, want) in values(&params[p]).iter().zip(x) {
                let rounding = if p == 2 { 2f64.powi(-8) } else { 1e-6 };
                assert!(
                    (got - want).abs() <= rounding * want.abs(),
                    "{}: {got} and {want}",
                    params[p].name()
                );
            }
        }
    }
    assert_eq!(values(&params[3]), b);
    let states: Vec<_> = optimizer.states().map(|(_, state)| state).collect();
    assert!(states[3].is_none() && states[0].unwrap().master.is_none());
    let master = states[2].unwrap().master.as_ref().unwrap().to_f64().unwrap();
    let rounded: Vec<f64> = master.iter().map(|x| bf16::from_f64(*x).to_f64()).collect();
    assert_eq!(values(&params[2]), rounded, "the weight is the rounded master");
}

#[test]
fn a_norm_that_is_not_finite_changes_nothing_and_counts_no_step() {
    let device = Device::cpu_poisoned();
    for bad in [f64::INFINITY, f64::NAN] {
        let params = [
            param(&device, "a", DType::F32, &[1.0, 2.0], true),
            param(&device, "b", DType::Bf16, &[3.0], false),
        ];
        let mut optimizer = AdamW::new(CONFIG, &params);
        for steps in 0..2 {
            let before = everything(&optimizer);
            add_gradient(&params[0], &[0.5, bad]);
            add_gradient(&params[1], &[0.5]);
            assert!(!optimizer.step(1e-2).unwrap().is_finite());
            assert_eq!((everything(&optimizer), optimizer.steps()), (before, steps));
            assert!(params.iter().all(|p| p.grad().is_none()), "the gradients are dropped");
            // A good step, so that the second time there is a state.
            add_gradient(&params[0], &[0.5, 0.5]);
            add_gradient(&params[1], &[0.5]);
            optimizer.step(1e-2).unwrap();
        }
    }
}

#[test]
fn a_weight_that_is_held_refuses_the_step_before_anything_changes() {
    let device = Device::cpu();
    let params =
        [param(&device, "a", DType::F32, &[1.0], true), param(&device, "b", DType::F32, &[2.0], true)];
    let mut optimizer = AdamW::new(CONFIG, &params);
    params.iter().for_each(|p| add_gradient(p, &[0.5]));
    let held = params[1].value();
    let before = everything(&optimizer);
    let refused = optimizer.step(1e-2).unwrap_err();
    assert!(matches!(refused, Error::NotUnique { op: "adamw", .. }), "{refused}");
    assert_eq!((everything(&optimizer), optimizer.steps()), (before, 0));
    drop(held);
    params.iter().for_each(|p| add_gradient(p, &[0.5]));
    optimizer.step(1e-2).unwrap();
    assert_ne!(values(&params[0]), [1.0]);
}

#[test]
fn a_step_is_one_op_per_group_and_one_for_the_norm() {
    let device = Device::cpu();
    let params: Vec<Param> =
        (0..10).map(|i| param(&device, "", DType::F32, &[i as f64], i % 2 == 0)).collect();
    params.iter().for_each(|p| add_gradient(p, &[0.5]));
    let mut optimizer = AdamW::new(CONFIG, &params);
    device.start_trace();
    optimizer.step(1e-2).unwrap();
    let ops: Vec<&str> = device.take_trace().unwrap().iter().map(|e| e.op).collect();
    assert_eq!(ops, ["sum_squares", "adamw", "adamw"]);
}
