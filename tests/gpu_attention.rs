//! Attention on the simulated GPU where the catalogue's cases do not reach: contents that point outside, and rows that
//! do not depend on what else is in the batch.
#![allow(clippy::unwrap_used)]

mod simulated;

use kernels::attention::{Attention, CachedAttention};
use kernels::op::Want;
use kernels::{Buffer, DType, Device, Needs, Op, Role, Spec, run};
use simulated::{simulated, simulator, text};
use std::process::Command;

const DTYPES: [DType; 2] = [DType::F32, DType::Bf16];

/// Numbers without a pattern, from -1 to 1, the same for each seed.
fn numbers(seed: u64, n: usize) -> Vec<f64> {
    let number = |i| kernels::random::derive(seed, &[i]) as f64 / u64::MAX as f64 * 2.0 - 1.0;
    (0..n as u64).map(number).collect()
}

fn floats(device: &Device, dtype: DType, dims: &[usize], values: &[f64]) -> Buffer {
    Buffer::from_f64(device, Spec::new(dtype, dims), values, Role::Activation).unwrap()
}

fn u32s(device: &Device, values: &[u32]) -> Buffer {
    Buffer::from_slice(device, [values.len()], values, Role::Activation).unwrap()
}

/// Two heads of 24 values that share one of keys.
fn attention(causal: bool, max_len: usize) -> Attention {
    Attention { heads: 2, kv_heads: 1, head_dim: 24, causal, scale: 0.2, max_len, pairs: 0 }
}

const WIDTH: usize = 4 * 24;

/// Runs attention on these rows; out, and the gradient of qkv for an output gradient of ones.
fn attend(op: &Attention, dtype: DType, qkv: &[f64], ends: &[u32]) -> (Vec<f64>, Vec<f64>) {
    let device = Device::gpu_poisoned(0).unwrap();
    let ins = vec![floats(&device, dtype, &[qkv.len() / WIDTH, WIDTH], qkv), u32s(&device, ends)];
    let specs: Vec<Spec> = ins.iter().map(Buffer::spec).collect();
    let ran = run::forward(op, ins, Needs(1)).unwrap();
    let out = ran.outs[0].to_f64().unwrap();
    let ones = floats(&device, dtype, ran.outs[0].dims(), &vec![1.0; out.len()]);
    let wants = vec![Want::New(dtype, Role::Activation), Want::No];
    let grads = run::backward(op, &"".into(), &specs, ran.saved, vec![Some(ones)], wants).unwrap();
    (out, grads[0].as_ref().unwrap().to_f64().unwrap())
}

#[test]
fn whatever_sequences_holds_nothing_outside_is_touched() {
    simulated(&[&[("NEVA_SIM", "check=bounds")]], || {
        let qkv = numbers(1, 20 * WIDTH);
        for dtype in DTYPES {
            for ends in [[0, 4_000_000_000, 20], [7, 3, u32::MAX], [20, 20, 21]] {
                attend(&attention(true, 20), dtype, &qkv, &ends);
            }
        }
    });
}

#[test]
fn a_sequence_does_not_depend_on_the_others_of_its_pack() {
    simulated(&[&[]], || {
        let (one, other) = (numbers(1, 70 * WIDTH), numbers(2, 9 * WIDTH));
        let pack: Vec<f64> = other.iter().chain(&one).copied().collect();
        for dtype in DTYPES {
            let (out, dqkv) = attend(&attention(true, 70), dtype, &one, &[0, 70]);
            let (packed_out, packed_dqkv) = attend(&attention(true, 70), dtype, &pack, &[0, 9, 79]);
            assert_eq!(packed_out[9 * 48..], out, "{dtype}");
            assert_eq!(packed_dqkv[9 * WIDTH..], dqkv, "{dtype}");
        }
    });
}

/// The rows of out of cached attention for these (slot, position), in a cache of 2 slots of 150 positions.
fn cached(dtype: DType, rows: &[(u32, u32)]) -> Vec<Vec<f64>> {
    let op = CachedAttention { heads: 2, kv_heads: 1, head_dim: 24, scale: 0.2, max_len: 140, pairs: 0 };
    let device = Device::gpu_poisoned(0).unwrap();
    // A row's queries are a function of its slot and position, so that the same row is the same in any batch.
    let qkv: Vec<f64> =
        rows.iter().flat_map(|(s, p)| numbers(((*s as u64) << 32) + *p as u64, WIDTH)).collect();
    let ins = vec![
        floats(&device, dtype, &[rows.len(), WIDTH], &qkv),
        floats(&device, dtype, &[2, 150, 48], &numbers(3, 2 * 150 * 48)),
        u32s(&device, &rows.iter().map(|r| r.0).collect::<Vec<_>>()),
        u32s(&device, &rows.iter().map(|r| r.1).collect::<Vec<_>>()),
    ];
    let out = run::forward(&op as &dyn Op, ins, Needs(0)).unwrap().outs[0].to_f64().unwrap();
    out.chunks(48).map(<[f64]>::to_vec).collect()
}

#[test]
fn a_row_outside_the_cache_gives_nan_and_touches_nothing() {
    simulated(&[&[("NEVA_SIM", "check=race+bounds")], &[("NEVA_SIM", "schedule=random:7,late")]], || {
        // Beyond the slots, max_len and the capacity. Few rows, and as many as share tiles.
        let outside = [(2, 0), (0, 140), (1, 149), (u32::MAX, u32::MAX), (1, u32::MAX)];
        let inside: Vec<(u32, u32)> = (0..12).map(|i| (i / 6, i % 6 * 27)).collect();
        for dtype in DTYPES {
            for rows in [&inside[..4], &inside] {
                let mixed: Vec<_> = outside.iter().chain(rows).copied().collect();
                let got = cached(dtype, &mixed);
                let (bad, good) = got.split_at(outside.len());
                assert!(bad.iter().flatten().all(|v| v.is_nan()), "{dtype}: {bad:?}");
                assert!(good.iter().flatten().all(|v| v.is_finite()), "{dtype}: {good:?}");
            }
            // A tile with no row inside waits for nothing but its queries.
            let bad = cached(dtype, &outside.repeat(8));
            assert!(bad.iter().flatten().all(|v| v.is_nan()), "{dtype}: {bad:?}");
        }
    });
}

#[test]
fn a_decoded_row_is_the_same_alone_and_in_a_batch() {
    simulated(&[&[]], || {
        for dtype in DTYPES {
            let batch = [(0, 139), (1, 5), (0, 127), (1, 128)];
            let together = cached(dtype, &batch);
            for (row, got) in batch.iter().zip(together) {
                assert_eq!(cached(dtype, &[*row]), [got], "{dtype}: {row:?}");
            }
        }
    });
}

/// Kernels are made for heads of up to 256 values. The ops refuse wider ones before anything runs, the CPU too.
#[test]
fn heads_that_are_too_wide_are_refused_alike_on_every_device() {
    simulated(&[&[]], || {
        for device in [Device::cpu(), Device::plan(), Device::gpu(0).unwrap()] {
            for head_dim in [264, 12] {
                let qkv =
                    || Buffer::zeros(&device, Spec::new(DType::Bf16, [4, 3 * head_dim]), Role::Activation);
                let cache =
                    Buffer::zeros(&device, Spec::new(DType::Bf16, [1, 4, 2 * head_dim]), Role::Activation);
                let rows = Buffer::zeros(&device, Spec::new(DType::U32, [4]), Role::Activation).unwrap();
                let ends = Buffer::zeros(&device, Spec::new(DType::U32, [2]), Role::Activation).unwrap();
                let op = Attention {
                    heads: 1,
                    kv_heads: 1,
                    head_dim,
                    causal: true,
                    scale: 0.1,
                    max_len: 4,
                    pairs: 0,
                };
                let cached =
                    CachedAttention { heads: 1, kv_heads: 1, head_dim, scale: 0.1, max_len: 4, pairs: 0 };
                let refused = |op: &dyn Op, ins| run::forward(op, ins, Needs(0)).unwrap_err().to_string();
                let expected = format!("head_dim {head_dim} is not a multiple of 8 between 8 and 256");
                let text = refused(&op, vec![qkv().unwrap(), ends]);
                assert_eq!(text, format!("attention: {expected}"), "{device}");
                let ins = vec![qkv().unwrap(), cache.unwrap(), rows.clone(), rows];
                assert_eq!(refused(&cached, ins), format!("cached_attention: {expected}"), "{device}");
            }
        }
    });
}

/// Runs `neva kernels check` of attention with these arguments, under these settings of the simulator.
fn checked(settings: &str, arguments: &[&str]) {
    let Some(simulator) = simulator() else { return };
    let output = Command::new(env!("CARGO_BIN_EXE_neva"))
        .args(["kernels", "check", "attention", "--device", "cuda"])
        .args(arguments)
        .env_remove("NEVA_KERNEL_DIR")
        .envs(simulator.environment())
        .env("NEVA_SIM", settings)
        .output()
        .unwrap();
    assert!(output.status.success(), "{settings} {arguments:?}: {}", text(&output));
}

/// Before sm_90 the sums of dq take one value at a time. On sm_89 and sm_120 a block has less shared memory, so wide heads
/// have other tiles; and sm_120 takes the scores' product in fewer steps side by side.
#[test]
fn cases_agree_on_cards_of_other_generations() {
    for (arch, arguments) in [
        ("arch=80", &["--case", "head_dim 128"][..]),
        ("arch=80", &["--case", "several tiles of 64, causal", "--any-order"]),
        ("arch=89", &["--case", "head_dim 192"]),
        ("arch=120", &["--case", "head_dim"]),
    ] {
        checked(&format!("{arch},schedule=random:7,check=race+bounds"), arguments);
    }
}

#[test]
fn cases_agree_when_sums_are_made_in_any_order() {
    for settings in ["schedule=highest", "check=race+bounds"] {
        checked(settings, &["--case", "several tiles", "--any-order"]);
    }
}

/// Then exp of minus the logarithm of their sum overflows, and only a key that is seen may be multiplied by it.
#[test]
fn scores_far_below_zero_leave_gradients_finite() {
    simulated(&[&[]], || {
        for dtype in DTYPES {
            for causal in [false, true] {
                // Queries of 10, keys of -2.5: scores of -600, scaled to -120. Values of 1.
                let row: Vec<f64> = (0..WIDTH).map(|i| [10.0, 10.0, -2.5, 1.0][i / 24]).collect();
                let (out, dqkv) = attend(&attention(causal, 70), dtype, &row.repeat(70), &[0, 70]);
                assert!(out.iter().all(|v| (v - 1.0).abs() < 1e-2), "{dtype}, causal {causal}");
                assert!(dqkv.iter().all(|v| v.is_finite()), "{dtype}, causal {causal}");
            }
        }
    });
}
