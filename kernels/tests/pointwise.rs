//! Norms, activations, rope and dropout: known values, and the promises that no gradient check can see.

#![allow(clippy::unwrap_used)]

use kernels::activation::{Act, Activation};
use kernels::add_rms_norm::AddRmsNorm;
use kernels::dropout::Dropout;
use kernels::dtype::bf16;
use kernels::gated::Gated;
use kernels::layer_norm::LayerNorm;
use kernels::op::Want;
use kernels::rms_norm::RmsNorm;
use kernels::rope::{self, Rope};
use kernels::run::{self, Ran};
use kernels::scale::Scale;
use kernels::{Buffer, DType, Device, Needs, Op, Role, Spec};
use std::sync::Arc;

fn real(device: &Device, dtype: DType, dims: &[usize], values: &[f64]) -> Buffer {
    Buffer::from_f64(device, Spec::new(dtype, dims), values, Role::Activation).unwrap()
}

fn keys(device: &Device, keys: &[u32]) -> Buffer {
    Buffer::from_slice(device, [keys.len()], keys, Role::Activation).unwrap()
}

/// Forward, then backward with these output gradients; all in f64. The inputs that need a gradient are the first `n`.
fn gradients(
    op: &dyn Op,
    n: usize,
    ins: &[(&[usize], &[f64])],
    douts: &[Option<&[f64]>],
) -> (Ran, Vec<Vec<f64>>) {
    let device = Device::cpu_poisoned();
    let ins: Vec<Buffer> = ins.iter().map(|(dims, v)| real(&device, DType::F64, dims, v)).collect();
    let specs: Vec<Spec> = ins.iter().map(Buffer::spec).collect();
    let mut ran = run::forward(op, ins, Needs((1 << n) - 1)).unwrap();
    let douts =
        ran.outs.iter().zip(douts).map(|(y, d)| d.map(|d| real(&device, DType::F64, y.dims(), d))).collect();
    let wants = (0..specs.len())
        .map(|i| if i < n { Want::New(DType::F64, Role::Gradient) } else { Want::No })
        .collect();
    let scope: Arc<str> = "".into();
    let saved = std::mem::take(&mut ran.saved);
    let grads = run::backward(op, &scope, &specs, saved, douts, wants).unwrap();
    (ran, grads.into_iter().flatten().map(|g| g.to_f64().unwrap()).collect())
}

fn close(got: &[f64], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (g, w) in got.iter().zip(want) {
        // The expected values are written with nine digits.
        assert!((g - w).abs() <= 5e-9 * w.abs() + 1e-12, "{what}: {got:?}, expected {want:?}");
    }
}

const X: [f64; 8] = [1.0, -2.0, 3.0, 0.5, 0.25, 4.0, -1.0, 2.0];
const W: [f64; 4] = [0.5, -1.0, 2.0, 0.25];
const B: [f64; 4] = [0.1, 0.2, -0.3, 0.0];
const DY: [f64; 8] = [1.0, 2.0, -1.0, 0.5, -0.5, 1.0, 0.25, 3.0];

// The expected values of this file were computed by PyTorch 2.15 in f64 (torch.nn.functional).

#[test]
fn layer_norm_has_the_values_of_pytorch() {
    let ins: [(&[usize], &[f64]); 3] = [(&[2, 4], &X), (&[4], &W), (&[4], &B)];
    let (ran, grads) = gradients(&LayerNorm { eps: 1e-5, one_plus: false }, 3, &ins, &[Some(&DY)]);
    let y = [
        0.205279195,
        1.67390873,
        2.36707294,
        -0.0175465325,
        -0.182237469,
        -1.22778955,
        -2.7571262,
        0.0913121224,
    ];
    let dx = [
        0.743350673,
        -0.571170132,
        -0.71983979,
        0.547659249,
        -0.254798642,
        -0.22273033,
        0.000147185537,
        0.477381786,
    ];
    close(&ran.outs[0].to_f64().unwrap(), &y, "y");
    close(&grads[0], &dx, "dx");
    close(&grads[1], &[0.492795859, -1.52002791, -1.64067725, 1.0606524], "dw");
    close(&grads[2], &[0.5, 3.0, -0.75, 3.5], "db");
}

#[test]
fn layernorm1p_stores_the_weight_less_one() {
    let ins: [(&[usize], &[f64]); 3] = [(&[2, 4], &X), (&[4], &W), (&[4], &B)];
    let (ran, grads) = gradients(&LayerNorm { eps: 1e-5, one_plus: true }, 3, &ins, &[Some(&DY)]);
    let y = [0.415837585, 0.2, 3.70060941, -0.0877326625, -0.746712408, 0.2, -3.9856893, 0.456560612];
    let dx = [
        1.07526499,
        -0.648614217,
        -0.863671918,
        0.437021142,
        -0.831172051,
        -0.663355515,
        0.0426125325,
        1.45191503,
    ];
    close(&ran.outs[0].to_f64().unwrap(), &y, "y");
    close(&grads[0], &dx, "dx");
    close(&grads[1], &[0.492795859, -1.52002791, -1.64067725, 1.0606524], "dw");
}

#[test]
fn layer_norm_keeps_its_digits_far_from_zero() {
    let device = Device::cpu();
    let near: Vec<f64> = (0..96).map(|i| (i % 7) as f64).collect();
    let far: Vec<f64> = near.iter().map(|v| v + 4096.0).collect();
    let run = |x: &[f64]| {
        let x = real(&device, DType::F32, &[1, 96], x);
        let w = real(&device, DType::F32, &[96], &[1.0; 96]);
        let b = real(&device, DType::F32, &[96], &[0.0; 96]);
        let op = LayerNorm { eps: 1e-5, one_plus: false };
        run::forward(&op, vec![x, w, b], Needs::default()).unwrap().outs[0].to_f64().unwrap()
    };
    for (a, b) in run(&near).iter().zip(run(&far)) {
        assert!((a - b).abs() < 5e-4, "{a} {b}"); // the mean of 4099 is known to 2^-12
    }
}

#[test]
fn add_rms_norm_has_the_values_of_pytorch_for_every_pair_of_gradients() {
    let half: Vec<f64> = X.iter().map(|v| v / 2.0).collect();
    let ins: [(&[usize], &[f64]); 3] = [(&[2, 4], &half), (&[2, 4], &half), (&[4], &W)];
    let y =
        [0.2649061, 1.0596244, 3.1788732, 0.0662265249, 0.0544734193, -1.74314942, -0.87157471, 0.217893677];
    let dx = [
        0.318351917,
        -1.16651603,
        -0.899286946,
        0.0929494336,
        -0.0931059338,
        -0.182332876,
        0.154530058,
        0.453567755,
    ];
    let dw = [0.47533878, -0.376099378, -1.69838344, 2.74717718];
    let op = AddRmsNorm { eps: 1e-5 };
    let (ran, grads) = gradients(&op, 3, &ins, &[Some(&DY), None]);
    close(&ran.outs[0].to_f64().unwrap(), &y, "y");
    close(&ran.outs[1].to_f64().unwrap(), &X, "r");
    close(&grads[0], &dx, "dx");
    close(&grads[1], &dx, "dresidual");
    close(&grads[2], &dw, "dw");
    let (_, grads) = gradients(&op, 3, &ins, &[None, Some(&DY)]);
    close(&grads[0], &DY, "dx is dr where nothing reads y");
    close(&grads[2], &[0.0; 4], "dw is zero where nothing reads y");
    let (_, grads) = gradients(&op, 3, &ins, &[Some(&DY), Some(&DY)]);
    let both: Vec<f64> = dx.iter().zip(DY).map(|(a, b)| a + b).collect();
    close(&grads[1], &both, "dresidual is the sum");
}

#[test]
fn rms_norm_makes_the_fused_output_again_from_the_stored_sum() {
    let device = Device::cpu();
    let values: Vec<f64> = (0..3 * 96).map(|i| ((i * 37 % 101) as f64 - 50.0) / 7.0).collect();
    let (x, residual) =
        (real(&device, DType::Bf16, &[3, 96], &values), real(&device, DType::Bf16, &[3, 96], &values));
    let w = real(&device, DType::Bf16, &[96], &values[..96]);
    let fused = run::forward(&AddRmsNorm { eps: 1e-5 }, vec![x, residual, w.clone()], Needs(7)).unwrap();
    let alone =
        run::forward(&RmsNorm { eps: 1e-5 }, vec![fused.outs[1].clone(), w], Needs::default()).unwrap();
    assert_eq!(alone.outs[0].to_vec::<bf16>().unwrap(), fused.outs[0].to_vec::<bf16>().unwrap());
}

#[test]
fn both_gradients_of_a_residual_sum_are_one_buffer_in_the_place_of_dr() {
    let device = Device::cpu();
    let make = || real(&device, DType::F32, &[64, 96], &[0.5; 64 * 96]);
    let (x, residual, dy, dr) = (make(), make(), make(), make());
    let w = real(&device, DType::F32, &[96], &[1.0; 96]);
    let specs = [x.spec(), residual.spec(), w.spec()];
    let op = AddRmsNorm { eps: 1e-5 };
    let ran = run::forward(&op, vec![x, residual, w], Needs(3)).unwrap();
    drop(ran.outs);
    let before = device.live_bytes(Role::Activation);
    device.reset_peak();
    let want = || Want::New(DType::F32, Role::Activation);
    let douts = vec![Some(dy), Some(dr)];
    let grads =
        run::backward(&op, &"".into(), &specs, ran.saved, douts, vec![want(), want(), Want::No]).unwrap();
    assert_eq!(device.peak_bytes_of(Role::Activation), before, "nothing was allocated");
    assert_eq!(
        grads[0].as_ref().unwrap().slice::<f32>().as_ptr(),
        grads[1].as_ref().unwrap().slice::<f32>().as_ptr()
    );
}

const POINTS: [f64; 8] = [-4.0, -1.5, -0.3, 0.0, 1e-3, 0.7, 2.0, 5.0];

#[test]
fn activations_have_the_values_and_slopes_of_pytorch() {
    #[rustfmt::skip]
    let cases = [
        (Act::GeluErf,
            [-0.000126684967, -0.100210802, -0.114626573, 0.0, 0.000500398942, 0.530625443, 1.95449974, 4.99999857],
            [-0.000503649661, -0.127469192, 0.267672233, 0.5, 0.500797884, 0.976614101, 1.0852318, 1.00000715]),
        (Act::GeluTanh,
            [-7.02459482e-05, -0.100428423, -0.114629076, 0.0, 0.000500398942, 0.530570135, 1.95459769, 4.99999977],
            [-0.000335123197, -0.127710793, 0.267704548, 0.5, 0.500797884, 0.976357219, 1.08609926, 1.00000155]),
        (Act::QuickGelu,
            [-0.00441472414, -0.108337802, -0.112515865, 0.0, 0.0005004255, 0.536893952, 1.93565862, 4.99899298],
            [-0.00640188655, -0.0988480646, 0.255374258, 0.5, 0.500851, 0.979913142, 1.07381535, 1.00151219]),
        (Act::SquaredRelu, [0.0, 0.0, 0.0, 0.0, 1e-6, 0.49, 4.0, 25.0], [0.0, 0.0, 0.0, 0.0, 0.002, 1.4, 4.0, 10.0]),
        (Act::Relu, [0.0, 0.0, 0.0, 0.0, 1e-3, 0.7, 2.0, 5.0], [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]),
        (Act::Silu,
            [-0.0719448398, -0.273638286, -0.127667245, 0.0, 0.00050025, 0.467731441, 1.76159416, 4.96653575],
            [-0.0526646149, -0.0412941543, 0.35221999, 0.5, 0.5005, 0.823386783, 1.09078425, 1.02654743]),
    ];
    for (kind, y, slope) in cases {
        let (ran, grads) = gradients(&Activation { kind }, 1, &[(&[8], &POINTS)], &[Some(&[1.0; 8])]);
        close(&ran.outs[0].to_f64().unwrap(), &y, &format!("{kind:?}"));
        close(&grads[0], &slope, &format!("slope of {kind:?}"));
    }
}

#[test]
fn activations_stay_finite_at_the_ends_and_pass_nan_on() {
    let device = Device::cpu();
    for kind in [Act::GeluErf, Act::GeluTanh, Act::QuickGelu, Act::SquaredRelu, Act::Relu, Act::Silu] {
        for dtype in [DType::F32, DType::Bf16] {
            let ends = real(&device, dtype, &[4], &[-1e4, -100.0, 100.0, 1e4]);
            let spec = ends.spec();
            let ran = run::forward(&Activation { kind }, vec![ends], Needs(1)).unwrap();
            let y = ran.outs[0].to_f64().unwrap();
            assert!(
                y[0].abs() < 1e-6 && y[1].abs() < 1e-6 && y[3].is_finite() && y[3] > 0.0,
                "{kind:?} {y:?}"
            );
            let dy = real(&device, dtype, &[4], &[1.0; 4]);
            let want = vec![Want::New(dtype, Role::Gradient)];
            let op = Activation { kind };
            let d = run::backward(&op, &"".into(), &[spec], ran.saved, vec![Some(dy)], want).unwrap();
            let d = d[0].as_ref().unwrap().to_f64().unwrap();
            assert!(d[0].abs() < 1e-6 && d[3].is_finite() && d[3] > 0.9, "slope of {kind:?}: {d:?}");
            let nan = real(&device, dtype, &[1], &[f64::NAN]);
            let y = run::forward(&Activation { kind }, vec![nan], Needs::default()).unwrap();
            assert!(y.outs[0].to_f64().unwrap()[0].is_nan(), "{kind:?}");
        }
    }
}

#[test]
fn the_first_half_of_a_packed_row_is_the_gate() {
    let row = [1.0, -2.0, 3.0, 0.5];
    let cases = [
        (Act::Silu, [2.19317574, -0.119202922], [2.78301154, 0.0226960622, 0.731058579, 0.119202922]),
        (Act::GeluErf, [2.52403424, -0.0227501319], [3.24994641, 0.0213079503, 0.841344746, 0.0227501319]),
        (Act::Relu, [3.0, 0.0], [3.0, 0.0, 1.0, 0.0]),
    ];
    for (act, y, dx) in cases {
        let (ran, grads) = gradients(&Gated { act }, 1, &[(&[1, 4], &row)], &[Some(&[1.0, -0.5])]);
        assert_eq!(ran.outs[0].dims(), [1, 2]);
        close(&ran.outs[0].to_f64().unwrap(), &y, &format!("{act:?}"));
        close(&grads[0], &dx, &format!("gradient of {act:?}"));
    }
}

#[test]
fn rope_turns_queries_and_keys_and_leaves_values() {
    // One head of 8 at position 7, as transformers' apply_rotary_pos_emb turns it (f32).
    let head = [1.0, 2.0, 3.0, 4.0, -1.0, 0.5, 0.25, 2.0];
    let turned =
        [1.41088891, 1.20757556, 2.97516751, 3.98590207, -0.0969156623, 1.67085648, 0.459216297, 2.02795076];
    let device = Device::cpu();
    let x = real(&device, DType::F32, &[1, 24], &[head, head, head].concat());
    let table =
        Buffer::from_slice(&device, [1, 8], &rope::table(&[7], 8, 1e4, 1.0), Role::Activation).unwrap();
    let op = Rope { heads: 1, kv_heads: 1, head_dim: 8, rotary_dim: 8 };
    let y = run::forward(&op, vec![x, table], Needs::default()).unwrap().outs[0].to_f64().unwrap();
    for (part, want) in y.chunks(8).zip([turned, turned, head]) {
        for (got, want) in part.iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{y:?}");
        }
    }
}

#[test]
fn rope_angles_are_those_of_transformers() {
    // LlamaRotaryEmbedding of transformers 5.23: (position, dim, theta, factor), pairs, cosines, sines.
    type Angles<'a> = ((u32, usize, f64, f64), &'a [usize], &'a [f64], &'a [f64]);
    let cases: [Angles; 2] = [
        (
            (4095, 8, 1e4, 1.0),
            &[0, 1, 2, 3],
            &[-0.0659759939, 0.459863335, -0.994033098, -0.578907907],
            &[-0.997821212, 0.8879897, -0.109078795, -0.815392911],
        ),
        (
            (2047, 32, 1e4, 3.0),
            &[0, 5, 15],
            &[-0.82092452, 0.783009529, 0.992647588],
            &[-0.571036756, 0.622009695, 0.121040404],
        ),
    ];
    for ((position, dim, theta, factor), pairs, cos, sin) in cases {
        let table = rope::table(&[0, position], dim, theta, factor);
        let table: Vec<f64> = table.into_iter().map(f64::from).collect();
        assert_eq!(table[..dim / 2], vec![1.0; dim / 2]);
        assert_eq!(table[dim / 2..dim], vec![0.0; dim / 2]);
        for ((&i, c), s) in pairs.iter().zip(cos).zip(sin) {
            assert!((table[dim + i] - c).abs() <= 6e-8, "cos {i} at {position}: {} {c}", table[dim + i]);
            assert!((table[dim + dim / 2 + i] - s).abs() <= 6e-8, "sin {i} at {position}");
        }
    }
}

fn dropped(op: &Dropout, rows: &[u32], width: usize) -> Vec<f64> {
    let device = Device::cpu();
    let x = real(&device, DType::F32, &[rows.len(), width], &vec![1.0; rows.len() * width]);
    run::forward(op, vec![x, keys(&device, rows)], Needs::default()).unwrap().outs[0].to_f64().unwrap()
}

#[test]
fn dropout_drops_the_share_it_was_told_and_scales_the_rest() {
    for p in [0.1, 0.5, 0.9] {
        let rows: Vec<u32> = (0..500).collect();
        let y = dropped(&Dropout { p, seed: 11 }, &rows, 300);
        let kept = (1.0 / (1.0 - p)) as f32 as f64;
        assert!(y.iter().all(|&v| v == 0.0 || v == kept), "p = {p}");
        let n = y.len() as f64;
        let share = y.iter().filter(|v| **v == 0.0).count() as f64 / n;
        assert!((share - p).abs() < 4.0 * (p * (1.0 - p) / n).sqrt(), "p = {p}: dropped {share}");
        // Rows and columns scatter as independent draws do: 800 of them stay within 4.5 standard errors.
        let rows = (0..500).map(|r| y[r * 300..(r + 1) * 300].to_vec());
        let columns = (0..300).map(|c| y.iter().skip(c).step_by(300).copied().collect());
        for line in rows.chain(columns) {
            let n = line.len() as f64;
            let share = line.iter().filter(|v| **v == 0.0).count() as f64 / n;
            assert!((share - p).abs() < 4.5 * (p * (1.0 - p) / n).sqrt(), "p = {p}: {share}");
        }
    }
}

#[test]
fn dropout_masks_are_independent_between_rows_seeds_and_neighbours() {
    let n = 64 * 1024;
    let mask = |seed, key| dropped(&Dropout { p: 0.5, seed }, &[key], n);
    let agreement =
        |a: &[f64], b: &[f64]| a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64;
    let base = mask(1, 0);
    let bound = 4.0 * (0.25 / n as f64).sqrt();
    for (what, other) in
        [("key", mask(1, 1)), ("seed", mask(2, 0)), ("upper half of the seed", mask(1 | 1 << 32, 0))]
    {
        assert!((agreement(&base, &other) - 0.5).abs() < bound, "{what}");
    }
    for lag in [1, 2, 3, 4, 16, 64] {
        assert!((agreement(&base[lag..], &base[..n - lag]) - 0.5).abs() < bound * 1.01, "lag {lag}");
    }
}

#[test]
fn dropout_of_a_row_depends_on_its_key_alone() {
    let op = Dropout { p: 0.3, seed: 5 };
    let batch = dropped(&op, &[8, 3, 9], 131);
    assert_eq!(dropped(&op, &[3], 131), batch[131..262]);
    assert_eq!(dropped(&op, &[3], 70), batch[131..201], "narrower rows are cut, not redrawn");
}

#[test]
fn rows_are_bit_equal_alone_and_in_a_batch() {
    let device = Device::cpu();
    let (rows, width) = (400, 96); // more than one task
    let values: Vec<f64> = (0..rows * width).map(|i| ((i * 7919 % 1009) as f64 - 504.0) / 127.0).collect();
    let w = real(&device, DType::F32, &[width], &values[..width]);
    let table = rope::table(&(0..rows as u32).collect::<Vec<_>>(), 8, 1e4, 1.0);
    let x = |range: std::ops::Range<usize>| {
        real(&device, DType::F32, &[range.len(), width], &values[range.start * width..range.end * width])
    };
    type Inputs<'a> = Box<dyn Fn(std::ops::Range<usize>) -> Vec<Buffer> + 'a>;
    let cases: Vec<(Box<dyn Op>, Inputs)> = vec![
        (Box::new(RmsNorm { eps: 1e-5 }), Box::new(|r| vec![x(r), w.clone()])),
        (Box::new(LayerNorm { eps: 1e-5, one_plus: true }), Box::new(|r| vec![x(r), w.clone(), w.clone()])),
        (Box::new(AddRmsNorm { eps: 1e-5 }), Box::new(|r| vec![x(r.clone()), x(r), w.clone()])),
        (Box::new(Gated { act: Act::Silu }), Box::new(|r| vec![x(r)])),
        (Box::new(Activation { kind: Act::GeluErf }), Box::new(|r| vec![x(r)])),
        (Box::new(Scale { factor: 0.1 }), Box::new(|r| vec![x(r)])),
        (
            Box::new(Rope { heads: 4, kv_heads: 4, head_dim: 8, rotary_dim: 8 }),
            Box::new(|r| {
                let angles = &table[r.start * 8..r.end * 8];
                vec![
                    x(r.clone()),
                    Buffer::from_slice(&device, [r.len(), 8], angles, Role::Activation).unwrap(),
                ]
            }),
        ),
    ];
    for (op, ins) in &cases {
        let all = run::forward(op.as_ref(), ins(0..rows), Needs::default()).unwrap().outs.remove(0);
        let all = all.to_vec::<f32>().unwrap();
        let out = all.len() / rows;
        for row in [0, 171, rows - 1] {
            let alone =
                run::forward(op.as_ref(), ins(row..row + 1), Needs::default()).unwrap().outs.remove(0);
            assert_eq!(
                alone.to_vec::<f32>().unwrap(),
                all[row * out..(row + 1) * out],
                "{} row {row}",
                op.name()
            );
        }
    }
}

#[test]
fn work_in_place_spares_a_shared_input() {
    let device = Device::cpu();
    let x = real(&device, DType::F32, &[2, 4], &X);
    let address = x.slice::<f32>().as_ptr();
    let held = x.clone();
    let y = run::forward(&Scale { factor: 2.0 }, vec![x], Needs::default()).unwrap().outs.remove(0);
    assert_eq!(held.to_f64().unwrap(), X, "a second holder sees no change");
    drop(y);
    let y = run::forward(&Scale { factor: 2.0 }, vec![held], Needs::default()).unwrap().outs.remove(0);
    assert_eq!(y.slice::<f32>().as_ptr(), address, "a single holder's bytes are rewritten");
}

#[test]
fn empty_inputs_are_legal() {
    let device = Device::cpu();
    let none = |dims: &[usize]| real(&device, DType::F32, dims, &[]);
    let w = real(&device, DType::F32, &[4], &W);
    let ops: Vec<(Box<dyn Op>, Vec<Buffer>)> = vec![
        (Box::new(RmsNorm { eps: 1e-5 }), vec![none(&[0, 4]), w.clone()]),
        (Box::new(LayerNorm { eps: 1e-5, one_plus: false }), vec![none(&[0, 4]), w.clone(), w.clone()]),
        (Box::new(AddRmsNorm { eps: 1e-5 }), vec![none(&[0, 4]), none(&[0, 4]), w.clone()]),
        (Box::new(Gated { act: Act::Silu }), vec![none(&[0, 4])]),
        (Box::new(Gated { act: Act::Silu }), vec![none(&[3, 0])]),
        (Box::new(Dropout { p: 0.1, seed: 0 }), vec![none(&[2, 0]), keys(&device, &[0, 1])]),
        (Box::new(RmsNorm { eps: 1e-5 }), vec![none(&[3, 0]), none(&[0])]),
    ];
    for (op, ins) in ops {
        let specs: Vec<Spec> = ins.iter().map(Buffer::spec).collect();
        let needs = (0..ins.len()).filter(|&i| op.differentiable(i)).map(|i| 1 << i).sum();
        let ran = run::forward(op.as_ref(), ins, Needs(needs)).unwrap();
        let douts = ran.outs.iter().map(|y| Some(none(y.dims()))).collect();
        let wants = (0..specs.len())
            .map(|i| if needs >> i & 1 == 1 { Want::New(DType::F32, Role::Gradient) } else { Want::No })
            .collect();
        let grads = run::backward(op.as_ref(), &"".into(), &specs, ran.saved, douts, wants).unwrap();
        for g in grads.iter().flatten() {
            assert!(
                g.to_f64().unwrap().iter().all(|v| *v == 0.0),
                "{}: the sum over no rows is 0",
                op.name()
            );
        }
    }
}

#[test]
fn mistakes_are_named() {
    let f = |dims: &[usize]| Spec::new(DType::F32, dims);
    let message = |op: &dyn Op, ins: &[Spec]| op.infer(ins).unwrap_err().to_string();
    let rope = |rotary_dim| Rope { heads: 2, kv_heads: 1, head_dim: 8, rotary_dim };
    let u = Spec::new(DType::U32, [2]);
    assert_eq!(
        message(&LayerNorm { eps: 1e-5, one_plus: false }, &[f(&[2, 4]), f(&[4]), f(&[3])]),
        "layer_norm: bias f32[3] does not match x f32[2, 4]"
    );
    assert_eq!(
        message(&AddRmsNorm { eps: 1e-5 }, &[f(&[2, 4]), f(&[1, 4]), f(&[4])]),
        "add_rms_norm: residual f32[1, 4] does not match x f32[2, 4]"
    );
    assert_eq!(
        message(&Gated { act: Act::Silu }, &[f(&[2, 5])]),
        "gated: f32[2, 5] is not [gate | up]: its width is odd"
    );
    assert_eq!(
        message(&rope(8), &[f(&[2, 24]), f(&[2, 8])]),
        "rope: f32[2, 24] is not (2 + 2 x 1 heads) x 8 = 32 wide"
    );
    assert_eq!(
        message(&rope(7), &[f(&[2, 32]), f(&[2, 7])]),
        "rope: rotary_dim 7 is not an even number from 2 to head_dim 8"
    );
    assert_eq!(
        message(&rope(8), &[f(&[2, 32]), f(&[3, 8])]),
        "rope: table f32[3, 8] is not f32[2, 8], as x f32[2, 32] needs"
    );
    for p in [1.0, -0.1, f64::NAN] {
        assert_eq!(
            message(&Dropout { p, seed: 0 }, &[f(&[2, 4]), u]),
            format!("dropout: the probability p = {p} is not in [0, 1)")
        );
    }
    assert_eq!(
        message(&Dropout { p: 0.1, seed: 0 }, &[f(&[3, 4]), u]),
        "dropout: keys u32[2] are not one per row of x f32[3, 4]"
    );
}
