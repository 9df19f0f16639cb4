//! A named weight, its gradient, and whether it learns.

use crate::Tensor;
use crate::graph::Edge;
use kernels::{Buffer, DType, Spec};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

/// A weight of a model, by handle: cloning it shares the weight (tied embeddings are one `Param` used twice).
///
/// The gradient is of type `T::Acc` (f32 for a bf16 weight) and sums over micro-batches until the optimiser takes
/// it. A frozen parameter has none, and nothing is ever computed for one.
#[derive(Clone)]
pub struct Param(Arc<Inner>);

struct Inner {
    name: String,
    spec: Spec,
    trainable: bool,
    decay: bool,
    state: Mutex<State>,
}

struct State {
    value: Option<Buffer>,
    grad: Option<Buffer>,
}

impl Param {
    /// A parameter. `decay` says whether weight decay applies: matrices yes, norms and biases no.
    pub fn new(name: impl Into<String>, value: Buffer, trainable: bool, decay: bool) -> Self {
        let spec = value.spec();
        let state = Mutex::new(State { value: Some(value), grad: None });
        Param(Arc::new(Inner { name: name.into(), spec, trainable, decay, state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Its name, dotted.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Data type and dimensions.
    pub fn spec(&self) -> Spec {
        self.0.spec
    }

    /// Whether it learns.
    pub fn trainable(&self) -> bool {
        self.0.trainable
    }

    /// Whether weight decay applies to it.
    pub fn decays(&self) -> bool {
        self.0.decay
    }

    /// The type its gradient is summed in.
    pub fn grad_dtype(&self) -> DType {
        self.0.spec.dtype.acc()
    }

    /// The weight as a tensor: a leaf of the graph if it learns and its device records gradients.
    pub fn tensor(&self) -> Tensor {
        let buffer = self.value();
        let learns = self.0.trainable && buffer.device().grad_enabled();
        Tensor { edge: learns.then(|| Edge::Leaf(self.clone())), buffer }
    }

    /// The weight's bytes, shared.
    pub fn value(&self) -> Buffer {
        self.state().value.clone().expect("a weight is never left out of its parameter")
    }

    /// Replaces the weight by one of the same spec.
    pub fn set_value(&self, value: Buffer) {
        assert_eq!(value.spec(), self.0.spec, "the value of {}", self.0.name);
        self.state().value = Some(value);
    }

    /// The gradient summed so far, shared.
    pub fn grad(&self) -> Option<Buffer> {
        self.state().grad.clone()
    }

    /// The gradient, taken out.
    pub fn take_grad(&self) -> Option<Buffer> {
        self.state().grad.take()
    }

    pub(crate) fn set_grad(&self, grad: Buffer) {
        self.state().grad = Some(grad);
    }

    /// Whether anything else (a graph that still needs the weight, say) holds its bytes too.
    pub(crate) fn is_held(&self) -> bool {
        !self.state().value.as_ref().expect("a weight is never left out of its parameter").is_unique()
    }

    /// The weight, taken out, to be rewritten and put back by [`Param::set_value`].
    pub(crate) fn take_value(&self) -> Buffer {
        self.state().value.take().expect("a weight is never left out of its parameter")
    }

    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }
}

impl fmt::Debug for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frozen = if self.0.trainable { "" } else { " (frozen)" };
        write!(f, "{} {}{frozen}", self.0.name, self.0.spec)
    }
}
