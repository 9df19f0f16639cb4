//! The graph itself, on the simplest ops.
#![allow(clippy::unwrap_used)]

use engine::{Buffer, DType, Device, Error, Param, Role, Spec, Tensor, apply, backward};
use kernels::add::Add;
use kernels::rms_norm::RmsNorm;

fn param(device: &Device, name: &str, values: &[f32], trainable: bool) -> Param {
    let value = Buffer::from_slice(device, [values.len()], values, Role::Weight).unwrap();
    Param::new(name, value, trainable, true)
}

fn add(a: &Tensor, b: &Tensor) -> Tensor {
    apply(Add, [a.clone(), b.clone()]).unwrap().remove(0)
}

#[test]
fn a_tensor_used_twice_gets_both_gradients() {
    let device = Device::cpu_poisoned();
    let p = param(&device, "p", &[3.0], true);
    let x = p.tensor();
    let y = add(&add(&x, &x), &x);
    let mut ready = 0;
    backward(y, 2.0, &mut |_| {
        ready += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(p.grad().unwrap().to_f64().unwrap(), [6.0]);
    assert_eq!(ready, 1, "a parameter is ready once, after its last use");
}

#[test]
fn gradients_sum_over_backwards_until_taken() {
    let device = Device::cpu_poisoned();
    let p = param(&device, "p", &[1.0], true);
    for _ in 0..3 {
        backward(add(&p.tensor(), &p.tensor()), 1.0, &mut |_| Ok(())).unwrap();
    }
    assert_eq!(p.take_grad().unwrap().to_f64().unwrap(), [6.0]);
    assert!(p.grad().is_none());
}

#[test]
fn a_frozen_parameter_records_nothing() {
    let device = Device::cpu();
    let p = param(&device, "p", &[1.0], false);
    let y = add(&p.tensor(), &p.tensor());
    assert!(!y.requires_grad());
    backward(y, 1.0, &mut |_| panic!("nothing is ready")).unwrap();
}

#[test]
fn no_grad_makes_parameters_constants_until_the_guard_drops() {
    let device = Device::cpu();
    let p = param(&device, "p", &[1.0], true);
    {
        let _guard = device.no_grad();
        assert!(!p.tensor().requires_grad());
    }
    assert!(p.tensor().requires_grad());
}

#[test]
fn a_second_backward_is_an_error() {
    let device = Device::cpu();
    let p = param(&device, "p", &[1.0], true);
    let y = add(&p.tensor(), &p.tensor());
    let z = add(&y, &p.tensor());
    backward(y, 1.0, &mut |_| Ok(())).unwrap();
    assert!(matches!(backward(z, 1.0, &mut |_| Ok(())), Err(Error::Consumed)));
}

#[test]
fn hundreds_of_thousands_of_nodes_run_backward_and_drop_without_recursion() {
    let device = Device::cpu();
    let p = param(&device, "p", &[0.0], true);
    let one = Tensor::from_slice(&device, [1], &[1f32]).unwrap();
    let chain = || {
        let mut x = p.tensor();
        for _ in 0..300_000 {
            x = apply(Add, [x, one.clone()]).unwrap().remove(0);
        }
        x
    };
    drop(chain());
    backward(chain(), 1.0, &mut |_| Ok(())).unwrap();
    assert_eq!(p.grad().unwrap().to_f64().unwrap(), [1.0]);
}

#[test]
fn activations_are_freed_by_backward_and_by_drop() {
    let device = Device::cpu();
    let w = param(&device, "w", &[1.0], true);
    let chain = || {
        let mut y = Tensor::from_slice(&device, [1, 1], &[0.5f32]).unwrap();
        for _ in 0..10 {
            y = apply(RmsNorm { eps: 1e-5 }, [y, w.tensor()]).unwrap().remove(0);
        }
        y
    };
    let y = chain();
    assert!(device.live_bytes(Role::Activation) > 40, "backward needs the inputs of ten norms");
    drop(y);
    assert_eq!(device.live_bytes(Role::Activation), 0);
    backward(chain(), 1.0, &mut |_| Ok(())).unwrap();
    assert_eq!(device.live_bytes(Role::Activation), 0);
    assert_eq!(device.live_bytes(Role::Gradient), 4);
}

#[test]
fn an_in_place_op_copies_a_shared_input_and_moves_its_own() {
    let device = Device::cpu();
    let a = Tensor::from_slice(&device, [2], &[1f32, 2.0]).unwrap();
    let b = Tensor::from_slice(&device, [2], &[10f32, 20.0]).unwrap();
    let kept = a.clone();
    let sum = apply(Add, [a, b.clone()]).unwrap().remove(0);
    assert_eq!(kept.to_f64().unwrap(), [1.0, 2.0]);
    let live = device.live_bytes(Role::Activation);
    let again = apply(Add, [sum, b.clone()]).unwrap().remove(0);
    assert_eq!(device.live_bytes(Role::Activation), live, "the last holder donated its bytes");
    assert_eq!(again.to_f64().unwrap(), [21.0, 42.0]);
}

#[test]
fn bf16_weights_have_f32_gradients() {
    let device = Device::cpu();
    let spec = Spec::new(DType::Bf16, [1]);
    let value = Buffer::from_f64(&device, spec, &[1.0], Role::Weight).unwrap();
    let p = Param::new("p", value, true, true);
    backward(add(&p.tensor(), &p.tensor()), 1.0, &mut |_| Ok(())).unwrap();
    assert_eq!(p.grad().unwrap().dtype(), DType::F32);
}
