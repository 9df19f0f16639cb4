//! Autograd: [`apply`] records, [`backward`] replays in reverse. One node type for every op.
//!
//! - Ids grow in the order of creation, so taking the pending node with the largest id visits every node after
//!   all its users: no recursion, and gradients are always summed in the same order.
//! - An edge holds a node, never a tensor: an output nobody uses is freed although its node lives.
//! - A node's body (op, saved buffers) is taken when it runs, so activations are freed as backward goes.
//! - Parameters are leaves, not nodes: a parameter used k times is ready when its k-th gradient has been added.

use crate::{Param, Tensor};
use kernels::op::Want;
use kernels::{Buffer, Error, Needs, Op, Result, Role, Spec, run};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Where the gradient of a tensor goes.
#[derive(Clone)]
pub(crate) enum Edge {
    /// To output j of a node.
    Node(Arc<Node>, usize),
    /// Into a parameter.
    Leaf(Param),
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Edge::Node(node, j) => write!(f, "output {j} of node {}", node.id),
            Edge::Leaf(param) => write!(f, "{param:?}"),
        }
    }
}

pub(crate) struct Node {
    id: u64,
    body: Mutex<Option<Body>>,
}

struct Body {
    op: Arc<dyn Op>,
    edges: Vec<Option<Edge>>,
    saved: Vec<Buffer>,
    ins: Vec<Spec>,
    outs: Vec<Spec>,
    scope: Arc<str>,
}

impl Node {
    fn take(&self) -> Option<Body> {
        self.body.lock().unwrap_or_else(|e| e.into_inner()).take()
    }
}

impl Drop for Node {
    // A chain of a million nodes must not recurse a million deep: unlink it in a loop.
    fn drop(&mut self) {
        let mut bodies: Vec<Body> = self.take().into_iter().collect();
        while let Some(body) = bodies.pop() {
            for edge in body.edges.into_iter().flatten() {
                if let Edge::Node(node, _) = edge
                    && let Some(node) = Arc::into_inner(node)
                {
                    bodies.extend(node.take());
                }
            }
        }
    }
}

/// Runs `op` on `ins` and, if a gradient can flow into any of them, records it. Inputs are taken by value: the
/// last holder of a buffer donates it to ops that work in place.
///
/// Errors: shapes, types or devices that do not fit; a gradient would have to flow into an input that has none.
pub fn apply(op: impl Op + 'static, ins: impl Into<Vec<Tensor>>) -> Result<Vec<Tensor>> {
    static NEXT_ID: AtomicU64 = AtomicU64::new(0);
    let (buffers, edges): (Vec<Buffer>, Vec<Option<Edge>>) =
        ins.into().into_iter().map(|t| (t.buffer, t.edge)).unzip();
    let needs = Needs(edges.iter().enumerate().map(|(i, e)| (e.is_some() as u32) << i).sum());
    if let Some(input) = (0..edges.len()).find(|&i| needs.has(i) && !op.differentiable(i)) {
        return Err(Error::NoGradient { op: op.name(), input });
    }
    if !needs.any() {
        let ran = run::forward(&op, buffers, needs)?;
        return Ok(ran.outs.into_iter().map(Tensor::constant).collect());
    }
    let specs: Vec<Spec> = buffers.iter().map(Buffer::spec).collect();
    let scope = buffers[0].device().scope_path();
    let ran = run::forward(&op, buffers, needs)?;
    let body = Body {
        op: Arc::new(op),
        edges,
        saved: ran.saved,
        ins: specs,
        outs: ran.outs.iter().map(Buffer::spec).collect(),
        scope,
    };
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let node = Arc::new(Node { id, body: Mutex::new(Some(body)) });
    let edge = |j| Some(Edge::Node(node.clone(), j));
    Ok(ran.outs.into_iter().enumerate().map(|(j, buffer)| Tensor { buffer, edge: edge(j) }).collect())
}

/// Sends the gradient `seed` back from the scalar `loss` and adds to the gradient of every parameter it depends
/// on. `ready` is called for each parameter when its gradient of this backward is complete: last layers first,
/// a parameter used more than once (tied embeddings) after its last use.
///
/// A `loss` without a graph (everything it depends on is frozen) does nothing.
/// Errors: the graph was consumed before; whatever an op or `ready` returns. After an error the gradients are
/// incomplete and must be thrown away.
pub fn backward(loss: Tensor, seed: f64, ready: &mut dyn FnMut(&Param) -> Result<()>) -> Result<()> {
    let Tensor { buffer, edge } = loss;
    let Some(Edge::Node(root, output)) = edge else { return Ok(()) };
    assert_eq!(buffer.spec().elements(), 1, "backward starts from a scalar");
    let gradient = Buffer::from_f64(buffer.device(), buffer.spec(), &[seed], Role::Activation)?;
    drop(buffer);
    let mut uses = count_uses(&root)?;
    let mut pending: BTreeMap<u64, Pending> = BTreeMap::new();
    deposit(&mut pending, root, output, gradient)?;
    while let Some((_, Pending { node, douts })) = pending.pop_last() {
        let Body { op, edges, saved, ins, outs, scope } = node.take().ok_or(Error::Consumed)?;
        drop(node);
        // Users may have reshaped an output; the op sees the gradient in the shape it made.
        let mut douts = douts.into_iter();
        let douts = outs.iter().map(|o| douts.next().flatten().map(|d| d.reshaped(o.dims()))).collect();
        let wants = edges
            .iter()
            .zip(&ins)
            .map(|(edge, spec)| match edge {
                None => Want::No,
                Some(Edge::Leaf(param)) => match param.take_grad() {
                    Some(sum) => Want::Add(sum),
                    None => Want::New(param.grad_dtype(), Role::Gradient),
                },
                Some(Edge::Node(node, j)) => match pending.get_mut(&node.id).and_then(|p| p.take(*j)) {
                    Some(sum) => Want::Add(sum),
                    None => Want::New(spec.dtype, Role::Activation),
                },
            })
            .collect();
        let given = run::backward(op.as_ref(), &scope, &ins, saved, douts, wants)?;
        for (edge, gradient) in edges.into_iter().zip(given) {
            let (Some(edge), Some(gradient)) = (edge, gradient) else { continue };
            match edge {
                Edge::Node(node, j) => deposit(&mut pending, node, j, gradient)?,
                Edge::Leaf(param) => {
                    param.set_grad(match param.take_grad() {
                        // Only when one op takes the same parameter twice.
                        Some(sum) => added(sum, &gradient)?,
                        None => gradient.reshaped(param.spec().dims()),
                    });
                    let left = uses.get_mut(&param.address()).expect("every leaf was counted");
                    *left -= 1;
                    if *left == 0 {
                        ready(&param)?;
                    }
                }
            }
        }
    }
    Ok(())
}

struct Pending {
    node: Arc<Node>,
    douts: Vec<Option<Buffer>>,
}

impl Pending {
    fn take(&mut self, j: usize) -> Option<Buffer> {
        self.douts.get_mut(j).and_then(Option::take)
    }
}

fn deposit(pending: &mut BTreeMap<u64, Pending>, node: Arc<Node>, j: usize, gradient: Buffer) -> Result<()> {
    let entry = pending.entry(node.id).or_insert(Pending { node, douts: vec![] });
    if entry.douts.len() <= j {
        entry.douts.resize(j + 1, None);
    }
    entry.douts[j] = Some(match entry.douts[j].take() {
        // Only when one op takes the same tensor twice; otherwise the op has added already.
        Some(sum) => added(sum, &gradient)?,
        None => gradient,
    });
    Ok(())
}

fn added(sum: Buffer, gradient: &Buffer) -> Result<Buffer> {
    let mut sum = sum.into_unique()?;
    kernels::add::accumulate(&mut sum, gradient)?;
    Ok(sum)
}

/// How often each parameter is used by the graph under `root`.
fn count_uses(root: &Arc<Node>) -> Result<HashMap<usize, usize>> {
    let mut uses = HashMap::new();
    let mut seen = HashSet::from([root.id]);
    let mut stack = vec![root.clone()];
    while let Some(node) = stack.pop() {
        let body = node.body.lock().unwrap_or_else(|e| e.into_inner());
        for edge in body.as_ref().ok_or(Error::Consumed)?.edges.iter().flatten() {
            match edge {
                Edge::Leaf(param) => *uses.entry(param.address()).or_insert(0) += 1,
                Edge::Node(node, _) => {
                    if seen.insert(node.id) {
                        stack.push(node.clone());
                    }
                }
            }
        }
    }
    Ok(uses)
}
