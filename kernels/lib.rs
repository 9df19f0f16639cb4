//! Every op of NeVA on every device. All unsafe code and all CUDA of the project lie in this package.
//!
//! One folder per op: `mod.rs` says what it is (equations, shapes, cost, cases), `cpu.rs` computes it on the host,
//! `<op>.cu` and `gpu.rs` on a GPU. [`CATALOGUE`] lists them all; tests, benches and the README iterate it.

pub mod activation;
pub mod adamw;
pub mod add;
pub mod add_rms_norm;
#[cfg(target_arch = "x86_64")]
pub mod amx;
pub mod attention;
pub mod cast;
pub mod check;
pub mod column_sum;
pub mod cross_entropy;
pub mod device;
pub mod dropout;
pub mod dtype;
pub mod embedding;
pub mod error;
pub mod gated;
pub mod gemm;
pub mod kv_cache;
pub mod layer_norm;
pub mod math;
pub mod op;
pub mod patchify;
mod prebuilt;
pub mod random;
mod reduce;
pub mod rms_norm;
pub mod rope;
pub mod run;
pub mod scale;
pub mod simd;
pub mod spec;
pub mod splice;
pub mod sum_squares;
pub mod top_k;

pub use device::{Buffer, Device, Role};
pub use dtype::DType;
pub use error::{Error, Result};
pub use op::{Needs, Op, Slot};
pub use spec::Spec;

use check::{Entry, conformance};
use device::program::Source;

/// Every op, one row each.
pub const CATALOGUE: &[Entry] = &[
    activation::ENTRY,
    adamw::ENTRY,
    add::ENTRY,
    add_rms_norm::ENTRY,
    attention::CACHED_ENTRY,
    attention::ENTRY,
    cast::ENTRY,
    column_sum::ENTRY,
    cross_entropy::ENTRY,
    dropout::ENTRY,
    embedding::ENTRY,
    gated::ENTRY,
    gemm::ENTRY,
    kv_cache::ENTRY,
    layer_norm::ENTRY,
    patchify::ENTRY,
    rms_norm::ENTRY,
    rope::ENTRY,
    scale::ENTRY,
    splice::ENTRY,
    sum_squares::ENTRY,
    top_k::ENTRY,
];

/// Every program that can be launched on a GPU, once: those of the ops, and those that check single instructions.
pub fn programs() -> Vec<&'static Source> {
    let mut all: Vec<&Source> =
        CATALOGUE.iter().flat_map(|e| e.programs).chain(conformance::PROGRAMS).collect();
    all.sort_by_key(|source| source.name());
    all.dedup_by_key(|source| source.name());
    all
}
