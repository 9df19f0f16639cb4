//! The two layers every part is built from: a linear map, and a normalisation.

use super::config::NormKind;
use super::weights::{Init, Weights};
use crate::Result;
use engine::{Param, Tensor};

/// `y = x w^T + b`.
pub struct Linear {
    weight: Param,
    bias: Option<Param>,
}

impl Linear {
    /// A map from `input` to `output` features, with a bias if `bias` says how it starts.
    pub fn new(
        weights: &Weights,
        name: &str,
        input: usize,
        output: usize,
        init: Init,
        bias: Option<Init>,
    ) -> Result<Self> {
        let weight = weights.param(&format!("{name}.weight"), [output, input], init)?;
        let bias = bias.map(|init| weights.param(&format!("{name}.bias"), [output], init)).transpose()?;
        Ok(Linear { weight, bias })
    }

    /// x [rows, input] -> [rows, output].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(Param::tensor);
        Ok(x.linear(&self.weight.tensor(), bias.as_ref())?)
    }

    /// `residual + x w^T + b`, written over the residual if nobody else needs it.
    pub fn forward_onto(&self, x: &Tensor, residual: Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(Param::tensor);
        Ok(x.linear_onto(&self.weight.tensor(), bias.as_ref(), residual)?)
    }

    /// Its parameters.
    pub fn params(&self) -> impl Iterator<Item = &Param> {
        std::iter::once(&self.weight).chain(&self.bias)
    }
}

/// RMSNorm, LayerNorm or LayerNorm1p.
pub struct Norm {
    kind: NormKind,
    eps: f64,
    weight: Param,
    bias: Option<Param>,
}

impl Norm {
    /// A normalisation of rows of `width`.
    pub fn new(weights: &Weights, name: &str, kind: NormKind, width: usize, eps: f64) -> Result<Self> {
        let start = if kind == NormKind::Layer1p { Init::Zero } else { Init::One };
        let weight = weights.param(&format!("{name}.weight"), [width], start)?;
        let bias = match kind {
            NormKind::Rms => None,
            _ => Some(weights.param(&format!("{name}.bias"), [width], Init::Zero)?),
        };
        Ok(Norm { kind, eps, weight, bias })
    }

    /// The normalised rows of x.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.tensor();
        Ok(match &self.bias {
            None => x.rms_norm(&weight, self.eps)?,
            Some(bias) => x.layer_norm(&weight, &bias.tensor(), self.eps, self.kind == NormKind::Layer1p)?,
        })
    }

    /// `(norm(r), r)` with `r = x + residual`.
    pub fn add_forward(&self, x: Tensor, residual: Tensor) -> Result<(Tensor, Tensor)> {
        if self.bias.is_none() {
            return Ok(x.add_rms_norm(residual, &self.weight.tensor(), self.eps)?);
        }
        let r = x.add(&residual)?;
        Ok((self.forward(&r)?, r))
    }

    /// Its parameters.
    pub fn params(&self) -> impl Iterator<Item = &Param> {
        std::iter::once(&self.weight).chain(&self.bias)
    }
}
