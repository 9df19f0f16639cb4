//! Tensors, autograd and the optimiser of NeVA.
//!
//! | file | what it holds |
//! |---|---|
//! | `tensor.rs` | [`Tensor`]: a buffer and, if a gradient may flow, an edge into the graph |
//! | `graph.rs` | [`apply`] and [`backward`]: the whole autograd |
//! | `param.rs` | [`Param`]: a named weight and its gradient |
//! | `ops.rs` | one method of [`Tensor`] per op |
//! | `optim.rs` | [`AdamW`] with decay groups and global-norm clipping, [`Schedule`] |
//! | `trace.rs` | [`summarize`]: what ran, by op and by part of the model |
//!
//! Nothing here knows how an op computes: that is `kernels`. Nothing here is global: counters, traces and the
//! gradient switch belong to a [`Device`], so several ranks can live in one process.
#![forbid(unsafe_code)]

mod graph;
mod ops;
mod optim;
mod param;
mod tensor;
mod trace;

pub use graph::{apply, backward};
pub use kernels::device::{Event, NoGrad, Pass, Scope};
pub use kernels::{Buffer, DType, Device, Error, Result, Role, Spec};

pub use optim::{AdamW, AdamWConfig, Schedule, State};
pub use param::Param;
pub use tensor::Tensor;
pub use trace::{Row, summarize};
