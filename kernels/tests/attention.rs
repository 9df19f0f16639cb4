//! Attention against a plain softmax, and the promise that a row's bits depend on that row alone.

#![allow(clippy::unwrap_used)]

use kernels::attention::{Attention, CachedAttention};
use kernels::check::Random;
use kernels::device::{Buffer, Device, Role};
use kernels::dtype::{Float, Real, bf16};
use kernels::kv_cache::KvAppend;
use kernels::op::{Needs, Want};
use kernels::{DType, Error, Spec, run};

/// Heads of queries, heads of keys, width.
type Heads = [usize; 3];

fn width([heads, kv_heads, d]: Heads) -> usize {
    (heads + 2 * kv_heads) * d
}

fn op([heads, kv_heads, head_dim]: Heads, causal: bool, max_len: usize) -> Attention {
    Attention { heads, kv_heads, head_dim, causal, scale: (head_dim as f64).powf(-0.5), max_len, pairs: 0 }
}

/// Normal values that bf16 holds exactly.
fn values(n: usize, seed: u64) -> Vec<f64> {
    let mut random = Random::new(seed);
    (0..n).map(|_| Real::to_f64(<bf16 as Real>::from_f64(random.normal()))).collect()
}

fn ends(lens: &[usize]) -> Vec<u32> {
    let mut ends = vec![0];
    for len in lens {
        ends.push(ends[ends.len() - 1] + *len as u32);
    }
    ends
}

/// out, lse and dqkv of packed sequences, as f64.
fn attend(
    dtype: DType,
    heads: Heads,
    causal: bool,
    lens: &[usize],
    qkv: &[f64],
    dout: &[f64],
) -> [Vec<f64>; 3] {
    let device = Device::cpu_poisoned();
    let op = op(heads, causal, lens.iter().copied().max().unwrap());
    let tokens: usize = lens.iter().sum();
    let qkv =
        Buffer::from_f64(&device, Spec::new(dtype, [tokens, width(heads)]), qkv, Role::Activation).unwrap();
    let ends = ends(lens);
    let sequences = Buffer::from_slice(&device, [ends.len()], &ends, Role::Activation).unwrap();
    let specs = [qkv.spec(), sequences.spec()];
    let ran = run::forward(&op, vec![qkv, sequences], Needs(1)).unwrap();
    let out = ran.outs[0].to_f64().unwrap();
    let lse = ran.saved[3].to_f64().unwrap();
    let dout = Buffer::from_f64(&device, ran.outs[0].spec(), dout, Role::Activation).unwrap();
    let wants = vec![Want::New(dtype, Role::Activation), Want::No];
    let grads = run::backward(&op, &"".into(), &specs, ran.saved, vec![Some(dout)], wants).unwrap();
    [out, lse, grads[0].as_ref().unwrap().to_f64().unwrap()]
}

/// The same by the definition, for one sequence, with every matrix stored as `T`: scores, weights and their gradients
/// too, as attention without a fused kernel does it.
fn plain<T: Real>([heads, kv_heads, d]: Heads, causal: bool, qkv: &[f64], dout: &[f64]) -> [Vec<f64>; 3] {
    let w = width([heads, kv_heads, d]);
    let n = qkv.len() / w;
    let stored = |x: T::Acc| T::from_acc(x).to_acc();
    let narrow = |v: &[f64]| v.iter().map(|&x| T::from_f64(x).to_acc()).collect::<Vec<T::Acc>>();
    let (qkv, dout) = (narrow(qkv), narrow(dout));
    let scale = T::Acc::of((d as f64).powf(-0.5));
    let mut out = vec![T::Acc::ZERO; n * heads * d];
    let mut lse = vec![T::Acc::ZERO; n * heads];
    let mut dqkv = vec![T::Acc::ZERO; qkv.len()];
    for h in 0..heads {
        let kv = h / (heads / kv_heads);
        let (q, k, v) = (h * d, (heads + kv) * d, (heads + kv_heads + kv) * d);
        let dot = |a: &[T::Acc], b: &[T::Acc]| a.iter().zip(b).map(|(&a, &b)| a * b).sum::<T::Acc>();
        for i in 0..n {
            let seen = if causal { i + 1 } else { n };
            let qi = &qkv[i * w + q..][..d];
            let s: Vec<T::Acc> = (0..seen).map(|j| stored(scale * dot(qi, &qkv[j * w + k..][..d]))).collect();
            let top = s.iter().copied().fold(T::Acc::NEG_INFINITY, T::Acc::max);
            let sum: T::Acc = s.iter().map(|&s| (s - top).exp()).sum();
            let p: Vec<T::Acc> = s.iter().map(|&s| stored((s - top).exp() / sum)).collect();
            lse[i * heads + h] = top + sum.ln();
            let g = &dout[(i * heads + h) * d..][..d];
            let dp: Vec<T::Acc> = (0..seen).map(|j| stored(dot(g, &qkv[j * w + v..][..d]))).collect();
            let row = &mut out[(i * heads + h) * d..][..d];
            for j in 0..seen {
                for c in 0..d {
                    row[c] += p[j] * qkv[j * w + v + c];
                }
            }
            row.iter_mut().for_each(|x| *x = stored(*x));
            let mean = dot(g, row);
            for j in 0..seen {
                let ds = stored(p[j] * (dp[j] - mean) * scale);
                for c in 0..d {
                    dqkv[i * w + q + c] += ds * qkv[j * w + k + c];
                    dqkv[j * w + k + c] += ds * qkv[i * w + q + c];
                    dqkv[j * w + v + c] += p[j] * g[c];
                }
            }
        }
    }
    let dqkv = dqkv.into_iter().map(stored).collect();
    [out, lse, dqkv].map(|v: Vec<T::Acc>| v.into_iter().map(Float::f64).collect())
}

/// The largest error in rounding steps of the type, relative to the element or to the root mean square of all.
fn error_steps(dtype: DType, got: &[f64], want: &[f64]) -> f64 {
    let step = match dtype {
        DType::Bf16 => 2f64.powi(-8),
        DType::F64 => 2f64.powi(-53),
        _ => 2f64.powi(-24),
    };
    let size = (want.iter().map(|v| v * v).sum::<f64>() / want.len() as f64).sqrt();
    let error = |(g, w): (&f64, &f64)| {
        if g.is_finite() { (g - w).abs() / (step * size.max(w.abs()).max(1e-30)) } else { f64::INFINITY }
    };
    got.iter().zip(want).map(error).fold(0.0, f64::max)
}

/// The rule of the FlashAttention authors: no further from the truth than twice the plain algorithm in the same
/// precision. Truth is the plain algorithm in f64; against it our own f64 may be off by its rounding alone.
#[test]
fn is_as_exact_as_a_plain_softmax_in_the_same_precision() {
    for (heads, causal, n) in [
        ([2, 2, 64], false, 257),
        ([2, 1, 64], true, 257),
        ([1, 1, 64], false, 577),
        ([2, 1, 24], true, 577),
        ([1, 1, 256], true, 70),
        ([3, 1, 40], false, 65),
        ([2, 2, 8], true, 1),
    ] {
        let qkv = values(n * width(heads), 1);
        let dout = values(n * heads[0] * heads[2], 2);
        let truth = plain::<f64>(heads, causal, &qkv, &dout);
        let peers = [plain::<f32>(heads, causal, &qkv, &dout), plain::<bf16>(heads, causal, &qkv, &dout)];
        for dtype in [DType::F64, DType::F32, DType::Bf16] {
            let got = attend(dtype, heads, causal, &[n], &qkv, &dout);
            for (i, what) in ["out", "lse", "dqkv"].into_iter().enumerate() {
                let of = if what == "lse" { dtype.acc() } else { dtype };
                let allowed = match of {
                    DType::F64 => 200.0,
                    DType::F32 => 2.0 * error_steps(of, &peers[0][i], &truth[i]) + 1.0,
                    _ => 2.0 * error_steps(of, &peers[1][i], &truth[i]) + 1.0,
                };
                let error = error_steps(of, &got[i], &truth[i]);
                println!(
                    "{heads:?} causal {causal} n {n} {dtype} {what}: {error:.1} steps, {allowed:.1} allowed"
                );
                assert!(error <= allowed, "{heads:?} causal {causal} n {n} {dtype} {what}: {error} steps");
            }
        }
    }
}

#[test]
fn a_sequence_has_the_same_bits_alone_and_in_a_pack() {
    let heads = [4, 2, 16];
    let lens = [5, 0, 130, 1, 64, 65, 257];
    let (w, o) = (width(heads), heads[0] * heads[2]);
    let tokens: usize = lens.iter().sum();
    let (qkv, dout) = (values(tokens * w, 3), values(tokens * o, 4));
    for dtype in [DType::F32, DType::Bf16] {
        for causal in [true, false] {
            let [out, lse, dqkv] = attend(dtype, heads, causal, &lens, &qkv, &dout);
            let ends = ends(&lens);
            for (b, &len) in lens.iter().enumerate().filter(|(_, len)| **len > 0) {
                let at = ends[b] as usize;
                let part = |all: &[f64], width: usize| all[at * width..(at + len) * width].to_vec();
                let alone = attend(dtype, heads, causal, &[len], &part(&qkv, w), &part(&dout, o));
                let packed = [part(&out, o), part(&lse, heads[0]), part(&dqkv, w)];
                assert!(bits(&alone) == bits(&packed), "{dtype} causal {causal} sequence of {len}");
            }
        }
    }
}

#[test]
fn a_causal_row_has_the_same_bits_whatever_follows_it() {
    let heads = [2, 1, 24];
    let (w, o, n) = (width(heads), 48, 200);
    let (mut qkv, dout) = (values(n * w, 5), values(n * o, 6));
    for dtype in [DType::F32, DType::Bf16] {
        let [whole, ..] = attend(dtype, heads, true, &[n], &qkv, &dout);
        for len in [1, 7, 8, 9, 63, 64, 65, 127, 130, 199] {
            let [out, ..] = attend(dtype, heads, true, &[len], &qkv[..len * w], &dout[..len * o]);
            assert!(bits(&[out]) == bits(&[whole[..len * o].to_vec()]), "{dtype}, first {len} of {n} rows");
        }
    }
    // Not even infinities behind it reach a row.
    let [whole, ..] = attend(DType::F32, heads, true, &[n], &qkv, &dout);
    qkv[131 * w..].fill(f64::INFINITY);
    let [out, ..] = attend(DType::F32, heads, true, &[n], &qkv, &dout);
    assert!(bits(&[out[..131 * o].to_vec()]) == bits(&[whole[..131 * o].to_vec()]));
}

#[test]
fn one_thread_and_several_give_the_same_bits() {
    let heads = [4, 2, 32];
    let lens = [100, 1, 300];
    let (qkv, dout) = (values(401 * width(heads), 7), values(401 * 128, 8));
    for dtype in [DType::F32, DType::Bf16] {
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            bits(&pool.install(|| attend(dtype, heads, true, &lens, &qkv, &dout)))
        };
        let one = with(1);
        assert!(one == with(2) && one == with(5), "{dtype}");
    }
}

/// The bits, with zeros of either sign told apart.
fn bits(values: &[Vec<f64>]) -> Vec<Vec<u64>> {
    values.iter().map(|v| v.iter().map(|x| x.to_bits()).collect()).collect()
}

/// Appends rows of qkv to the cache and attends to it.
fn step(heads: Heads, cache: Buffer, qkv: &Buffer, slots: &[u32], positions: &[u32]) -> (Buffer, Vec<f64>) {
    let [h, kv_heads, head_dim] = heads;
    let capacity = cache.dims()[1] as u32;
    let device = cache.device().clone();
    let table = |v: &[u32]| Buffer::from_slice(&device, [v.len()], v, Role::Activation).unwrap();
    let rows: Vec<u32> = slots.iter().zip(positions).map(|(s, p)| s * capacity + p).collect();
    let append = KvAppend { kv_heads, head_dim };
    let cache = run::update(&append, vec![cache, qkv.clone(), table(&rows)]).unwrap().remove(0);
    let scale = (head_dim as f64).powf(-0.5);
    let op = CachedAttention { heads: h, kv_heads, head_dim, scale, max_len: capacity as usize, pairs: 0 };
    let ins = vec![qkv.clone(), cache.clone(), table(slots), table(positions)];
    let out = run::forward(&op, ins, Needs::default()).unwrap().outs.remove(0).to_f64().unwrap();
    (cache, out)
}

#[test]
fn decoding_from_the_cache_has_the_bits_of_the_whole_sequence() {
    for heads in [[4, 2, 16], [2, 2, 64]] {
        let (w, o, n) = (width(heads), heads[0] * heads[2], 150);
        let qkv = values(n * w, 9);
        for dtype in [DType::F32, DType::Bf16] {
            let [whole, ..] = attend(dtype, heads, true, &[n], &qkv, &vec![0.0; n * o]);
            let device = Device::cpu_poisoned();
            let all = Buffer::from_f64(&device, Spec::new(dtype, [n, w]), &qkv, Role::Activation).unwrap();
            let kv = 2 * heads[1] * heads[2];
            let mut cache = device.alloc(Spec::new(dtype, [3, 160, kv]), Role::Activation).unwrap();
            // A prefill of 70 rows in slot 1, then single rows; slot 0 decodes the same sequence from its start
            // beside it, so that a batch mixes slots and lengths.
            let mut got = vec![vec![0.0; n * o]; 2];
            let mut put = |slot: usize, first: usize, out: &[f64]| {
                got[slot][first * o..first * o + out.len()].copy_from_slice(out)
            };
            let positions: Vec<u32> = (0..70).collect();
            let (next, out) = step(heads, cache, &all.rows(0..70), &[1; 70], &positions);
            cache = next;
            put(1, 0, &out);
            for i in 0..n {
                let late = 70 + i;
                if late < n {
                    let two =
                        [all.rows(i..i + 1), all.rows(late..late + 1)].map(|b| b.to_f64().unwrap()).concat();
                    let two =
                        Buffer::from_f64(&device, Spec::new(dtype, [2, w]), &two, Role::Activation).unwrap();
                    let (next, out) = step(heads, cache, &two, &[0, 1], &[i as u32, late as u32]);
                    cache = next;
                    put(0, i, &out[..o]);
                    put(1, late, &out[o..]);
                } else {
                    let (next, out) = step(heads, cache, &all.rows(i..i + 1), &[0], &[i as u32]);
                    cache = next;
                    put(0, i, &out);
                }
            }
            for slot in got {
                assert!(bits(&[slot]) == bits(std::slice::from_ref(&whole)), "{heads:?} {dtype}");
            }
        }
    }
}

#[test]
fn scratch_does_not_grow_with_the_length_nor_anything_with_its_square() {
    let heads = [1, 1, 16];
    let scratch = |n: usize| {
        let device = Device::cpu();
        let op = op(heads, true, n);
        let qkv = Buffer::zeros(&device, Spec::new(DType::F32, [n, width(heads)]), Role::Weight).unwrap();
        let sequences = Buffer::from_slice(&device, [2], &[0, n as u32], Role::Weight).unwrap();
        let specs = [qkv.spec(), sequences.spec()];
        let ran = run::forward(&op, vec![qkv, sequences], Needs(1)).unwrap();
        let forward = device.peak_bytes_of(Role::Workspace);
        device.reset_peak();
        let dout = Buffer::zeros(&device, ran.outs[0].spec(), Role::Activation).unwrap();
        let wants = vec![Want::New(DType::F32, Role::Activation), Want::No];
        run::backward(&op, &"".into(), &specs, ran.saved, vec![Some(dout)], wants).unwrap();
        (forward, device.peak_bytes_of(Role::Workspace), device.peak_bytes())
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let (short, long) = (pool.install(|| scratch(1024)), pool.install(|| scratch(8192)));
    assert_eq!(short.0, long.0, "forward");
    assert!(long.0 < 100_000, "forward: {} bytes", long.0);
    // Backward holds dq of one head besides its tiles, and one number per row.
    assert_eq!(long.1 - short.1, (8192 - 1024) * (heads[2] + 1) * 4, "backward");
    assert!(long.2 < 8192 * 8192 * 4 / 32, "{} bytes at the peak", long.2);
}

#[test]
fn an_empty_batch_is_legal() {
    for lens in [&[0usize][..], &[0, 0]] {
        let [out, lse, dqkv] = attend(DType::F32, [2, 1, 8], true, lens, &[], &[]);
        assert!(out.is_empty() && lse.is_empty() && dqkv.is_empty());
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let device = Device::cpu();
    let message = |op: Attention, dims: [usize; 2], sequences: &[u32]| {
        let qkv = Buffer::zeros(&device, Spec::new(DType::F32, dims), Role::Weight).unwrap();
        let sequences = Buffer::from_slice(&device, [sequences.len()], sequences, Role::Weight).unwrap();
        run::forward(&op, vec![qkv, sequences], Needs(1)).unwrap_err().to_string()
    };
    let heads = [2, 1, 8];
    for (message, part) in [
        (message(op([3, 2, 8], true, 4), [4, 56], &[0, 4]), "3 query heads cannot share 2 key heads"),
        (message(op([1, 1, 12], true, 4), [4, 36], &[0, 4]), "head_dim 12 is not a multiple of 8"),
        (message(op([1, 1, 264], true, 4), [4, 792], &[0, 4]), "head_dim 264"),
        (message(op(heads, true, 4), [4, 31], &[0, 4]), "qkv f32[4, 31] is not [tokens, (2 + 2 * 1) * 8]"),
        (message(op(heads, true, 4), [4, 32], &[0, 3]), "run from 0 to 3, not from 0 to the 4 tokens"),
        (message(op(heads, true, 4), [4, 32], &[0, 6, 4]), "sequence 0 runs from 0 to 6"),
        (message(op(heads, true, 4), [4, 32], &[0, 3, 2, 4]), "sequence 1 runs from 3 to 2"),
        (message(op(heads, true, 3), [4, 32], &[0, 4]), "longer than max_len 3"),
    ] {
        assert!(message.starts_with("attention: ") && message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn the_cache_refuses_rows_it_has_not() {
    let device = Device::cpu();
    let zeros = |dims: &[usize]| Buffer::zeros(&device, Spec::new(DType::F32, dims), Role::Weight).unwrap();
    let table = |v: &[u32]| Buffer::from_slice(&device, [v.len()], v, Role::Weight).unwrap();
    let append = KvAppend { kv_heads: 1, head_dim: 8 };
    let message = |result: kernels::Result<Vec<Buffer>>| result.unwrap_err().to_string();

    let outside = message(run::update(&append, vec![zeros(&[2, 3, 16]), zeros(&[1, 32]), table(&[6])]));
    assert_eq!(outside, "kv_cache: row 0 goes to row 6, but cache f32[2, 3, 16] has 6");
    let narrow = message(run::update(&append, vec![zeros(&[2, 3, 16]), zeros(&[1, 8]), table(&[0])]));
    assert_eq!(narrow, "kv_cache: qkv f32[1, 8] has no columns for cache f32[2, 3, 16]");
    let held = zeros(&[2, 3, 16]);
    let shared = run::update(&append, vec![held.clone(), zeros(&[1, 32]), table(&[0])]);
    assert!(matches!(shared, Err(Error::NotUnique { .. })));

    let op = CachedAttention { heads: 2, kv_heads: 1, head_dim: 8, scale: 1.0, max_len: 3, pairs: 0 };
    for (slot, position) in [(2, 0), (0, 3)] {
        let ins = vec![zeros(&[1, 32]), held.clone(), table(&[slot]), table(&[position])];
        let text = run::forward(&op, ins, Needs::default()).unwrap_err().to_string();
        assert!(text.contains(&format!("position {position} of slot {slot}")), "{text}");
    }
}
