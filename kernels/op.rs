//! What an op is: a small struct of hyper-parameters that knows its shapes, computes forward and backward on the
//! device its inputs lie on, and says what it costs.
//!
//! Ownership does the work that flags would do elsewhere. `forward` and `backward` are handed buffers they may
//! read, take and rewrite, and hand buffers back:
//!
//! | an op that | calls |
//! |---|---|
//! | fills a fresh output | `io.output(j)` |
//! | rewrites an input in place (rope, dropout) | `io.reuse(i)`: moved if nobody else holds it, else copied |
//! | updates state (KV cache, AdamW) | `io.update(i)`: moved, or an error if somebody else holds it |
//! | passes a gradient through (add, reshape) | `io.take_dout(j)`, then `io.give(i, that)` |
//! | rewrites what forward kept (cross entropy) | `io.take_saved(k)` |
//! | adds straight into a gradient (GEMM, embedding) | `io.accumulator(i)` |
//! | needs scratch | `io.temp(spec)` |
//!
//! Every buffer comes from one of these, so the plan device sees every byte by running the same code on shapes.

use crate::device::{Buffer, Device, Role};
use crate::{DType, Error, Result, Spec};
use std::fmt;

/// A buffer of an op that backward may ask to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Input i.
    In(usize),
    /// Output j.
    Out(usize),
    /// Statistic k.
    Stat(usize),
}

/// Which inputs need a gradient, as a bit set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs(pub u32);

impl Needs {
    /// Whether input `i` needs one.
    pub fn has(self, i: usize) -> bool {
        self.0 >> i & 1 == 1
    }
    /// Whether any does.
    pub fn any(self) -> bool {
        self.0 != 0
    }
}

/// What an op makes: outputs, and statistics that exist only when a gradient is needed and are never tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shapes {
    /// Specs of the outputs.
    pub outs: Vec<Spec>,
    /// Specs of the statistics (rstd, lse, ...).
    pub stats: Vec<Spec>,
}

impl Shapes {
    /// Outputs without statistics.
    pub fn new(outs: impl Into<Vec<Spec>>) -> Self {
        Shapes { outs: outs.into(), stats: vec![] }
    }
    /// Adds a statistic.
    pub fn stat(mut self, spec: Spec) -> Self {
        self.stats.push(spec);
        self
    }
}

/// What one run of an op does at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Floating-point operations; a fused multiply-add counts two.
    pub flops: u64,
    /// Bytes moved if each input is read once and each output written once.
    pub bytes: u64,
}

/// Which run of an op [`Op::cost`] is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Inputs to outputs.
    Forward,
    /// Output gradients to the gradients of these inputs.
    Backward(Needs),
}

/// An op. See the module for how buffers move.
pub trait Op: fmt::Debug + Send + Sync {
    /// Its name: also its folder, its bench id, its row in the README.
    fn name(&self) -> &'static str;

    /// Checks the inputs and derives the outputs. Every shape or type error is born here, before anything runs.
    fn infer(&self, ins: &[Spec]) -> Result<Shapes>;

    /// Computes. `io.output(j)`, `io.reuse(i)` or `io.update(i)` give the buffers to return.
    fn forward(&self, io: &mut Forward) -> Result<Made>;

    /// What backward needs kept, given which inputs need a gradient.
    fn saves(&self, _needs: Needs) -> &'static [Slot] {
        &[]
    }

    /// Computes and gives the gradient of every input that `io.wants`.
    fn backward(&self, _io: &mut Backward) -> Result<()> {
        Err(Error::NoGradient { op: self.name(), input: 0 })
    }

    /// Whether input `i` can have a gradient at all.
    fn differentiable(&self, _input: usize) -> bool {
        true
    }

    /// Floating-point operations and compulsory bytes.
    fn cost(&self, ins: &[Spec], run: Run) -> Cost;
}

/// What forward returns.
#[derive(Debug)]
pub struct Made {
    /// The outputs, as many as `infer` said.
    pub outs: Vec<Buffer>,
    /// The statistics, empty when no gradient is needed.
    pub stats: Vec<Buffer>,
}

impl Made {
    /// Outputs without statistics.
    pub fn outs(outs: impl Into<Vec<Buffer>>) -> Self {
        Made { outs: outs.into(), stats: vec![] }
    }
    /// Outputs with statistics (absent ones are left out).
    pub fn with_stats(outs: impl Into<Vec<Buffer>>, stats: impl IntoIterator<Item = Option<Buffer>>) -> Self {
        Made { outs: outs.into(), stats: stats.into_iter().flatten().collect() }
    }
}

/// The buffers of one forward run.
pub struct Forward<'a> {
    pub(crate) op: &'static str,
    pub(crate) device: &'a Device,
    pub(crate) ins: Vec<Option<Buffer>>,
    pub(crate) shapes: &'a Shapes,
    pub(crate) grad: bool,
}

impl Forward<'_> {
    /// The device to run on.
    pub fn device(&self) -> &Device {
        self.device
    }

    /// Input `i`, to read.
    pub fn input(&self, i: usize) -> &Buffer {
        self.ins[i].as_ref().expect("an input is read before it is taken")
    }

    /// How many inputs there are.
    pub fn inputs(&self) -> usize {
        self.ins.len()
    }

    /// Whether a gradient will be asked for: statistics are made only then.
    pub fn grad(&self) -> bool {
        self.grad
    }

    /// A fresh buffer for output `j`.
    pub fn output(&self, j: usize) -> Result<Buffer> {
        self.device.alloc(self.shapes.outs[j], Role::Activation)
    }

    /// A fresh buffer for statistic `k`, or None when no gradient is needed.
    pub fn stat(&self, k: usize) -> Result<Option<Buffer>> {
        self.grad.then(|| self.device.alloc(self.shapes.stats[k], Role::Activation)).transpose()
    }

    /// Scratch for the length of this call.
    pub fn temp(&self, spec: Spec) -> Result<Buffer> {
        self.device.alloc(spec, Role::Workspace)
    }

    /// Input `i`, to rewrite: its own bytes if nobody else holds them, else a copy.
    pub fn reuse(&mut self, i: usize) -> Result<Buffer> {
        let buffer = self.ins[i].take().expect("an input is taken once");
        if buffer.is_unique() { Ok(buffer) } else { buffer.copy(Role::Activation) }
    }

    /// Input `i`, to share as an output.
    pub fn share(&mut self, i: usize) -> Buffer {
        self.ins[i].take().expect("an input is taken once")
    }

    /// Input `i`, to update: an error if anybody else holds it.
    pub fn update(&mut self, i: usize) -> Result<Buffer> {
        let buffer = self.ins[i].take().expect("an input is taken once");
        if buffer.is_unique() {
            Ok(buffer)
        } else {
            Err(Error::NotUnique { op: self.op, spec: buffer.spec() })
        }
    }
}

/// What the engine wants of an input's gradient.
#[derive(Debug, Clone)]
pub enum Want {
    /// Nothing: the input is frozen or a constant.
    No,
    /// A new buffer of this type, counted under this role.
    New(DType, Role),
    /// Added to this one.
    Add(Buffer),
}

/// The buffers of one backward run.
pub struct Backward<'a> {
    pub(crate) op: &'static str,
    pub(crate) device: &'a Device,
    pub(crate) ins: &'a [Spec],
    pub(crate) saved: Vec<Option<Buffer>>,
    pub(crate) douts: Vec<Option<Buffer>>,
    pub(crate) wants: Vec<Want>,
    pub(crate) given: Vec<Option<Buffer>>,
}

impl Backward<'_> {
    /// The device to run on.
    pub fn device(&self) -> &Device {
        self.device
    }

    /// The spec of input `i`.
    pub fn spec(&self, i: usize) -> Spec {
        self.ins[i]
    }

    /// Whether input `i` needs a gradient.
    pub fn wants(&self, i: usize) -> bool {
        !matches!(self.wants[i], Want::No)
    }

    /// The buffer that `saves` listed at position `k`, to read.
    pub fn saved(&self, k: usize) -> &Buffer {
        self.saved[k].as_ref().expect("a saved buffer is read before it is taken")
    }

    /// The buffer that `saves` listed at position `k`, to rewrite: a copy if somebody else holds it.
    pub fn take_saved(&mut self, k: usize) -> Result<Buffer> {
        let buffer = self.saved[k].take().expect("a saved buffer is taken once");
        if buffer.is_unique() { Ok(buffer) } else { buffer.copy(Role::Activation) }
    }

    /// The gradient of output `j`, or None if nothing depends on that output.
    pub fn dout(&self, j: usize) -> Option<&Buffer> {
        self.douts[j].as_ref()
    }

    /// The gradient of the only output. The engine never runs backward without it.
    pub fn dy(&self) -> &Buffer {
        self.douts[0].as_ref().expect("an op with one output runs backward only with its gradient")
    }

    /// The gradient of output `j`, to hand on as it is.
    pub fn take_dout(&mut self, j: usize) -> Option<Buffer> {
        self.douts[j].take()
    }

    /// The gradient of output `j`, to rewrite: a copy if somebody else holds it.
    pub fn reuse_dout(&mut self, j: usize) -> Result<Option<Buffer>> {
        match self.douts[j].take() {
            Some(buffer) if !buffer.is_unique() => Ok(Some(buffer.copy(Role::Activation)?)),
            other => Ok(other),
        }
    }

    /// Scratch for the length of this call.
    pub fn temp(&self, spec: Spec) -> Result<Buffer> {
        self.device.alloc(spec, Role::Workspace)
    }

    /// A fresh buffer for a gradient; hand it over with [`Backward::give`].
    pub fn alloc(&self, spec: Spec) -> Result<Buffer> {
        self.device.alloc(spec, Role::Activation)
    }

    /// The buffer to write the gradient of input `i` into, in the type the engine wants (`T` or `T::Acc`), and
    /// whether to add to what it holds. For ops that can do both; others give a fresh buffer and the engine adds.
    ///
    /// A fresh buffer has unspecified contents. Hand it over with [`Backward::give`].
    pub fn accumulator(&mut self, i: usize) -> Result<(Buffer, bool)> {
        match std::mem::replace(&mut self.wants[i], Want::No) {
            Want::No => unreachable!("{}: an accumulator is asked for once, for a wanted gradient", self.op),
            Want::New(dtype, role) => Ok((self.device.alloc(self.ins[i].with_dtype(dtype), role)?, false)),
            Want::Add(buffer) => Ok((buffer.into_unique()?, true)),
        }
    }

    /// Hands over the gradient of input `i`. If it did not come from [`Backward::accumulator`], it is added to
    /// what is pending and cast to the wanted type here.
    pub fn give(&mut self, i: usize, gradient: Buffer) -> Result<()> {
        let gradient = gradient.reshaped(self.ins[i].dims());
        let done = match std::mem::replace(&mut self.wants[i], Want::No) {
            Want::No => gradient,
            Want::Add(sum) => {
                let mut sum = sum.into_unique()?;
                crate::add::accumulate(&mut sum, &gradient)?;
                sum
            }
            Want::New(dtype, role) => {
                if dtype == gradient.dtype() && (role == gradient.role() || role == Role::Activation) {
                    gradient
                } else {
                    crate::cast::cast(&gradient, dtype, role)?
                }
            }
        };
        self.given[i] = Some(done);
        Ok(())
    }
}

/// The specs of exactly `N` inputs, or an arity error.
pub fn take<const N: usize>(op: &'static str, ins: &[Spec]) -> Result<[Spec; N]> {
    ins.try_into().map_err(|_| Error::Arity { op, expected: N, got: ins.len() })
}

/// A shape error unless `ok`.
pub fn check(op: &'static str, ok: bool, message: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::shape(op, message())) }
}

/// An error unless `spec` is an activation type: f32, bf16, or f64 for checks.
pub fn float(op: &'static str, spec: Spec) -> Result<()> {
    match spec.dtype {
        DType::F32 | DType::Bf16 | DType::F64 => Ok(()),
        got => Err(Error::DType { op, expected: "f32, bf16 or f64", got }),
    }
}

/// Runs `$body` with `$T` bound to the type `$dtype` on the CPU, nothing on a plan, and on any other device
/// returns the error that `$op` is not implemented there.
#[macro_export]
macro_rules! on_cpu {
    ($device:expr, $op:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $device.kind() {
            $crate::device::Kind::Cpu(_) => $crate::real!($dtype, $T => $body),
            $crate::device::Kind::Plan => {}
            #[allow(unreachable_patterns)]
            _ => return Err($device.not_implemented($op)),
        }
    };
}
