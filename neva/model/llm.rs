//! The language model: a pre-norm decoder, written once. As LLaMA (Touvron et al., *Llama 2*, 2023) it has RMSNorm
//! and a SiLU-gated MLP; as NVGPT (Nemotron) LayerNorm1p, squared ReLU or a gated MLP, and rotates half a head.
//!
//! ```text
//! r = r + W_o attention(rope(W_qkv norm1(r)));   r = r + W_down act(W_up norm2(r));   logits = W_head norm(r)
//! ```
//!
//! Sequences are packed one behind the other, without padding; `cu_seqlens` says where each starts. The residual
//! sum and the norm that reads it are one op, so each block takes and returns (sublayer output, residual).

use super::config::{LlmConfig, Mlp};
use super::layers::{Linear, Norm};
use super::weights::{Init, Weights};
use crate::Result;
use engine::{Buffer, Device, Param, Role, Spec, Tensor};
use kernels::attention::{Attention, CachedAttention};
use kernels::kv_cache::KvAppend;
use kernels::rope::{self, Rope};

/// The decoder.
pub struct Llm {
    config: LlmConfig,
    embedding: Param,
    layers: Vec<Layer>,
    final_norm: Norm,
    head: Option<Param>,
}

struct Layer {
    norm1: Norm,
    qkv: Linear,
    out: Linear,
    norm2: Norm,
    up: Linear,
    down: Linear,
}

/// How the weights of a decoder born here start (Megatron's `init_method_std`, `use_scaled_init_method`).
#[derive(Debug, Clone, Copy)]
pub struct LlmInit {
    /// Standard deviation of every matrix.
    pub std: f64,
    /// Whether matrices that write to the residual stream start at std / sqrt(2 layers).
    pub scaled: bool,
}

/// Where the rows of a pack lie: what attention and rotation need to know.
pub struct Layout {
    /// First row of each sequence, and the number of rows: [sequences + 1].
    pub cu_seqlens: Tensor,
    /// cos and sin per row: [rows, rotary_dim].
    pub rotation: Tensor,
    /// Which (sample, position) a row is, for dropout: `[rows]`. None outside training.
    pub dropout: Option<Dropout>,
    /// The longest sequence.
    pub max_len: usize,
    /// Sum over sequences of the query-key pairs that causal attention visits.
    pub pairs: u64,
}

/// The randomness of one training step.
pub struct Dropout {
    /// What identifies each row.
    pub keys: Tensor,
    /// Differs per step.
    pub seed: u64,
}

/// The rows of a pack whose logits are wanted.
pub struct Wanted {
    /// Which: `[wanted]`.
    pub rows: Tensor,
    /// As in [`Layout`], of these rows alone.
    pub dropout: Option<Dropout>,
}

/// Keys and values of sequences being generated.
pub struct KvCache {
    layers: Vec<Option<Buffer>>,
    /// Positions per slot.
    pub capacity: usize,
}

/// Where rows go in a [`KvCache`].
pub struct CacheRows {
    /// slot * capacity + position, per row.
    pub rows: Tensor,
    /// The slot per row.
    pub slots: Tensor,
    /// The position per row: it sees 0..=position of its slot.
    pub positions: Tensor,
    /// cos and sin per row.
    pub rotation: Tensor,
    /// The largest position + 1.
    pub max_len: usize,
    /// Sum over rows of the keys each sees.
    pub pairs: u64,
}

impl Llm {
    /// A decoder with parameters from `weights`.
    pub fn new(weights: &Weights, config: &LlmConfig, init: LlmInit) -> Result<Self> {
        let c = config;
        let normal = Init::Normal(init.std);
        let scale = if init.scaled { (2.0 * c.layers as f64).sqrt() } else { 1.0 };
        let output = Init::Normal(init.std / scale);
        let bias = c.bias.then_some(Init::Zero);
        let norm = |name: &str| Norm::new(weights, name, c.norm, c.hidden_size, c.eps);
        let up_size = match c.mlp {
            Mlp::Gated(_) => 2 * c.ffn_size,
            Mlp::Plain(_) => c.ffn_size,
        };
        let layers = (0..c.layers)
            .map(|i| {
                let at = |part: &str| format!("llm.layers.{i}.{part}");
                let linear = |part: &str, input, output, init| {
                    Linear::new(weights, &at(part), input, output, init, bias)
                };
                Ok(Layer {
                    norm1: norm(&at("norm1"))?,
                    qkv: linear("qkv", c.hidden_size, c.qkv_size(), normal)?,
                    out: linear("out", c.heads * c.head_dim, c.hidden_size, output)?,
                    norm2: norm(&at("norm2"))?,
                    up: linear("up", c.hidden_size, up_size, normal)?,
                    down: linear("down", c.ffn_size, c.hidden_size, output)?,
                })
            })
            .collect::<Result<_>>()?;
        let vocabulary = [c.vocab_size, c.hidden_size];
        Ok(Llm {
            embedding: weights.param("llm.embedding.weight", vocabulary, normal)?,
            layers,
            final_norm: norm("llm.final_norm")?,
            head: (!c.tied).then(|| weights.param("llm.head.weight", vocabulary, normal)).transpose()?,
            config: config.clone(),
        })
    }

    /// ids `[rows]` -> embeddings [rows, hidden].
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let _scope = ids.device().scope("llm");
        Ok(self.embedding.tensor().embedding(ids)?)
    }

    /// embeddings [rows, hidden] -> logits [wanted, vocab] of the rows in `wanted` (all of them if None). What
    /// follows the last attention runs on those rows only.
    pub fn forward(&self, embeddings: Tensor, layout: &Layout, wanted: Option<&Wanted>) -> Result<Tensor> {
        let device = embeddings.device().clone();
        let _scope = device.scope("llm");
        let mut dropout = layout.dropout.as_ref();
        let mut residual = self.hidden_dropout(embeddings, dropout, 0)?;
        let mut y = self.first_norm().forward(&residual)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let _scope = device.scope(&i.to_string());
            let qkv = layer.qkv.forward(&y)?.rope(&layout.rotation, self.rope())?;
            let mut attended =
                qkv.attention(&layout.cu_seqlens, self.attention(layout.max_len, layout.pairs))?;
            if let Some(wanted) = wanted.filter(|_| i + 1 == self.layers.len()) {
                (attended, residual) = keep(&wanted.rows, attended, residual)?;
                dropout = wanted.dropout.as_ref();
            }
            let attended = self.hidden_dropout(layer.out.forward(&attended)?, dropout, 2 * i as u64 + 1)?;
            (y, residual) = layer.norm2.add_forward(attended, residual)?;
            let hidden = self.mlp_act(layer.up.forward(&y)?)?;
            let hidden = self.dropout(hidden, dropout, self.config.ffn_dropout, FFN_SITE | i as u64)?;
            let out = self.hidden_dropout(layer.down.forward(&hidden)?, dropout, 2 * i as u64 + 2)?;
            (y, residual) = self.norm_behind(i).add_forward(out, residual)?;
        }
        let _scope = device.scope("head");
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        Ok(y.linear(&head.tensor(), None)?)
    }

    /// The norm that follows block `i`.
    fn norm_behind(&self, i: usize) -> &Norm {
        self.layers.get(i + 1).map_or(&self.final_norm, |next| &next.norm1)
    }

    fn first_norm(&self) -> &Norm {
        self.layers.first().map_or(&self.final_norm, |layer| &layer.norm1)
    }

    fn mlp_act(&self, up: Tensor) -> Result<Tensor> {
        Ok(match self.config.mlp {
            Mlp::Gated(act) => up.gated(act)?,
            Mlp::Plain(kind) => up.activation(kind)?,
        })
    }

    fn hidden_dropout(&self, x: Tensor, dropout: Option<&Dropout>, site: u64) -> Result<Tensor> {
        self.dropout(x, dropout, self.config.hidden_dropout, site)
    }

    fn dropout(&self, x: Tensor, dropout: Option<&Dropout>, p: f64, site: u64) -> Result<Tensor> {
        match dropout {
            // The multiplier spreads the sites of one step over the seeds.
            Some(d) if p > 0.0 => {
                Ok(x.dropout(&d.keys, p, d.seed ^ (site + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))?)
            }
            _ => Ok(x),
        }
    }

    fn rope(&self) -> Rope {
        let c = &self.config;
        Rope { heads: c.heads, kv_heads: c.kv_heads, head_dim: c.head_dim, rotary_dim: c.rotary_dim() }
    }

    fn attention(&self, max_len: usize, pairs: u64) -> Attention {
        let c = &self.config;
        let scale = 1.0 / (c.head_dim as f64).sqrt();
        Attention {
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            causal: true,
            scale,
            max_len,
            pairs,
        }
    }

    /// cos and sin for these positions, as [`Layout::rotation`] and [`CacheRows::rotation`] take them.
    pub fn rotation(&self, device: &Device, positions: &[u32]) -> Result<Tensor> {
        let c = &self.config;
        let table = rope::table(positions, c.rotary_dim(), c.rope_theta, c.rope_factor);
        let acc = self.embedding.spec().dtype.acc();
        Ok(Tensor::from_f32(device, acc, [positions.len(), c.rotary_dim()], &table)?)
    }

    /// An empty cache for `slots` sequences of up to `capacity` positions.
    pub fn cache(&self, device: &Device, slots: usize, capacity: usize) -> Result<KvCache> {
        let c = &self.config;
        let dims = [slots, capacity, 2 * c.kv_heads * c.head_dim];
        let spec = Spec::new(self.embedding.spec().dtype, dims);
        let layers = (0..c.layers)
            .map(|_| Ok(Some(Buffer::zeros(device, spec, Role::Activation)?)))
            .collect::<Result<_>>()?;
        Ok(KvCache { layers, capacity })
    }

    /// As [`Llm::forward`] without gradients, the new rows' keys and values going into `cache` and attention
    /// reading all of a row's slot up to its position.
    pub fn forward_cached(
        &self,
        embeddings: Tensor,
        cache: &mut KvCache,
        at: &CacheRows,
        wanted: Option<&Tensor>,
    ) -> Result<Tensor> {
        let c = &self.config;
        let device = embeddings.device().clone();
        let _scope = device.scope("llm");
        let _no_grad = device.no_grad();
        let append = KvAppend { kv_heads: c.kv_heads, head_dim: c.head_dim };
        let attention = CachedAttention {
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            scale: 1.0 / (c.head_dim as f64).sqrt(),
            max_len: at.max_len,
            pairs: at.pairs,
        };
        let mut residual = embeddings;
        let mut y = self.first_norm().forward(&residual)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let _scope = device.scope(&i.to_string());
            let qkv = layer.qkv.forward(&y)?.rope(&at.rotation, self.rope())?;
            let held = cache.layers[i].take().expect("a cache is whole between calls");
            let held = Tensor::constant(held).kv_append(&qkv, &at.rows, append.clone())?;
            let mut attended = qkv.cached_attention(&held, &at.slots, &at.positions, attention.clone())?;
            cache.layers[i] = Some(held.into_buffer());
            if let Some(rows) = wanted.filter(|_| i + 1 == self.layers.len()) {
                (attended, residual) = keep(rows, attended, residual)?;
            }
            (y, residual) = layer.norm2.add_forward(layer.out.forward(&attended)?, residual)?;
            let out = layer.down.forward(&self.mlp_act(layer.up.forward(&y)?)?)?;
            (y, residual) = self.norm_behind(i).add_forward(out, residual)?;
        }
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        Ok(y.linear(&head.tensor(), None)?)
    }

    /// Every parameter.
    pub fn params(&self) -> Vec<&Param> {
        let mut all = vec![&self.embedding];
        for l in &self.layers {
            all.extend(l.norm1.params().chain(l.qkv.params()).chain(l.out.params()));
            all.extend(l.norm2.params().chain(l.up.params()).chain(l.down.params()));
        }
        all.extend(self.final_norm.params().chain(&self.head));
        all
    }

    /// Its architecture.
    pub fn config(&self) -> &LlmConfig {
        &self.config
    }
}

/// These rows of attention's result and of the residual stream. Behind the last attention no row reads another, so a
/// row whose logits nobody wants is part of nothing any more.
fn keep(rows: &Tensor, attended: Tensor, residual: Tensor) -> Result<(Tensor, Tensor)> {
    Ok((attended.embedding(rows)?, residual.embedding(rows)?))
}

/// Dropout sites inside MLPs, apart from the numbers of the other sites.
const FFN_SITE: u64 = 1 << 32;
