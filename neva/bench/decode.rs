//! `neva bench decode`: how many tokens a second a decoder with random weights adds to one sequence.
//!
//! Each token reads every weight but the embedding's (of which it reads one row) and the keys and values so far, and
//! computes next to nothing: what it takes at least is those bytes at the rate at which memory can be read.

use super::Sizes;
use crate::Result;
use crate::model::{LlmInit, Model, ModelConfig, NewRows, ProjectorConfig, Source, Sources, Trainable};
use crate::sampling::{Logits, Sampling};
use engine::{DType, Device};
use kernels::random::Random;
use serde_json::{Value, json};
use std::time::Instant;

/// What to time.
#[derive(Debug, Clone)]
pub struct DecodeBench {
    /// f32 or bf16.
    pub dtype: DType,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens added; the likeliest each time.
    pub tokens: usize,
    /// The decoder.
    pub llm: Sizes,
    /// Its key and value heads.
    pub kv: usize,
    /// Its vocabulary.
    pub vocab: usize,
}

/// What it took.
pub struct DecodeTimes {
    /// On what, in words.
    pub device: String,
    /// Milliseconds of each token, sorted.
    pub ms: Vec<f64>,
    /// Milliseconds of the prompt.
    pub prompt_ms: f64,
    /// Elements of all parameters of the decoder.
    pub parameters: usize,
    /// Bytes that one token reads at least, in the middle of the answer.
    pub bytes: usize,
}

impl DecodeBench {
    /// Runs it on a device, the CPU with the current thread pool.
    pub fn run(&self, device: &Device) -> Result<DecodeTimes> {
        let config = self.config();
        let init = LlmInit { std: 0.02, scaled: false };
        let source = Sources::all(Source::Fresh(0));
        let model = Model::new(device, self.dtype, &config, Trainable::NONE, source, init)?;
        let mut cache = model.cache(device, 1, self.prompt + self.tokens)?;
        let mut random = Random::new(0, 0);
        let mut ids: Vec<u32> = (0..self.prompt).map(|_| random.below(self.vocab as u32)).collect();
        let (mut first, greedy) = (0, Sampling::default());
        let mut feed = |ids: &[u32]| -> Result<(f64, u32)> {
            let start = Instant::now();
            let positions = (first..first + ids.len() as u32).collect();
            let rows =
                NewRows { ids: ids.to_vec(), slots: vec![0; ids.len()], positions, ..NewRows::default() };
            let logits = model.extend(device, &mut cache, &rows, &[ids.len() as u32 - 1])?;
            let likeliest = Logits::read(&logits, self.vocab, &greedy)?;
            first += ids.len() as u32;
            let took = start.elapsed().as_secs_f64() * 1e3;
            Ok((took, likeliest.choose(0, &[], &greedy, &mut random)))
        };
        let mut ms = vec![];
        let (prompt_ms, mut next) = feed(&ids)?;
        for _ in 0..self.tokens {
            ids = vec![next];
            let (time, likeliest) = feed(&ids)?;
            ms.push(time);
            next = likeliest;
        }
        ms.sort_by(f64::total_cmp);
        let of_decoder = model.params().into_iter().filter(|p| p.name().starts_with("llm."));
        let (mut parameters, mut bytes) = (0, 0);
        for param in of_decoder {
            parameters += param.spec().elements();
            let read = !param.name().contains("embedding");
            bytes += if read { param.spec().bytes() } else { self.llm.hidden * self.dtype.size() };
        }
        let keys = 2 * self.kv * config.llm.head_dim * self.dtype.size();
        bytes += self.llm.layers * keys * (self.prompt + self.tokens / 2);
        Ok(DecodeTimes { device: device.describe(), ms, prompt_ms, parameters, bytes })
    }

    /// A decoder as of LLaMA, behind the smallest tower there is, which never runs.
    fn config(&self) -> ModelConfig {
        let l = self.llm;
        ModelConfig {
            vision: Sizes { hidden: 8, layers: 1, heads: 1, ffn: 8 }.tower(8, 8, -1),
            projector: ProjectorConfig { layers: 1 },
            llm: l.llama(self.kv, self.vocab, self.prompt + self.tokens),
            image_token: self.vocab as u32 - 1,
            image_marks: None,
        }
    }

    /// One line; `read` is the rate at which this machine reads memory, in bytes per second, measured in this process.
    pub fn to_json(&self, times: &DecodeTimes, read: f64) -> Value {
        let best = times.ms[0];
        let hundredth = |x: f64| (x * 100.0).round() / 100.0;
        let rate = times.bytes as f64 / best * 1e3;
        json!({
            "device": times.device,
            "dtype": self.dtype.to_string(),
            "threads": rayon::current_num_threads(),
            "parameters": times.parameters,
            "prompt_ms": hundredth(times.prompt_ms),
            "ms_median": hundredth(times.ms[times.ms.len() / 2]),
            "ms_best": hundredth(best),
            "tokens_per_s_best": hundredth(1e3 / best),
            "mb_per_token": hundredth(times.bytes as f64 / 1e6),
            "gb_per_s": hundredth(rate / 1e9),
            "read_gb_per_s": hundredth(read / 1e9),
            "of_read_rate": hundredth(rate / read),
        })
    }
}
