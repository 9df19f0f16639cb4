//! `neva bench`: how long whole pieces of work take.

mod decode;
mod step;

pub use decode::{DecodeBench, DecodeTimes};
pub use step::{StepBench, StepTimes};

/// Width, layers, heads and MLP width of a transformer.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the MLP.
    pub ffn: usize,
}

/// The most memory that this process ever had, resident in RAM, if the system tells: Linux does.
pub fn peak_resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
