//! NeVA: a vision tower, a projector and a language model, trained and run on our own engine.
#![forbid(unsafe_code)]

pub mod bench;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod generate;
pub mod image;
mod json;
pub mod model;
pub mod quickstart;
pub mod report;
pub mod sampling;
pub mod scenes;
pub mod tokenizer;
pub mod train;

pub use error::{Error, Result};

/// The README's example, compiled and run with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
