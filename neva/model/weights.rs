//! Where a model's parameters come from: fresh random values, or a checkpoint.

use crate::Result;
use crate::checkpoint::Checkpoint;
use engine::{Buffer, DType, Device, Param, Role, Spec};
use kernels::device::Kind;
use kernels::dtype::Real;
use kernels::random::{Random, derive, fill_normal};
use kernels::real;

/// How a fresh parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform in [-bound, bound].
    Uniform(f64),
    /// All zero.
    Zero,
    /// All one.
    One,
}

/// Makes the parameters of one part of a model.
pub struct Weights<'a> {
    /// Where they will lie.
    pub device: &'a Device,
    /// Their type.
    pub dtype: DType,
    /// Whether they learn.
    pub trainable: bool,
    /// Where their values come from.
    pub source: Source<'a>,
}

/// Where values come from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// Random by seed and name, so that a parameter's start does not depend on what else the model has.
    Fresh(u64),
    /// A model directory.
    Checkpoint(&'a Checkpoint),
    /// Zeros: for a plan, where only shapes count.
    Zeros,
}

impl Weights<'_> {
    /// The parameter `name` of these dimensions. Matrices decay; norms and biases do not.
    pub fn param(&self, name: &str, dims: impl AsRef<[usize]>, init: Init) -> Result<Param> {
        let spec = Spec::new(self.dtype, dims);
        let value = match self.source {
            Source::Zeros => Buffer::zeros(self.device, spec, Role::Weight)?,
            Source::Checkpoint(checkpoint) => checkpoint.load(self.device, name, spec)?,
            Source::Fresh(seed) => self.fresh(seed, name, spec, init)?,
        };
        let decays = matches!(init, Init::Normal(_) | Init::Uniform(_)) && spec.dims().len() > 1;
        Ok(Param::new(name, value, self.trainable, decays))
    }

    fn fresh(&self, seed: u64, name: &str, spec: Spec, init: Init) -> Result<Buffer> {
        // FNV-1a: any stable hash of the name will do.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let seed = derive(seed, &[hash]);
        let host =
            if matches!(self.device.kind(), Kind::Gpu(_)) { Device::cpu() } else { self.device.clone() };
        // Made first, so that a machine without the room says so.
        let mut buffer = Buffer::zeros(&host, spec, Role::Weight)?;
        if host.is_plan() {
            return Ok(buffer);
        }
        real!(spec.dtype, T => {
            let values = buffer.slice_mut::<T>();
            match init {
                Init::Normal(std) => fill_normal(seed, 0, std, values),
                Init::Uniform(bound) => {
                    let mut random = Random::new(seed, 0);
                    values.fill_with(|| T::from_f64((2.0 * random.uniform() - 1.0) * bound));
                }
                Init::Zero => {}
                Init::One => values.fill(T::from_f64(1.0)),
            }
        });
        Ok(buffer.to_device(self.device)?)
    }
}
