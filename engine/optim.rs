//! The optimiser: AdamW over the trainable parameters, clipping by the global norm, and the learning rate schedule.

use crate::Param;
use kernels::adamw;
use kernels::cast::cast;
use kernels::sum_squares::SumSquares;
use kernels::{Buffer, DType, Device, Error, Result, Role, Spec, run};

/// Hyper-parameters of [`AdamW`].
#[derive(Debug, Clone, PartialEq)]
pub struct AdamWConfig {
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Whether norms and biases decay too.
    pub decay_all: bool,
    /// Gradients are scaled down so that their global norm is at most this; 0 turns it off.
    pub clip: f64,
}

/// AdamW with f32 master weights where the model's are narrower (O2).
pub struct AdamW {
    config: AdamWConfig,
    params: Vec<Param>,
    states: Vec<Option<State>>,
    steps: u64,
}

/// What the optimiser keeps for a parameter, all of type `T::Acc`.
#[derive(Debug, Clone)]
pub struct State {
    /// The weight in full precision; None when the model's own weight is that.
    pub master: Option<Buffer>,
    /// First moment.
    pub m: Buffer,
    /// Second moment.
    pub v: Buffer,
}

/// What the parameters of one op have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Group {
    decays: bool,
    /// Of the weights.
    dtype: DType,
}

impl AdamW {
    /// An optimiser of those of `params` that learn. Its state is made when a parameter's first gradient comes.
    pub fn new<'a>(config: AdamWConfig, params: impl IntoIterator<Item = &'a Param>) -> Self {
        let params: Vec<Param> = params.into_iter().filter(|p| p.trainable()).cloned().collect();
        AdamW { config, states: vec![None; params.len()], params, steps: 0 }
    }

    /// How many steps were taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Updates every parameter that has a gradient, takes the gradients, and returns their global norm from before
    /// clipping. If that norm is not finite nothing is updated and the gradients are dropped: the caller decides.
    ///
    /// Clipping and the decision to update are made on the device: reading the norm, last of all, is the only wait.
    /// Errors: a weight is still held elsewhere (a graph that was not run backward), or a state; then nothing has
    /// been updated. After an error of the device the parameters are lost.
    pub fn step(&mut self, lr: f64) -> Result<f64> {
        let grads: Vec<Option<Buffer>> = self.params.iter().map(Param::take_grad).collect();
        let (updated, grads): (Vec<usize>, Vec<Buffer>) =
            grads.into_iter().enumerate().filter_map(|(i, grad)| Some((i, grad?))).unzip();
        let Some(device) = grads.first().map(|g| g.device().clone()) else {
            self.steps += 1;
            return Ok(0.0);
        };
        let _scope = device.scope("optimizer");
        self.refuse_held(&updated)?;
        let squares = run::update(&SumSquares, grads.clone())?.swap_remove(0);
        let fresh = self.make_states(&updated, &device)?;
        let mut groups: Vec<(Group, Vec<(usize, Buffer)>)> = vec![];
        for (i, grad) in updated.into_iter().zip(grads) {
            let group = self.group(i);
            match groups.iter_mut().find(|(other, _)| *other == group) {
                Some((_, members)) => members.push((i, grad)),
                None => groups.push((group, vec![(i, grad)])),
            }
        }
        for (group, members) in groups {
            self.update(group, members, lr, &squares)?;
        }
        let norm = if device.is_plan() { 0.0 } else { squares.to_f64()?[0].sqrt() };
        if norm.is_finite() {
            self.steps += 1;
        } else {
            fresh.into_iter().for_each(|i| self.states[i] = None); // as before this step
        }
        Ok(norm)
    }

    /// An error unless the weights and states of these parameters can be rewritten.
    fn refuse_held(&self, updated: &[usize]) -> Result<()> {
        for &i in updated {
            let state = self.states[i].iter().flat_map(|s| [Some(&s.m), Some(&s.v), s.master.as_ref()]);
            let held = state.flatten().find(|b| !b.is_unique()).map(Buffer::spec);
            let held = held.or_else(|| self.params[i].is_held().then(|| self.params[i].spec()));
            if let Some(spec) = held {
                return Err(Error::NotUnique { op: "adamw", spec });
            }
        }
        Ok(())
    }

    /// Makes the states that are missing; of which parameters.
    fn make_states(&mut self, updated: &[usize], device: &Device) -> Result<Vec<usize>> {
        let missing = updated.iter().copied().filter(|&i| self.states[i].is_none());
        let missing: Vec<usize> = missing.collect();
        for &i in &missing {
            let param = &self.params[i];
            let acc = param.grad_dtype();
            let zeros = || Buffer::zeros(device, param.spec().with_dtype(acc), Role::Optimizer);
            let narrow = acc != param.spec().dtype;
            let master = narrow.then(|| cast(&param.value(), acc, Role::Optimizer)).transpose()?;
            self.states[i] = Some(State { master, m: zeros()?, v: zeros()? });
        }
        Ok(missing)
    }

    /// Which op updates a parameter.
    fn group(&self, i: usize) -> Group {
        let param = &self.params[i];
        Group { decays: self.config.decay_all || param.decays(), dtype: param.spec().dtype }
    }

    /// Updates parameters of one group, each given with its gradient.
    fn update(
        &mut self,
        group: Group,
        members: Vec<(usize, Buffer)>,
        lr: f64,
        squares: &Buffer,
    ) -> Result<()> {
        let c = &self.config;
        let acc = group.dtype.acc();
        let op = adamw::AdamW {
            beta1: c.betas[0],
            beta2: c.betas[1],
            eps: c.eps,
            weight_decay: if group.decays { c.weight_decay } else { 0.0 },
            clip: c.clip,
            narrow: acc != group.dtype,
        };
        let hyper = op.hyper(lr, self.steps + 1);
        let hyper = Buffer::from_f64(squares.device(), Spec::new(acc, [3]), &hyper, Role::Workspace)?;
        let mut ins = vec![hyper, squares.clone()];
        let mut indices = vec![];
        for (i, grad) in members {
            let State { master, m, v } = self.states[i].take().expect("made before");
            let weight = self.params[i].take_value();
            match master {
                Some(master) => ins.extend([master, grad, m, v, weight]),
                None => ins.extend([weight, grad, m, v]),
            }
            indices.push(i);
        }
        let mut outs = run::update(&op, ins)?.into_iter();
        for i in indices {
            let mut next = || outs.next().expect("adamw returns what it updates");
            let (first, m, v) = (next(), next(), next());
            let (master, weight) = if op.narrow { (Some(first), next()) } else { (None, first) };
            self.params[i].set_value(weight);
            self.states[i] = Some(State { master, m, v });
        }
        Ok(())
    }

    /// Each parameter that learns with its state, for a checkpoint.
    pub fn states(&self) -> impl Iterator<Item = (&Param, Option<&State>)> {
        self.params.iter().zip(self.states.iter().map(Option::as_ref))
    }

    /// Puts back what a checkpoint held: the number of steps, and the states in the order of [`AdamW::states`].
    pub fn restore(&mut self, steps: u64, states: Vec<Option<State>>) {
        assert_eq!(states.len(), self.params.len(), "one state per parameter that learns");
        self.states = states;
        self.steps = steps;
    }
}

/// The learning rate by step, counted from 0. NeMo's `CosineAnnealing`.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The peak.
    pub lr: f64,
    /// What it ends at.
    pub min_lr: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Steps at `min_lr` at the end.
    pub constant_steps: u64,
    /// All steps.
    pub max_steps: u64,
}

impl Schedule {
    /// The learning rate of `step`.
    ///
    /// Without constant steps: `lr (s+1)/(W+1)` up to and at W, then half a cosine from `lr` at W to `min_lr` at T.
    /// With them: `lr s/W` up to and at W, half a cosine over T - C - W steps, then `min_lr`.
    pub fn at(&self, step: u64) -> f64 {
        let (s, w, t) = (step as f64, self.warmup_steps as f64, self.max_steps as f64);
        let cosine = |progress: f64| {
            self.min_lr + (self.lr - self.min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
        };
        if self.constant_steps == 0 {
            return if step <= self.warmup_steps && self.warmup_steps > 0 {
                self.lr * (s + 1.0) / (w + 1.0)
            } else if step > self.max_steps {
                self.min_lr
            } else {
                cosine((s - w) / (t - w).max(1.0))
            };
        }
        let decay = (t - w - self.constant_steps as f64).max(0.0);
        if step <= self.warmup_steps && self.warmup_steps > 0 {
            self.lr * s / w
        } else if s < w + decay {
            cosine((s - w) / decay)
        } else {
            self.min_lr
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    fn schedule(constant_steps: u64) -> Schedule {
        Schedule { lr: 2e-3, min_lr: 2e-5, warmup_steps: 140, constant_steps, max_steps: 4650 }
    }

    #[test]
    fn cosine_annealing_follows_nemo_without_constant_steps() {
        let s = schedule(0);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-15, "{a} {b}");
        close(s.at(0), 2e-3 / 141.0);
        close(s.at(140), 2e-3);
        close(s.at((140 + 4650) / 2), 2e-5 + (2e-3 - 2e-5) * 0.5);
        close(s.at(4650), 2e-5);
        close(s.at(9999), 2e-5);
    }

    #[test]
    fn constant_steps_end_at_the_minimum() {
        let s = schedule(650);
        assert_eq!(s.at(0), 0.0);
        assert_eq!(s.at(140), 2e-3);
        assert!(s.at(3999) > 2e-5);
        assert_eq!(s.at(4000), 2e-5);
    }

    #[test]
    fn no_warm_up_starts_at_the_peak() {
        let s = Schedule { warmup_steps: 0, ..schedule(0) };
        assert_eq!(s.at(0), 2e-3);
    }
}
