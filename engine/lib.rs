//! Tensors, autograd and the optimiser.
#![forbid(unsafe_code)]
pub use kernels::{Error, Result};
