//! One method of [`Tensor`] per op. Methods that take `self` by value work in place when this is the last holder.
//!
//! Shapes, types and errors are those of the op: each method's op is documented in its folder of `kernels`.

use crate::{Tensor, apply};
use kernels::activation::{Act, Activation};
use kernels::add::Add;
use kernels::add_rms_norm::AddRmsNorm;
use kernels::attention::{Attention, CachedAttention};
use kernels::cross_entropy::CrossEntropy;
use kernels::dropout::Dropout;
use kernels::embedding::Embedding;
use kernels::gated::Gated;
use kernels::gemm::{Gemm, Kind};
use kernels::kv_cache::KvAppend;
use kernels::layer_norm::LayerNorm;
use kernels::patchify::Patchify;
use kernels::rms_norm::RmsNorm;
use kernels::rope::Rope;
use kernels::scale::Scale;
use kernels::splice::Splice;
use kernels::top_k::TopK;
use kernels::{Op, Result};

/// Applies an op with one output.
fn one(op: impl Op + 'static, ins: impl Into<Vec<Tensor>>) -> Result<Tensor> {
    Ok(apply(op, ins)?.swap_remove(0))
}

impl Tensor {
    /// A linear layer: `self w^T + bias`. self [rows.., in], w [out, in], bias `[out]`.
    pub fn linear(&self, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let op = Gemm { bias: bias.is_some(), ..Gemm::new(Kind::NT) };
        one(op, [self, w].into_iter().chain(bias).cloned().collect::<Vec<_>>())
    }

    /// `onto + self w^T + bias`, in place of `onto`.
    pub fn linear_onto(&self, w: &Tensor, bias: Option<&Tensor>, onto: Tensor) -> Result<Tensor> {
        let op = Gemm { bias: bias.is_some(), accumulate: true, ..Gemm::new(Kind::NT) };
        let mut ins: Vec<Tensor> = [self, w].into_iter().chain(bias).cloned().collect();
        ins.push(onto);
        one(op, ins)
    }

    /// The matrix product `self b`. self [rows.., K], b [K, N].
    pub fn matmul(&self, b: &Tensor) -> Result<Tensor> {
        one(Gemm::new(Kind::NN), [self.clone(), b.clone()])
    }

    /// `self + b`, where b may repeat, in place.
    #[allow(clippy::should_implement_trait)] // it can fail
    pub fn add(self, b: &Tensor) -> Result<Tensor> {
        one(Add, [self, b.clone()])
    }

    /// `self * factor`, in place.
    pub fn scale(self, factor: f64) -> Result<Tensor> {
        one(Scale { factor }, [self])
    }

    /// RMSNorm of each row.
    pub fn rms_norm(&self, w: &Tensor, eps: f64) -> Result<Tensor> {
        one(RmsNorm { eps }, [self.clone(), w.clone()])
    }

    /// `(rms_norm(r), r)` with `r = self + residual`.
    pub fn add_rms_norm(self, residual: Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
        let mut outs = apply(AddRmsNorm { eps }, [self, residual, w.clone()])?;
        let r = outs.swap_remove(1);
        Ok((outs.swap_remove(0), r))
    }

    /// LayerNorm of each row; with `one_plus` the stored weight means 1 + w.
    pub fn layer_norm(&self, w: &Tensor, b: &Tensor, eps: f64, one_plus: bool) -> Result<Tensor> {
        one(LayerNorm { eps, one_plus }, [self.clone(), w.clone(), b.clone()])
    }

    /// Rotates q and k of packed [q | k | v] rows by the angles in `table`, in place.
    pub fn rope(self, table: &Tensor, rope: Rope) -> Result<Tensor> {
        one(rope, [self, table.clone()])
    }

    /// Attention over packed [q | k | v] rows of sequences that start at `cu_seqlens`.
    pub fn attention(&self, cu_seqlens: &Tensor, attention: Attention) -> Result<Tensor> {
        one(attention, [self.clone(), cu_seqlens.clone()])
    }

    /// Writes k and v of packed rows into this cache at `rows`, in place.
    pub fn kv_append(self, qkv: &Tensor, rows: &Tensor, append: KvAppend) -> Result<Tensor> {
        one(append, [self, qkv.clone(), rows.clone()])
    }

    /// Attention of q in packed rows over a cache, each row seeing its slot up to its position.
    pub fn cached_attention(
        &self,
        cache: &Tensor,
        slots: &Tensor,
        positions: &Tensor,
        attention: CachedAttention,
    ) -> Result<Tensor> {
        one(attention, [self.clone(), cache.clone(), slots.clone(), positions.clone()])
    }

    /// `act(gate) * up` of packed [gate | up] rows.
    pub fn gated(&self, act: Act) -> Result<Tensor> {
        one(Gated { act }, [self.clone()])
    }

    /// A pointwise activation.
    pub fn activation(&self, kind: Act) -> Result<Tensor> {
        one(Activation { kind }, [self.clone()])
    }

    /// Drops elements with probability p by a counter-based generator; `keys` says what each row is, in place.
    pub fn dropout(self, keys: &Tensor, p: f64, seed: u64) -> Result<Tensor> {
        one(Dropout { p, seed }, [self, keys.clone()])
    }

    /// The rows of this table that `ids` name.
    pub fn embedding(&self, ids: &Tensor) -> Result<Tensor> {
        one(Embedding, [self.clone(), ids.clone()])
    }

    /// This with the given rows replaced by `features`, in place.
    pub fn splice(self, features: Tensor, rows: &Tensor) -> Result<Tensor> {
        one(Splice, [self, features, rows.clone()])
    }

    /// Pixels [B, C, H, W] as rows of patches [B * patches, C * patch * patch].
    pub fn patchify(&self, patch: usize) -> Result<Tensor> {
        one(Patchify { patch }, [self.clone()])
    }

    /// `sum over rows of weight * cross entropy(row, label)`; the logits' bytes become their gradient.
    pub fn cross_entropy(self, labels: &Tensor, weights: &Tensor) -> Result<Tensor> {
        one(CrossEntropy, [self, labels.clone(), weights.clone()])
    }

    /// The k largest of the first `columns` of each row, the largest first, and their columns: [rows, k] each. Has no
    /// gradient.
    pub fn top_k(&self, k: usize, columns: usize) -> Result<(Tensor, Tensor)> {
        let mut outs = apply(TopK { k, columns }, [self.clone()])?;
        let ids = outs.swap_remove(1);
        Ok((outs.swap_remove(0), ids))
    }
}
