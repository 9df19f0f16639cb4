//! How the next token is chosen.
//!
//! Logits stay on the device as far as they can: where the k likeliest tokens decide, the op `top_k` finds them there and
//! only these reach the host. That is the arg max of greedy decoding and sampling with `top_k`. All logits are needed for
//! `top_p` alone, and for a repetition penalty, which changes their order.

use crate::Result;
use engine::Tensor;
use kernels::random::Random;
use kernels::top_k::{MOST, order};

/// How the next token is chosen and when to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// The most tokens to add.
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token; otherwise logits are divided by this first.
    pub temperature: f64,
    /// Sample among this many likeliest tokens; 0 among all.
    pub top_k: usize,
    /// Sample among the likeliest tokens that together reach this probability; 1 among all.
    pub top_p: f64,
    /// Logits of tokens that occurred are divided by this if positive, multiplied if negative (Keskar et al. 2019).
    pub repetition_penalty: f64,
    /// Texts that end the answer; they are no part of it.
    pub stop: Vec<String>,
    /// Of the sampling.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            max_new_tokens: 256,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            stop: vec![],
            seed: 0,
        }
    }
}

impl Sampling {
    /// How many of the likeliest of `pieces` tokens decide. None: all.
    fn decisive(&self, pieces: usize) -> Option<usize> {
        let k = match self.top_k.min(pieces) {
            _ if self.repetition_penalty != 1.0 => return None,
            _ if self.temperature == 0.0 => 1,
            k => k,
        };
        (1..=MOST).contains(&k).then_some(k)
    }
}

/// What sampling needs of logits, on the host. Equal logits come in the order of ids, NaN behind all others.
pub struct Logits {
    /// Ids of each row, the likeliest first, and how many. Empty: all, in their own order.
    ids: Vec<u32>,
    /// As many logits for each row. None are needed where there is one id.
    values: Vec<f32>,
    per_row: usize,
}

impl Logits {
    /// Takes what this sampling needs of logits [rows, vocabulary] to the host. Only the first `pieces` tokens are ever
    /// chosen: the others are rows of the embedding that no piece has.
    pub fn read(logits: &Tensor, pieces: usize, sampling: &Sampling) -> Result<Self> {
        let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
        let Some(k) = sampling.decisive(pieces) else {
            let all = narrow(logits.to_f64()?);
            let rows = all.chunks(logits.spec().last());
            let values = rows.flat_map(|row| &row[..pieces]).copied().collect();
            return Ok(Logits { ids: vec![], values, per_row: pieces });
        };
        let (values, ids) = logits.top_k(k, pieces)?;
        let values = if k == 1 { vec![] } else { narrow(values.to_f64()?) };
        Ok(Logits { ids: ids.buffer().to_vec()?, values, per_row: k })
    }

    /// The next token of a row, of a sequence in which the tokens `seen` occurred. It draws from `random` unless greedy.
    pub fn choose(&self, row: usize, seen: &[u32], sampling: &Sampling, random: &mut Random) -> u32 {
        let range = row * self.per_row..(row + 1) * self.per_row;
        if self.per_row == 1 && !self.ids.is_empty() {
            if sampling.temperature != 0.0 {
                random.uniform(); // a draw from one token is a draw
            }
            return self.ids[row];
        }
        let values = &self.values[range.clone()];
        if !self.ids.is_empty() {
            return draw(&self.ids[range], values, sampling, random);
        }
        let mut values = values.to_vec();
        penalise(&mut values, seen, sampling.repetition_penalty as f32);
        let by_rank = |a: &u32, b: &u32| order(values[*a as usize], values[*b as usize]);
        let mut ids: Vec<u32> = (0..values.len() as u32).collect();
        if sampling.temperature == 0.0 {
            return ids.into_iter().min_by(by_rank).expect("a vocabulary has pieces"); // the first of the likeliest
        }
        ids.sort_by(by_rank); // stable
        let values: Vec<f32> = ids.iter().map(|id| values[*id as usize]).collect();
        draw(&ids, &values, sampling, random)
    }
}

/// The penalty of repetition, once for each token that occurred.
fn penalise(logits: &mut [f32], seen: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = seen.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(l) = logits.get_mut(id as usize) {
            *l = if *l > 0.0 { *l / penalty } else { *l * penalty };
        }
    }
}

/// Temperature, then top-k, then top-p (which keeps the first token above the threshold), then a draw. `ids` are the
/// likeliest first, at least as many as top-k takes.
fn draw(ids: &[u32], logits: &[f32], sampling: &Sampling, random: &mut Random) -> u32 {
    let k = if sampling.top_k > 0 { sampling.top_k.min(ids.len()) } else { ids.len() };
    let top = f64::from(logits[0]);
    let weight = |l: &f32| ((f64::from(*l) - top) / sampling.temperature).exp();
    let mut weights: Vec<f64> = logits[..k].iter().map(weight).collect();
    if sampling.top_p < 1.0 {
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let keep = weights.iter().take_while(|w| {
            let before = sum;
            sum += **w;
            before < sampling.top_p * total
        });
        let keep = keep.count().max(1);
        weights.truncate(keep);
    }
    let mut left = random.uniform() * weights.iter().sum::<f64>();
    for (id, w) in ids.iter().zip(&weights) {
        left -= w;
        if left < 0.0 {
            return *id;
        }
    }
    ids[weights.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{DType, Device};

    fn logits(values: &[f32]) -> Tensor {
        Tensor::from_f32(&Device::cpu(), DType::F32, [1, values.len()], values).expect("on the host")
    }

    fn chosen(values: &[f32], seen: &[u32], sampling: &Sampling, random: &mut Random) -> u32 {
        Logits::read(&logits(values), values.len(), sampling)
            .expect("k fits")
            .choose(0, seen, sampling, random)
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut random = Random::new(1, 0);
        let greedy = Sampling::default();
        // A token that did not occur has no penalty, but all logits are looked at.
        let all = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        for sampling in [greedy, all] {
            assert_eq!(chosen(&[0.0, 3.0, 3.0, -1.0], &[], &sampling, &mut random), 1);
            assert_eq!(chosen(&[f32::NAN, 1.0], &[], &sampling, &mut random), 1);
            assert_eq!(chosen(&[-0.0, 0.0], &[], &sampling, &mut random), 0);
        }
    }

    #[test]
    fn what_occurred_is_less_likely() {
        let penalised = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        let mut random = Random::new(1, 0);
        assert_eq!(chosen(&[3.0, 2.0, 1.0], &[0, 0, 9], &penalised, &mut random), 1);
        assert_eq!(chosen(&[-1.0, -1.5, -3.0], &[0], &penalised, &mut random), 1);
    }

    #[test]
    fn top_k_and_top_p_bound_what_is_drawn() {
        let values = [0.0, 1.0, 2.0, 3.0];
        let mut random = Random::new(1, 0);
        let only = |s: &Sampling, random: &mut Random| -> Vec<u32> {
            let mut all: Vec<u32> = (0..200).map(|_| chosen(&values, &[], s, random)).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let base = Sampling { temperature: 1.0, ..Sampling::default() };
        assert_eq!(only(&base, &mut random), [0, 1, 2, 3]);
        assert_eq!(only(&Sampling { top_k: 2, ..base.clone() }, &mut random), [2, 3]);
        // p(3) = 0.64: the second token is the first above 0.7.
        assert_eq!(only(&Sampling { top_p: 0.7, ..base.clone() }, &mut random), [2, 3]);
        assert_eq!(only(&Sampling { top_p: 0.5, ..base }, &mut random), [3]);
    }

    #[test]
    fn a_draw_from_one_token_takes_a_random_number_as_any_other() {
        let one = Sampling { temperature: 1.0, top_k: 1, ..Sampling::default() };
        let all = Sampling { repetition_penalty: 1.1, ..one.clone() };
        let mut random = [Random::new(5, 0), Random::new(5, 0)];
        for (sampling, random) in [one, all].iter().zip(&mut random) {
            assert_eq!(chosen(&[0.0, 1.0], &[], sampling, random), 1);
        }
        assert_eq!(random[0].uniform(), random[1].uniform());
    }
}
