//! The ops of NeVA-7B and 13B at the sizes that fill a GPU: what `neva kernels bench` times there.
//!
//! An op's own cases follow from its code: its paths, its edges. These follow from the model, so they are one list, and
//! its numbers are the model's: 8,192 tokens of a LLaMA-2 decoder, 32 images of CLIP ViT-L/14 at 336 pixels, and for
//! attention the setting in which published figures are given, 16 Ki tokens and 2,048 columns in all.
//!
//! The same list shrinks ([`Scale::Smoke`]), so that tests run each row of it on any machine.

use super::{Case, Fill, Input, Of};
use crate::activation::{Act, Activation};
use crate::adamw::AdamW;
use crate::add::Add;
use crate::add_rms_norm::AddRmsNorm;
use crate::attention::{CachedAttention, of_lengths};
use crate::cast::Cast;
use crate::column_sum::ColumnSum;
use crate::cross_entropy::CrossEntropy;
use crate::dropout::Dropout;
use crate::embedding::Embedding;
use crate::gated::Gated;
use crate::gemm::{self, Gemm};
use crate::kv_cache::KvAppend;
use crate::layer_norm::LayerNorm;
use crate::patchify::Patchify;
use crate::rms_norm::RmsNorm;
use crate::rope::{self, Rope};
use crate::scale::Scale as ScaleOp;
use crate::splice::Splice;
use crate::sum_squares::SumSquares;
use crate::top_k::TopK;
use crate::{DType, Op};

/// Tokens of a training step.
const TOKENS: usize = 8192;
/// Width of the decoder: 7B, 13B.
const HIDDEN: [usize; 2] = [4096, 5120];
/// Width inside its MLP: 7B, 13B.
const FFN: [usize; 2] = [11008, 13824];
/// Its vocabulary.
const VOCABULARY: usize = 32000;
/// Width of the vision tower.
const VISION: usize = 1024;
/// Rows of the vision tower: 32 images of 24 x 24 patches and a class token.
const PATCHES: usize = 32 * 577;
/// Parameters in one tensor, and parameters of each of 300.
const PARAMETERS: [usize; 2] = [1 << 26, 1 << 18];

/// Whether sizes are those of the model, or small ones with the same structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// The model's sizes.
    Full,
    /// Small enough for a simulated GPU.
    Smoke,
}

impl Scale {
    /// Rows: tokens, patches, the length of a sequence.
    fn rows(self, n: usize) -> usize {
        if self == Scale::Full { n } else { n / 256 + 3 }
    }

    /// Columns, and heads taken together.
    fn width(self, n: usize) -> usize {
        if self == Scale::Full { n } else { (n / 64).next_multiple_of(8) }
    }

    /// Elements of a tensor of which only the number counts.
    fn elements(self, n: usize) -> usize {
        if self == Scale::Full { n } else { n / 4096 + 5 }
    }

    /// How many of something.
    fn count(self, n: usize) -> usize {
        if self == Scale::Full { n } else { n.min(2) }
    }
}

/// The cases of this op. Names are those of the model's sizes at either scale.
pub fn cases(op: &str, scale: Scale) -> Vec<Case> {
    match op {
        "activation" => activation(scale),
        "adamw" => adamw(scale),
        "add" => add(scale),
        "add_rms_norm" => add_rms_norm(scale),
        "attention" => attention(scale),
        "cached_attention" => cached_attention(scale),
        "cast" => cast(scale),
        "column_sum" => vec![rows_of(HIDDEN[0], scale, ColumnSum)],
        "cross_entropy" => cross_entropy(scale),
        "dropout" => dropout(scale),
        "embedding" => embedding(scale),
        "gated" => FFN.map(|ffn| gated(ffn, scale)).into(),
        "gemm" => gemm(scale),
        "kv_cache" => kv_cache(scale),
        "layer_norm" => layer_norm(scale),
        "patchify" => patchify(scale),
        "rms_norm" => HIDDEN.map(|hidden| rms_norm(hidden, scale)).into(),
        "rope" => rope(scale),
        "scale" => vec![rows_of(HIDDEN[0], scale, ScaleOp { factor: 0.5 })],
        "splice" => splice(scale),
        "sum_squares" => sum_squares(scale),
        "top_k" => top_k(scale),
        _ => vec![],
    }
}

/// An op of one input, over all tokens.
fn rows_of(width: usize, scale: Scale, op: impl Op + 'static) -> Case {
    let x = Input::normal([scale.rows(TOKENS), scale.width(width)]);
    Case::bench(format!("{TOKENS}x{width}"), op, [x])
}

fn activation(scale: Scale) -> Vec<Case> {
    let case = |name: &str, kind, rows: usize, width: usize| {
        let x = Input::normal([scale.rows(rows), scale.width(width)]);
        Case::bench(format!("{name} {rows}x{width}"), Activation { kind }, [x])
    };
    let projected = 32 * 576;
    vec![
        case("projector, gelu", Act::GeluErf, projected, HIDDEN[0]),
        case("vision tower, quick gelu", Act::QuickGelu, PATCHES, 4 * VISION),
    ]
}

fn adamw(scale: Scale) -> Vec<Case> {
    let case = |name: &str, sizes: Vec<usize>| {
        let op = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 0.5, narrow: true };
        let mut ins = vec![Input::acc([3], op.hyper(1e-5, 10)), Input::acc([1], [1.0])];
        for n in sizes {
            ins.extend([0; 3].map(|_| Input::normal_acc([n])));
            ins.push(Input { dims: vec![n], of: Of::Acc, fill: Fill::Uniform(0.0, 1.0) });
            ins.push(Input::normal([n]));
        }
        Case::bench(name, op, ins)
    };
    let [one, each] = PARAMETERS.map(|n| scale.elements(n));
    vec![
        case("64 M, narrow weight", vec![one]),
        case("300 of 256 K, narrow weight", vec![each; scale.count(300)]),
    ]
}

fn add(scale: Scale) -> Vec<Case> {
    let x = || Input::normal([scale.rows(TOKENS), scale.width(HIDDEN[0])]);
    // The positions of the vision tower, added to each of its images.
    let (tokens, width) = (scale.rows(577), scale.width(VISION));
    let ins = [Input::normal([scale.count(32), tokens, width]), Input::normal([tokens, width])];
    vec![
        Case::bench(format!("{TOKENS}x{}", HIDDEN[0]), Add, [x(), x()]),
        Case::bench(format!("positions, 32x577x{VISION}"), Add, ins),
    ]
}

fn rms_norm(width: usize, scale: Scale) -> Case {
    let columns = scale.width(width);
    let ins = [Input::normal([scale.rows(TOKENS), columns]), Input::normal([columns])];
    Case::bench(format!("{TOKENS}x{width}"), RmsNorm { eps: 1e-5 }, ins)
}

fn add_rms_norm(scale: Scale) -> Vec<Case> {
    HIDDEN
        .map(|width| {
            let columns = scale.width(width);
            let x = || Input::normal([scale.rows(TOKENS), columns]);
            let ins = [x(), x(), Input::normal([columns])];
            Case::bench(format!("{TOKENS}x{width}"), AddRmsNorm { eps: 1e-5 }, ins)
        })
        .into()
}

fn layer_norm(scale: Scale) -> Vec<Case> {
    let case = |name: &str, rows: usize, width: usize, one_plus: bool| {
        let columns = scale.width(width);
        let ins =
            [Input::normal([scale.rows(rows), columns]), Input::normal([columns]), Input::normal([columns])];
        Case::bench(format!("{name}{rows}x{width}"), LayerNorm { eps: 1e-5, one_plus }, ins)
    };
    vec![
        case("vision tower ", PATCHES, VISION, false),
        case("", TOKENS, HIDDEN[0], false),
        case("one plus ", TOKENS, HIDDEN[0], true),
    ]
}

fn gated(ffn: usize, scale: Scale) -> Case {
    let x = Input::normal([scale.rows(TOKENS), 2 * scale.width(ffn)]);
    Case::bench(format!("swiglu {TOKENS}x{ffn}"), Gated { act: Act::Silu }, [x])
}

fn attention(scale: Scale) -> Vec<Case> {
    let case = |name: String, [heads, width]: [usize; 2], causal: bool, length: usize, sequences: usize| {
        let lengths = vec![scale.rows(length); scale.count(sequences)];
        let heads = scale.count(heads);
        let (op, ins) = of_lengths([heads, heads, width], causal, &lengths);
        Case::bench(name, op, ins)
    };
    let mut all = vec![];
    for width in [128, 64] {
        for causal in [true, false] {
            for length in [512, 1024, 2048, 4096, 8192, 16384] {
                let (mask, sequences) = (if causal { "causal" } else { "full" }, 16384 / length);
                let name = format!("{mask} d{width}, {sequences} x {length}");
                all.push(case(name, [2048 / width, width], causal, length, sequences));
            }
        }
    }
    for length in [257, 577] {
        all.push(case(format!("vision tower d64, 32 x {length}"), [16, 64], false, length, 32));
    }
    all
}

fn cached_attention(scale: Scale) -> Vec<Case> {
    let case = |sequences: usize, keys: usize| {
        let (heads, head_dim) = (scale.count(32), 128);
        let (rows, capacity) = (scale.count(sequences), scale.rows(keys));
        let op = CachedAttention {
            heads,
            kv_heads: heads,
            head_dim,
            scale: (head_dim as f64).powf(-0.5),
            max_len: capacity,
            pairs: (rows * capacity) as u64,
        };
        let ins = [
            Input::normal([rows, 3 * heads * head_dim]),
            Input::normal([rows, capacity, 2 * heads * head_dim]),
            Input::u32([rows], 0..rows as u32),
            Input::u32([rows], vec![capacity as u32 - 1; rows]),
        ];
        Case::bench(format!("decode {sequences} x {keys} keys, 32 heads of 128"), op, ins)
    };
    vec![case(1, 4096), case(8, 4096)]
}

fn kv_cache(scale: Scale) -> Vec<Case> {
    let (heads, head_dim, slots, capacity) = (scale.count(32), 128, 8, scale.rows(4096));
    let ins = [
        Input::normal([slots, capacity, 2 * heads * head_dim]),
        Input::normal([slots, 3 * heads * head_dim]),
        Input::u32([slots], (0..slots).map(|slot| ((slot + 1) * capacity - 1) as u32)),
    ];
    vec![Case::bench("decode 8 x 4096 keys, 32 heads of 128", KvAppend { kv_heads: heads, head_dim }, ins)]
}

fn cast(scale: Scale) -> Vec<Case> {
    let dims = [scale.rows(TOKENS), scale.width(HIDDEN[0])];
    let case = |name: &str, to, x| Case::bench(format!("{name} {TOKENS}x{}", HIDDEN[0]), Cast { to }, [x]);
    vec![
        case("to f32", DType::F32, Input::normal(dims)),
        case("f32 to bf16", DType::Bf16, Input::normal_acc(dims)),
    ]
}

fn cross_entropy(scale: Scale) -> Vec<Case> {
    let (rows, vocabulary) = (scale.rows(TOKENS), scale.width(VOCABULARY));
    let ins = [
        Input::normal([rows, vocabulary]),
        Input::ids([rows], vocabulary as u32),
        Input::acc([rows], std::iter::repeat_n(1.0 / rows as f64, rows)),
    ];
    vec![Case::bench(format!("{TOKENS}x{VOCABULARY}"), CrossEntropy, ins)]
}

fn dropout(scale: Scale) -> Vec<Case> {
    let rows = scale.rows(TOKENS);
    let ins = [Input::normal([rows, scale.width(HIDDEN[0])]), Input::u32([rows], 0..rows as u32)];
    vec![Case::bench(format!("p = 0.1, {TOKENS}x{}", HIDDEN[0]), Dropout { p: 0.1, seed: 7 }, ins)]
}

fn embedding(scale: Scale) -> Vec<Case> {
    let (vocabulary, width) = (scale.width(VOCABULARY), scale.width(HIDDEN[0]));
    let ins = [Input::normal([vocabulary, width]), Input::ids([scale.rows(TOKENS)], vocabulary as u32)];
    vec![Case::bench(format!("{TOKENS} of {VOCABULARY}x{}", HIDDEN[0]), Embedding, ins)]
}

/// Of each product forward, whose backward pass is the two others over the same weight. The last two are the sizes of
/// published figures.
fn gemm(scale: Scale) -> Vec<Case> {
    let ([h, _], [f, _]) = (HIDDEN, FFN);
    let case = |(name, m, n, k): (&str, usize, usize, usize)| {
        let rows = if m < 64 { m } else { scale.rows(m) };
        let ins = [[rows, scale.width(k)], [scale.width(n), scale.width(k)]].map(Input::normal);
        Case::bench(format!("{name} {m}x{n}x{k}"), Gemm::new(gemm::Kind::NT), ins)
    };
    [
        ("qkv", TOKENS, 3 * h, h),
        ("projection", TOKENS, h, h),
        ("gate and up", TOKENS, 2 * f, h),
        ("down", TOKENS, h, f),
        ("head", TOKENS, VOCABULARY, h),
        ("decode gate and up", 1, 2 * f, h),
        ("decode head", 1, VOCABULARY, h),
        ("vision qkv", PATCHES, 3 * VISION, VISION),
        ("vision mlp", PATCHES, 4 * VISION, VISION),
        ("projector", 32 * 576, h, VISION),
        ("square", 4096, 4096, 4096),
        ("square", 8192, 8192, 8192),
    ]
    .map(case)
    .into()
}

fn patchify(scale: Scale) -> Vec<Case> {
    let side = if scale == Scale::Full { 336 } else { 28 };
    let pixels = Input::normal([scale.count(32), 3, side, side]);
    vec![Case::bench("32 x 336x336", Patchify { patch: 14 }, [pixels])]
}

fn rope(scale: Scale) -> Vec<Case> {
    let (rows, heads) = (scale.rows(TOKENS), scale.count(32));
    let op = Rope { heads, kv_heads: heads, head_dim: 128, rotary_dim: 128 };
    let positions: Vec<u32> = (0..rows as u32).map(|t| t % 4096).collect();
    let table = rope::table(&positions, 128, 1e4, 1.0).into_iter().map(f64::from);
    let ins = [Input::normal([rows, 3 * heads * 128]), Input::acc([rows, 128], table)];
    vec![Case::bench(format!("7B, {TOKENS} rows"), op, ins)]
}

fn splice(scale: Scale) -> Vec<Case> {
    let (rows, width) = (scale.rows(TOKENS), scale.width(HIDDEN[0]));
    // Eight sequences; in each an image behind the first tokens.
    let (length, features) = (rows / 8, if scale == Scale::Full { 576 } else { 2 });
    let places: Vec<u32> =
        (0..8).flat_map(|s| (0..features).map(move |f| (s * length + length / 16 + f) as u32)).collect();
    let ins = [
        Input::normal([rows, width]),
        Input::normal([places.len(), width]),
        Input::u32([places.len()], places),
    ];
    vec![Case::bench(format!("8 x 576 into {TOKENS}x{}", HIDDEN[0]), Splice, ins)]
}

fn sum_squares(scale: Scale) -> Vec<Case> {
    let case = |name: &str, sizes: Vec<usize>| {
        let ins: Vec<Input> = sizes.into_iter().map(|n| Input::normal_acc([n])).collect();
        Case::bench(name, SumSquares, ins)
    };
    let [one, each] = PARAMETERS.map(|n| scale.elements(n));
    vec![case("64 M of f32", vec![one]), case("300 of 256 K of f32", vec![each; scale.count(300)])]
}

/// Logits of as many sequences as decode side by side, of LLaMA-2's vocabulary and of LLaMA-3's.
fn top_k(scale: Scale) -> Vec<Case> {
    let case = |sequences: usize, vocabulary: usize, k: usize| {
        let (rows, width) = (scale.count(sequences), scale.width(vocabulary));
        let op = TopK { k, columns: width };
        Case::bench(format!("{k} of {sequences}x{vocabulary}"), op, [Input::normal([rows, width])])
    };
    let mut all = vec![];
    for (sequences, vocabulary) in [(64, VOCABULARY), (16, 128_256)] {
        all.extend([1, 50, 256].map(|k| case(sequences, vocabulary, k)));
    }
    all
}
