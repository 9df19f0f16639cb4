//! Every op against numbers that PyTorch and transformers made (`golden/make_ops.py`): outputs and gradients.
#![allow(clippy::unwrap_used)]

use kernels::activation::{Act, Activation};
use kernels::adamw::AdamW;
use kernels::attention::{Attention, CachedAttention};
use kernels::gemm::{Gemm, Kind};
use kernels::op::Want;
use kernels::{Buffer, CATALOGUE, DType, Device, Needs, Op, Role, Spec, run};
use serde_json::Value;
use std::path::PathBuf;

/// Ops that PyTorch cannot vouch for: a dropout mask is a function of our own random numbers.
const WITHOUT: &[&str] = &["dropout"];

#[test]
fn every_op_gives_what_pytorch_gives() {
    let device = Device::cpu_poisoned();
    let mut failures = vec![];
    for entry in CATALOGUE.iter().filter(|e| !WITHOUT.contains(&e.name)) {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{}.json", entry.name));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
        let mut worst = 0f64;
        for case in &cases {
            let error = compare(entry.name, case, &device);
            if error.is_nan() || error > 1.0 {
                failures
                    .push(format!("{}/{}: {error:.1e} times the allowed error", entry.name, case["name"]));
            }
            worst = worst.max(error);
        }
        println!("{:<18} {} cases, worst {worst:.3} of the allowed error", entry.name, cases.len());
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// Runs a case and returns its worst error as a fraction of what is allowed: 1e-14 of the tensor's largest element in
/// f64, which is some fifty rounding steps; four steps of the accumulator in f32; a bf16 number must be exact.
fn compare(name: &str, case: &Value, device: &Device) -> f64 {
    let params = &case["params"];
    let op = op(name, params);
    let dtype = dtype(&case["dtype"]);
    let mut ins: Vec<Buffer> =
        case["inputs"].as_array().unwrap().iter().map(|input| buffer(input, dtype, device)).collect();
    if name == "adamw" {
        let hyper = adamw(params).hyper(float(params, "lr"), int(params, "step") as u64);
        let spec = Spec::new(dtype.acc(), [hyper.len()]);
        ins.insert(0, Buffer::from_f64(device, spec, &hyper, Role::Workspace).unwrap());
    }
    let specs: Vec<Spec> = ins.iter().map(Buffer::spec).collect();
    let grads = case["grads"].as_array();
    let wanted = |i: &usize| grads.is_some_and(|g| !g[*i].is_null());
    let needs = Needs((0..ins.len()).filter(wanted).map(|i| 1 << i).sum());
    let ran = run::forward(op.as_ref(), ins, needs).unwrap();
    let outs = case["outs"].as_array().unwrap();
    assert_eq!(ran.outs.len(), outs.len(), "{name}: outputs");
    let forward = ran.outs.iter().zip(outs).map(|(out, want)| error(out, want));
    let mut worst = forward.fold(0.0, f64::max);
    if let Some(grads) = grads {
        let douts = ran.outs.iter().zip(case["douts"].as_array().unwrap());
        let douts = douts
            .map(|(out, d)| Some(Buffer::from_f64(device, out.spec(), &floats(d), Role::Activation).unwrap()))
            .collect();
        let want = |i| if needs.has(i) { Want::New(dtype, Role::Gradient) } else { Want::No };
        let wants = (0..specs.len()).map(want).collect();
        let got = run::backward(op.as_ref(), &"".into(), &specs, ran.saved, douts, wants).unwrap();
        let backward = got.iter().zip(grads).filter_map(|(got, want)| Some(error(got.as_ref()?, want)));
        worst = backward.fold(worst, f64::max);
    }
    worst
}

fn error(got: &Buffer, want: &Value) -> f64 {
    let (want, got, dtype) = (floats(want), got.to_f64().unwrap(), got.dtype());
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f64, |m, v| m.max(v.abs()));
    let fraction = |(g, w): (&f64, &f64)| match dtype {
        _ if g == w => 0.0,
        DType::F64 => (g - w).abs() / (1e-14 * largest),
        DType::F32 => (g - w).abs() / (4.0 * 2f64.powi(-24) * w.abs()),
        // Reading a decimal number may lose a bit of f64, which is far from a step of bf16.
        _ => (g - w).abs() / (1e-15 * w.abs()),
    };
    got.iter().zip(&want).map(fraction).fold(0.0, |a, b| if b.is_nan() { b } else { a.max(b) })
}

fn buffer(input: &Value, dtype: DType, device: &Device) -> Buffer {
    let dims: Vec<usize> =
        input["dims"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
    let values = floats(&input["values"]);
    let dtype = match input["kind"].as_str().unwrap() {
        "T" => dtype,
        "acc" => dtype.acc(),
        "u32" => {
            let ids: Vec<u32> = values.iter().map(|v| *v as u32).collect();
            return Buffer::from_slice(device, dims, &ids, Role::Workspace).unwrap();
        }
        other => panic!("kind {other}"),
    };
    Buffer::from_f64(device, Spec::new(dtype, dims), &values, Role::Workspace).unwrap()
}

/// The op of a catalogue row with the parameters of a case.
fn op(name: &str, p: &Value) -> Box<dyn Op> {
    match name {
        "activation" => Box::new(Activation { kind: act(p) }),
        "adamw" => Box::new(adamw(p)),
        "add" => Box::new(kernels::add::Add),
        "add_rms_norm" => Box::new(kernels::add_rms_norm::AddRmsNorm { eps: float(p, "eps") }),
        "attention" => {
            let head_dim = int(p, "head_dim");
            Box::new(Attention {
                heads: int(p, "heads"),
                kv_heads: int(p, "kv_heads"),
                head_dim,
                causal: flag(p, "causal"),
                scale: (head_dim as f64).powf(-0.5),
                max_len: int(p, "max_len"),
                pairs: 0,
            })
        }
        "cached_attention" => {
            let head_dim = int(p, "head_dim");
            Box::new(CachedAttention {
                heads: int(p, "heads"),
                kv_heads: int(p, "kv_heads"),
                head_dim,
                scale: (head_dim as f64).powf(-0.5),
                max_len: int(p, "max_len"),
                pairs: 0,
            })
        }
        "cast" => Box::new(kernels::cast::Cast { to: dtype(&p["to"]) }),
        "column_sum" => Box::new(kernels::column_sum::ColumnSum),
        "cross_entropy" => Box::new(kernels::cross_entropy::CrossEntropy),
        "embedding" => Box::new(kernels::embedding::Embedding),
        "gated" => Box::new(kernels::gated::Gated { act: act(p) }),
        "gemm" => {
            let kind = match p["kind"].as_str().unwrap() {
                "NN" => Kind::NN,
                "NT" => Kind::NT,
                "TN" => Kind::TN,
                other => panic!("kind {other}"),
            };
            Box::new(Gemm { kind, bias: flag(p, "bias"), accumulate: flag(p, "accumulate") })
        }
        "kv_cache" => Box::new(kernels::kv_cache::KvAppend {
            kv_heads: int(p, "kv_heads"),
            head_dim: int(p, "head_dim"),
        }),
        "layer_norm" => {
            Box::new(kernels::layer_norm::LayerNorm { eps: float(p, "eps"), one_plus: flag(p, "one_plus") })
        }
        "patchify" => Box::new(kernels::patchify::Patchify { patch: int(p, "patch") }),
        "rms_norm" => Box::new(kernels::rms_norm::RmsNorm { eps: float(p, "eps") }),
        "rope" => Box::new(kernels::rope::Rope {
            heads: int(p, "heads"),
            kv_heads: int(p, "kv_heads"),
            head_dim: int(p, "head_dim"),
            rotary_dim: int(p, "rotary_dim"),
        }),
        "scale" => Box::new(kernels::scale::Scale { factor: float(p, "factor") }),
        "splice" => Box::new(kernels::splice::Splice),
        "sum_squares" => Box::new(kernels::sum_squares::SumSquares),
        "top_k" => Box::new(kernels::top_k::TopK { k: int(p, "k"), columns: int(p, "columns") }),
        other => panic!("{other}: no golden case says how to build it"),
    }
}

fn adamw(p: &Value) -> AdamW {
    AdamW {
        beta1: float(p, "beta1"),
        beta2: float(p, "beta2"),
        eps: float(p, "eps"),
        weight_decay: float(p, "weight_decay"),
        clip: float(p, "clip"),
        narrow: flag(p, "narrow"),
    }
}

/// An activation by the name that transformers gives it.
fn act(p: &Value) -> Act {
    match p["act"].as_str().unwrap() {
        "gelu" => Act::GeluErf,
        "gelu_pytorch_tanh" => Act::GeluTanh,
        "quick_gelu" => Act::QuickGelu,
        "relu2" => Act::SquaredRelu,
        "relu" => Act::Relu,
        "silu" => Act::Silu,
        other => panic!("activation {other}"),
    }
}

fn dtype(v: &Value) -> DType {
    match v.as_str().unwrap() {
        "f64" => DType::F64,
        "f32" => DType::F32,
        "bf16" => DType::Bf16,
        other => panic!("type {other}"),
    }
}

fn floats(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn float(p: &Value, key: &str) -> f64 {
    p[key].as_f64().unwrap()
}

fn int(p: &Value, key: &str) -> usize {
    p[key].as_u64().unwrap() as usize
}

fn flag(p: &Value, key: &str) -> bool {
    p[key].as_bool().unwrap()
}

/// The rotation table against transformers' rotary embedding, in f32.
#[test]
fn rope_table_is_that_of_transformers() {
    let text = include_str!("golden/rope.json");
    let cases: Vec<Value> = serde_json::from_str(text).unwrap();
    for case in cases {
        let p = &case["params"];
        let positions: Vec<u32> = floats(&p["positions"]).iter().map(|v| *v as u32).collect();
        let table = kernels::rope::table(&positions, int(p, "rotary_dim"), float(p, "theta"), 1.0);
        let want = floats(&case["inputs"][1]["values"]);
        assert_eq!(table.len(), want.len());
        for (got, want) in table.iter().zip(want) {
            // At position 700 one rounding of the angle moves it by 3e-5.
            assert!((*got as f64 - want).abs() <= 4e-5, "{got} is not {want}");
        }
    }
}
