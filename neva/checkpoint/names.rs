//! Which tensors of a Hugging Face or LLaVA checkpoint make up each of our parameters.
//!
//! Ours are fused where the arithmetic is (q, k and v; gate and up), theirs are not. A parameter is the
//! concatenation of its parts by rows. Checkpoints are written under the names of transformers 4.x, which 4.x and
//! 5.x both load; reading also knows the names of 5.x, of LLaVA's own repository, and of a tower or a language
//! model alone.

use crate::model::ModelConfig;
use crate::model::config::Mlp;

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its possible names; the first is the one written.
    pub names: Vec<String>,
    /// Its dimensions in the file.
    pub dims: Vec<usize>,
}

const VISION: [&str; 5] = [
    "vision_tower.vision_model.",
    "model.vision_tower.vision_model.",
    "model.vision_tower.vision_tower.vision_model.",
    "model.vision_tower.",
    "vision_model.",
];
const LLM: [&str; 3] = ["language_model.model.", "model.language_model.", "model."];
const HEAD: [&str; 2] = ["language_model.lm_head.", "lm_head."];

fn under(prefixes: &[&str], name: &str) -> Vec<String> {
    prefixes.iter().map(|p| format!("{p}{name}")).collect()
}

/// The parts of our parameter `name`, whose own dimensions are `dims`.
///
/// Panics on a name that no model has: names are made by `model`, not by users.
pub fn parts(config: &ModelConfig, name: &str, dims: &[usize]) -> Vec<Part> {
    let split: Vec<&str> = name.split('.').collect();
    let whole = |names: Vec<String>| vec![Part { names, dims: dims.to_vec() }];
    match split[..] {
        ["vision", "patch_embedding", "weight"] => {
            let p = config.vision.patch_size;
            let names = under(&VISION, "embeddings.patch_embedding.weight");
            vec![Part { names, dims: vec![dims[0], 3, p, p] }]
        }
        ["vision", "class_embedding"] => {
            vec![Part { names: under(&VISION, "embeddings.class_embedding"), dims: vec![dims[1]] }]
        }
        ["vision", "position_embedding", "weight"] => {
            whole(under(&VISION, "embeddings.position_embedding.weight"))
        }
        ["vision", "pre_norm", kind] => whole(under(&VISION, &format!("pre_layrnorm.{kind}"))),
        ["vision", "post_norm", kind] => whole(under(&VISION, &format!("post_layernorm.{kind}"))),
        ["vision", "layers", i, part, kind] => {
            let at = |part: &str| under(&VISION, &format!("encoder.layers.{i}.{part}.{kind}"));
            match part {
                "qkv" => {
                    let d = config.vision.hidden_size;
                    let heads = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
                    rows(dims, &heads.map(|part| (at(part), d)))
                }
                "norm1" => whole(at("layer_norm1")),
                "norm2" => whole(at("layer_norm2")),
                "out" => whole(at("self_attn.out_proj")),
                other => whole(at(&format!("mlp.{other}"))),
            }
        }
        ["projector", i, kind] => {
            let i: usize = i.parse().expect("a projector layer is numbered");
            let mut names = vec![
                format!("multi_modal_projector.linear_{}.{kind}", i + 1),
                format!("model.multi_modal_projector.linear_{}.{kind}", i + 1),
                format!("model.mm_projector.{}.{kind}", 2 * i),
            ];
            if config.projector.layers == 1 {
                names.push(format!("model.mm_projector.{kind}"));
            }
            whole(names)
        }
        ["llm", "embedding", "weight"] => whole(under(&LLM, "embed_tokens.weight")),
        ["llm", "head", "weight"] => whole(under(&HEAD, "weight")),
        ["llm", "final_norm", kind] => whole(under(&LLM, &format!("norm.{kind}"))),
        ["llm", "layers", i, part, kind] => {
            let c = &config.llm;
            let at = |part: &str| under(&LLM, &format!("layers.{i}.{part}.{kind}"));
            match (part, c.mlp) {
                ("qkv", _) => {
                    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
                    let all = [
                        (at("self_attn.q_proj"), q),
                        (at("self_attn.k_proj"), kv),
                        (at("self_attn.v_proj"), kv),
                    ];
                    rows(dims, &all)
                }
                ("up", Mlp::Gated(_)) => {
                    rows(dims, &[(at("mlp.gate_proj"), c.ffn_size), (at("mlp.up_proj"), c.ffn_size)])
                }
                ("up", Mlp::Plain(_)) => whole(at("mlp.up_proj")),
                ("down", _) => whole(at("mlp.down_proj")),
                ("out", _) => whole(at("self_attn.o_proj")),
                ("norm1", _) => whole(at("input_layernorm")),
                ("norm2", _) => whole(at("post_attention_layernorm")),
                _ => unreachable!("no model has a parameter {name}"),
            }
        }
        _ => unreachable!("no model has a parameter {name}"),
    }
}

fn rows(dims: &[usize], parts: &[(Vec<String>, usize)]) -> Vec<Part> {
    parts
        .iter()
        .map(|(names, rows)| {
            let mut dims = dims.to_vec();
            dims[0] = *rows;
            Part { names: names.clone(), dims }
        })
        .collect()
}
