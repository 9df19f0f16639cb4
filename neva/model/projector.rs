//! The projector: from vision features to language embeddings (Liu et al., *Visual Instruction Tuning*, 2023,
//! equation 1; the MLP of *Improved Baselines with Visual Instruction Tuning*, 2023).
//!
//! `linear` is one map with a bias; `mlp{N}x_gelu` is N maps with the exact (erf) GELU between them.

use super::config::ProjectorConfig;
use super::layers::Linear;
use super::weights::{Init, Weights};
use crate::Result;
use engine::{Param, Tensor};
use kernels::activation::Act;

/// N linear maps with GELU between.
pub struct Projector {
    layers: Vec<Linear>,
}

impl Projector {
    /// A projector from `input` to `output` features. Fresh weights and biases are uniform in +-1/sqrt(fan_in),
    /// as torch's Linear starts.
    pub fn new(weights: &Weights, config: ProjectorConfig, input: usize, output: usize) -> Result<Self> {
        let layers = (0..config.layers)
            .map(|i| {
                let fan_in = if i == 0 { input } else { output };
                let init = Init::Uniform(1.0 / (fan_in as f64).sqrt());
                Linear::new(weights, &format!("projector.{i}"), fan_in, output, init, Some(init))
            })
            .collect::<Result<_>>()?;
        Ok(Projector { layers })
    }

    /// x [rows, input] -> [rows, output].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _scope = x.device().scope("projector");
        let mut y = self.layers[0].forward(x)?;
        for layer in &self.layers[1..] {
            y = layer.forward(&y.activation(Act::GeluErf)?)?;
        }
        Ok(y)
    }

    /// Every parameter.
    pub fn params(&self) -> Vec<&Param> {
        self.layers.iter().flat_map(Linear::params).collect()
    }
}
