//! Row-wise and element-wise kernels on the simulated GPU, where the cases of the catalogue do not go: views off a 16-byte
//! boundary, missing gradients, sums of mixed types, no rows, types that kernels do not compute in.
#![allow(clippy::unwrap_used)]

mod simulated;

use kernels::activation::{Act, Activation};
use kernels::add::{Add, accumulate};
use kernels::add_rms_norm::AddRmsNorm;
use kernels::cast::{Cast, cast};
use kernels::check::device::cases;
use kernels::check::parity::{self, Sink, Yardstick, everywhere};
use kernels::check::{Case, Entry, Input};
use kernels::column_sum::ColumnSum;
use kernels::dropout::Dropout;
use kernels::gated::Gated;
use kernels::layer_norm::LayerNorm;
use kernels::op::Want;
use kernels::rms_norm::RmsNorm;
use kernels::rope::Rope;
use kernels::scale::Scale;
use kernels::{Buffer, CATALOGUE, DType, Device, Error, Needs, Role, Spec, run};
use simulated::simulated;

const DTYPES: [DType; 2] = [DType::F32, DType::Bf16];

fn entry(name: &str) -> &'static Entry {
    CATALOGUE.iter().find(|entry| entry.name == name).unwrap()
}

/// Numbers that are no small fractions, the same for the same `seed`.
fn values(n: usize, seed: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f64 / 331.0 - 1.5).collect()
}

fn buffer(device: &Device, dtype: DType, dims: &[usize], seed: usize) -> Buffer {
    let spec = Spec::new(dtype, dims);
    Buffer::from_f64(device, spec, &values(spec.elements(), seed), Role::Activation).unwrap()
}

#[test]
fn elements_do_not_depend_on_alignment() {
    simulated(&[&[]], || {
        let gpu = Device::gpu_poisoned(0).unwrap();
        for op in ["activation", "cast", "dropout", "gated", "rope", "scale"] {
            for case in cases(entry(op), &gpu) {
                for dtype in DTYPES {
                    let sinks = everywhere(&case, Sink::Acc);
                    let aligned = parity::run_for(&case, &gpu, dtype, &sinks).unwrap();
                    let off = parity::run_off_boundary(&case, &gpu, dtype, &sinks).unwrap();
                    assert!(off == aligned, "{op}/{} in {dtype}", case.name);
                }
            }
        }
    });
}

/// Rows that are summed over are summed in another order.
#[test]
fn sums_off_a_boundary_are_as_exact() {
    simulated(&[&[]], || {
        let gpu = Device::gpu_poisoned(0).unwrap();
        for op in ["add", "add_rms_norm", "column_sum", "layer_norm", "rms_norm"] {
            for case in cases(entry(op), &gpu) {
                for dtype in DTYPES {
                    let yardstick = Yardstick::measure(&case, dtype).unwrap();
                    let off = parity::run_off_boundary(&case, &gpu, dtype, &everywhere(&case, Sink::Acc));
                    let worst = yardstick.compare(&off.unwrap());
                    let error = worst.forward.max(worst.backward.unwrap());
                    assert!(error <= 1.0, "{op}/{} in {dtype}: {error:.2} of what is allowed", case.name);
                }
            }
        }
    });
}

#[test]
fn either_output_of_the_residual_norm_may_have_no_gradient() {
    // The gradients of x, residual and w, of those wanted.
    fn gradients(device: &Device, dtype: DType, douts: [bool; 2], wanted: [bool; 3]) -> Vec<Vec<f64>> {
        let (x, w) = ([5, 40], [40]);
        let ins: Vec<Buffer> =
            [&x[..], &x, &w].iter().enumerate().map(|(i, d)| buffer(device, dtype, d, i)).collect();
        let specs: Vec<Spec> = ins.iter().map(Buffer::spec).collect();
        let ran = run::forward(&AddRmsNorm { eps: 1e-5 }, ins, Needs(7)).unwrap();
        let douts = [0, 1].map(|j| douts[j].then(|| buffer(device, dtype, &x, 3 + j))).into();
        let want = |w: &bool| if *w { Want::New(dtype, Role::Gradient) } else { Want::No };
        let wants = wanted.iter().map(want).collect();
        let op = AddRmsNorm { eps: 1e-5 };
        let grads = run::backward(&op, &"".into(), &specs, ran.saved, douts, wants).unwrap();
        grads.into_iter().flatten().map(|g| g.to_f64().unwrap()).collect()
    }
    simulated(&[&[]], || {
        let (gpu, cpu) = (Device::gpu_poisoned(0).unwrap(), Device::cpu_poisoned());
        for douts in [[true, false], [false, true]] {
            for wanted in [[true; 3], [false, true, false], [false, false, true]] {
                let got = gradients(&gpu, DType::F32, douts, wanted);
                let want = gradients(&cpu, DType::F64, douts, wanted);
                assert_eq!(got.len(), wanted.iter().filter(|w| **w).count());
                for (g, w) in got.iter().flatten().zip(want.iter().flatten()) {
                    assert!((g - w).abs() <= 1e-5 * (1.0 + w.abs()), "{g}, not {w}: {douts:?} {wanted:?}");
                }
            }
        }
    });
}

#[test]
fn gradients_add_up_in_either_type_as_on_the_cpu() {
    simulated(&[&[]], || {
        let (gpu, cpu) = (Device::gpu_poisoned(0).unwrap(), Device::cpu());
        for (sum, gradient) in DTYPES.iter().flat_map(|a| DTYPES.map(|b| (*a, b))) {
            for first in [0, 1] {
                let add = |device: &Device| {
                    let mut to = buffer(device, sum, &[1037], 1);
                    let from = buffer(device, gradient, &[1037 + first], 2).rows(first..1037 + first);
                    accumulate(&mut to, &from).unwrap();
                    to.to_host().unwrap()
                };
                assert_eq!(add(&gpu), add(&cpu), "{gradient} onto {sum}, from element {first}");
            }
        }
    });
}

#[test]
fn casts_round_as_on_the_cpu() {
    simulated(&[&[]], || {
        let (gpu, cpu) = (Device::gpu_poisoned(0).unwrap(), Device::cpu());
        // Ties both ways, the largest numbers, infinities, subnormals, a value per exponent.
        let mut numbers = vec![0.0, -0.0, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -1e-45];
        numbers.extend([0x3f80_8000, 0x3f81_8000, 0x3f80_7fff, 0x7f7f_8000].map(f32::from_bits));
        numbers.extend((0..255).map(|e| f32::from_bits(e << 23 | 0x0034_5678)));
        let casts = |device: &Device| {
            let x = Buffer::from_slice(device, [numbers.len()], &numbers, Role::Activation).unwrap();
            let narrow = cast(&x, DType::Bf16, Role::Activation).unwrap();
            let wide = cast(&narrow, DType::F32, Role::Activation).unwrap();
            [narrow.to_host().unwrap(), wide.to_host().unwrap()]
        };
        assert_eq!(casts(&gpu), casts(&cpu));
    });
}

#[test]
fn dropout_drops_what_it_drops_on_the_cpu() {
    simulated(&[&[]], || {
        let (gpu, cpu) = (Device::gpu_poisoned(0).unwrap(), Device::cpu());
        for (width, dtype) in [(200, DType::F32), (200, DType::Bf16), (201, DType::F32)] {
            let drop = |device: &Device| {
                let ones = vec![1.0; 3 * width];
                let x = Buffer::from_f64(device, Spec::new(dtype, [3, width]), &ones, Role::Activation);
                let keys = Buffer::from_slice(device, [3], &[0, 5, u32::MAX], Role::Activation);
                let op = Dropout { p: 0.5, seed: 0x0123_4567_89ab_cdef };
                let ran = run::forward(&op, vec![x.unwrap(), keys.unwrap()], Needs::default()).unwrap();
                ran.outs[0].to_f64().unwrap()
            };
            let on_cpu = drop(&cpu);
            assert_eq!(drop(&gpu), on_cpu, "{width} wide in {dtype}");
            assert!(on_cpu.contains(&0.0) && on_cpu.contains(&2.0));
        }
    });
}

/// Every op of these on inputs of `rows` rows.
fn ops(rows: usize) -> Vec<Case> {
    let (x, w) = (|width: usize| Input::normal([rows, width]), || Input::normal([8]));
    let table = Input::acc([rows, 4], vec![1.0; rows * 4]);
    vec![
        Case::check("activation", Activation { kind: Act::Silu }, [x(8)]),
        Case::check("add", Add, [x(8), x(8)]),
        Case::check("bias", Add, [x(8), w()]),
        Case::check("add_rms_norm", AddRmsNorm { eps: 1e-5 }, [x(8), x(8), w()]),
        Case::check("cast", Cast { to: DType::Bf16 }, [x(8)]),
        Case::check("column_sum", ColumnSum, [x(8)]),
        Case::check(
            "dropout",
            Dropout { p: 0.5, seed: 1 },
            [x(8), Input::u32([rows], (0..rows as u32).collect::<Vec<_>>())],
        ),
        Case::check("gated", Gated { act: Act::Silu }, [x(8)]),
        Case::check("layer_norm", LayerNorm { eps: 1e-5, one_plus: true }, [x(8), w(), w()]),
        Case::check("rms_norm", RmsNorm { eps: 1e-5 }, [x(8), w()]),
        Case::check("rope", Rope { heads: 1, kv_heads: 1, head_dim: 4, rotary_dim: 4 }, [x(12), table]),
        Case::check("scale", Scale { factor: 2.0 }, [x(8)]),
    ]
}

#[test]
fn no_rows_make_empty_outputs_and_zero_weight_gradients() {
    simulated(&[&[]], || {
        let (gpu, cpu) = (Device::gpu_poisoned(0).unwrap(), Device::cpu_poisoned());
        for case in ops(0) {
            for dtype in DTYPES {
                let on = |device: &Device| parity::run(&case, device, dtype, Sink::Acc).unwrap();
                assert_eq!(on(&gpu), on(&cpu), "{} in {dtype}", case.name);
            }
        }
    });
}

#[test]
fn types_that_kernels_do_not_compute_in_are_refused() {
    simulated(&[&[]], || {
        let gpu = Device::gpu(0).unwrap();
        for case in ops(2) {
            let ins = case.buffers(&gpu, DType::F64, &case.values(1)).unwrap();
            let refused = run::forward(case.op.as_ref(), ins, Needs::default()).unwrap_err();
            assert!(
                matches!(refused, Error::DType { op, got: DType::F64, .. } if op == case.op.name()),
                "{}: {refused}",
                case.name
            );
        }
    });
}

#[test]
fn a_function_that_overflows_on_the_way_does_not_in_the_end() {
    simulated(&[&[]], || {
        let (gpu, cpu) = (Device::gpu_poisoned(0).unwrap(), Device::cpu());
        for kind in [Act::Silu, Act::QuickGelu, Act::GeluErf, Act::GeluTanh] {
            let far = |device: &Device| {
                let x = Buffer::from_slice(device, [4], &[-1e3f32, -90.0, 90.0, 1e3], Role::Activation);
                let op = Activation { kind };
                run::forward(&op, vec![x.unwrap()], Needs::default()).unwrap().outs[0].to_f64().unwrap()
            };
            for (g, c) in far(&gpu).into_iter().zip(far(&cpu)) {
                assert!((g - c).abs() < 1e-30 + 1e-6 * c.abs(), "{kind:?}: {g}, not {c}");
            }
        }
    });
}
