//! The vision tower: CLIP's ViT (Radford et al. 2021, section 2.4; Dosovitskiy et al. 2020, equations 1-3).
//!
//! ```text
//! x_0 = LN_pre([class; patch_1 E; ...; patch_P E] + position)
//! x   = x + MSA(LN(x));   x = x + MLP(LN(x))        MLP = fc2(quick_gelu(fc1))
//! ```
//!
//! Features are one of the hidden states x_0 .. x_L; layers behind the selected one, and CLIP's last norm, never
//! run. Linear layers have biases, the patch embedding has none.

use super::config::{NormKind, VisionConfig};
use super::layers::{Linear, Norm};
use super::weights::{Init, Weights};
use crate::Result;
use engine::{Param, Tensor};

/// The tower, up to the selected layer and beyond (layers that do not run are kept for the checkpoint).
pub struct VisionTower {
    config: VisionConfig,
    patch_embedding: Param,
    class_embedding: Param,
    position_embedding: Param,
    pre_norm: Norm,
    layers: Vec<Layer>,
    post_norm: Norm,
}

struct Layer {
    norm1: Norm,
    qkv: Linear,
    out: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

impl VisionTower {
    /// A tower with parameters from `weights`. Born here, it starts as CLIP did: with the width d and L layers,
    /// matrices that write to the residual stream have a standard deviation of (2 L d)^-1/2, q, k and v of d^-1/2,
    /// the MLP's first of (2 d)^-1/2, the class embedding of d^-1/2, and the patch and position embeddings, which a
    /// norm follows, of 0.02.
    pub fn new(weights: &Weights, config: &VisionConfig) -> Result<Self> {
        let (d, p) = (config.hidden_size, config.patch_size);
        let width = d as f64;
        let read = Init::Normal(width.powf(-0.5));
        let expand = Init::Normal((2.0 * width).powf(-0.5));
        let write = Init::Normal((2.0 * config.layers.max(1) as f64 * width).powf(-0.5));
        let embed = Init::Normal(0.02);
        let norm = |name: &str| Norm::new(weights, name, NormKind::Layer, d, config.eps);
        let linear = |name: &str, input, output, init| {
            Linear::new(weights, name, input, output, init, Some(Init::Zero))
        };
        let layers = (0..config.layers)
            .map(|i| {
                let at = |part: &str| format!("vision.layers.{i}.{part}");
                Ok(Layer {
                    norm1: norm(&at("norm1"))?,
                    qkv: linear(&at("qkv"), d, 3 * d, read)?,
                    out: linear(&at("out"), d, d, write)?,
                    norm2: norm(&at("norm2"))?,
                    fc1: linear(&at("fc1"), d, config.ffn_size, expand)?,
                    fc2: linear(&at("fc2"), config.ffn_size, d, write)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(VisionTower {
            patch_embedding: weights.param("vision.patch_embedding.weight", [d, 3 * p * p], embed)?,
            class_embedding: weights.param("vision.class_embedding", [1, d], read)?,
            position_embedding: weights.param(
                "vision.position_embedding.weight",
                [config.patches() + 1, d],
                embed,
            )?,
            pre_norm: norm("vision.pre_norm")?,
            layers,
            post_norm: norm("vision.post_norm")?,
            config: config.clone(),
        })
    }

    /// pixels [images, 3, S, S] -> features [images * feature_rows, hidden].
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let c = &self.config;
        let device = pixels.device();
        let _scope = device.scope("vision");
        let images = pixels.dims()[0];
        let tokens = c.patches() + 1;
        let patch_rows: Vec<u32> =
            (0..images * tokens).filter(|row| row % tokens != 0).map(|row| row as u32).collect();
        let patch_rows = Tensor::from_slice(device, [patch_rows.len()], &patch_rows)?;
        let starts: Vec<u32> = (0..=images).map(|i| (i * tokens) as u32).collect();
        let starts = Tensor::from_slice(device, [starts.len()], &starts)?;

        let patches = pixels.patchify(c.patch_size)?.linear(&self.patch_embedding.tensor(), None)?;
        let class_ids = Tensor::from_slice(device, [images * tokens], &vec![0u32; images * tokens])?;
        let x = self.class_embedding.tensor().embedding(&class_ids)?.splice(patches, &patch_rows)?;
        let mut x = self.pre_norm.forward(&x.add(&self.position_embedding.tensor())?)?;
        for (i, layer) in self.layers[..c.layers_used()].iter().enumerate() {
            let _scope = device.scope(&i.to_string());
            let qkv = layer.qkv.forward(&layer.norm1.forward(&x)?)?;
            let attended = qkv.attention(&starts, attention_of(c, images, tokens))?;
            x = layer.out.forward_onto(&attended, x)?;
            let hidden = layer.fc1.forward(&layer.norm2.forward(&x)?)?.activation(c.activation)?;
            x = layer.fc2.forward_onto(&hidden, x)?;
        }
        if c.keep_class { Ok(x) } else { Ok(x.embedding(&patch_rows)?) }
    }

    /// Every parameter.
    pub fn params(&self) -> Vec<&Param> {
        let mut all = vec![&self.patch_embedding, &self.class_embedding, &self.position_embedding];
        all.extend(self.pre_norm.params());
        for l in &self.layers {
            all.extend(l.norm1.params().chain(l.qkv.params()).chain(l.out.params()));
            all.extend(l.norm2.params().chain(l.fc1.params()).chain(l.fc2.params()));
        }
        all.extend(self.post_norm.params());
        all
    }
}

fn attention_of(c: &VisionConfig, images: usize, tokens: usize) -> kernels::attention::Attention {
    let head_dim = c.hidden_size / c.heads;
    kernels::attention::Attention {
        heads: c.heads,
        kv_heads: c.heads,
        head_dim,
        causal: false,
        scale: 1.0 / (head_dim as f64).sqrt(),
        max_len: tokens,
        pairs: (images * tokens * tokens) as u64,
    }
}
