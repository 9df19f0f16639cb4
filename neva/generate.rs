//! Answers: greedy or sampled continuation of a prompt, one row at a time through the KV cache, many prompts at once.
//!
//! Each sequence has a slot of the cache. A row's logits depend on its own sequence alone, bit for bit, so a batch
//! gives each prompt the answer it gets alone.

use crate::checkpoint::Checkpoint;
use crate::config::schema::Template;
use crate::data::{self, IMAGE, ImageTokens, Prompt};
use crate::image::{Mode, Preprocess};
use crate::model::{LlmInit, Model, NewRows, Source, Sources, Trainable};
use crate::sampling::{Logits, Sampling};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result, json};
use engine::{DType, Device, Tensor};
use kernels::random::{Random, derive};
use std::path::{Path, PathBuf};

/// A trained model with everything that answering needs.
pub struct Answerer {
    /// The device it lies on.
    pub device: Device,
    /// The model.
    pub model: Model,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Image files to pixels.
    pub preprocess: Preprocess,
    /// The template it was trained with.
    pub template: Template,
}

impl Answerer {
    /// Loads a model directory onto a device; in the type it was stored in unless `dtype` says another.
    pub fn load(device: &Device, dir: &Path, dtype: Option<DType>) -> Result<Self> {
        let checkpoint = Checkpoint::open(dir)?;
        let dtype = dtype.unwrap_or(checkpoint.stored_dtype());
        let config = checkpoint.config();
        let sources = Sources::all(Source::Checkpoint(&checkpoint));
        let init = LlmInit { std: 0.0, scaled: false }; // nothing is born here
        let model = Model::new(device, dtype, config, Trainable::NONE, sources, init)?;
        let tokenizer = Tokenizer::load(dir)?;
        let (pieces, rows) = (tokenizer.vocab_size(), config.llm.vocab_size);
        if pieces > rows {
            let message = format!(
                "the tokenizer has {pieces} pieces, the embedding of the language model only {rows} rows"
            );
            return Err(Error::Checkpoint { path: dir.into(), message });
        }
        let extras = checkpoint.extras();
        let path = dir.join("config.json");
        let bad = |key: &str, value: &str, words: String| Error::Checkpoint {
            path: path.clone(),
            message: format!("neva.{key}: expected {words}, got {value:?}"),
        };
        let template = Template::from_word(&extras.conv_template)
            .ok_or_else(|| bad("conv_template", &extras.conv_template, Template::WORDS.join(" or ")))?;
        let mode = Mode::from_name(&extras.image_aspect_ratio).ok_or_else(|| {
            bad("image_aspect_ratio", &extras.image_aspect_ratio, Mode::ALL.map(Mode::name).join(" or "))
        })?;
        let preprocess = preprocess(dir, config.vision.image_size, mode)?;
        Ok(Answerer { device: device.clone(), model, tokenizer, preprocess, template })
    }

    /// Greedy decoding that stops where the template says.
    pub fn greedy(&self) -> Sampling {
        let stop = data::stop_strings(self.template).iter().map(|s| s.to_string()).collect();
        Sampling { stop, ..Sampling::default() }
    }

    /// A user's turn in the model's template, with its images' pixels. Images without an `<image>` in the text go in
    /// front, one a line.
    ///
    /// Errors: an image cannot be read; more `<image>` in the text than images; more rows than the model has positions.
    pub fn prompt(&self, question: &str, images: &[PathBuf]) -> Result<(Prompt, Vec<f32>)> {
        let pixels = self.pixels(images)?;
        let written = question.matches(IMAGE).count();
        if written > images.len() {
            return Err(another_number(written, images));
        }
        let question = format!("{IMAGE}\n").repeat(images.len() - written) + question;
        let prompt = data::prompt(self.template, &self.tokenizer, self.images(), &[(question, None)])?;
        self.check_length(&prompt)?;
        Ok((prompt, pixels))
    }

    /// A text taken as it is, with its images' pixels.
    ///
    /// Errors: an image cannot be read; the text has another number of `<image>` than there are images; more rows than
    /// the model has positions.
    pub fn raw_prompt(&self, text: &str, images: &[PathBuf]) -> Result<(Prompt, Vec<f32>)> {
        let pixels = self.pixels(images)?;
        let written = text.matches(IMAGE).count();
        if written != images.len() {
            return Err(another_number(written, images));
        }
        let prompt = data::raw_prompt(text, &self.tokenizer, self.images())?;
        self.check_length(&prompt)?;
        Ok((prompt, pixels))
    }

    /// There must be a position left for the first token of the answer.
    fn check_length(&self, prompt: &Prompt) -> Result<()> {
        let (rows, positions) = (prompt.ids.len(), self.model.config().llm.max_positions);
        if rows >= positions {
            let message = format!("the prompt has {rows} rows, the model only {positions} positions");
            return Err(Error::Usage(message));
        }
        Ok(())
    }

    fn pixels(&self, images: &[PathBuf]) -> Result<Vec<f32>> {
        Ok(images.iter().map(|path| self.preprocess.open(path)).collect::<Result<Vec<_>>>()?.concat())
    }

    fn images(&self) -> ImageTokens {
        let config = self.model.config();
        ImageTokens {
            token: config.image_token,
            rows: config.vision.feature_rows(),
            marks: config.image_marks,
        }
    }

    /// Answers to prompts with their images' pixels (all images of a prompt one behind the other). `on_text` gets
    /// (prompt, text) as soon as text is certain; the answers come back whole.
    ///
    /// Errors: a prompt of more rows than the model has positions. An answer ends at the last position.
    pub fn answer(
        &self,
        prompts: &[(Prompt, Vec<f32>)],
        sampling: &Sampling,
        on_text: &mut dyn FnMut(usize, &str) -> Result<()>,
    ) -> Result<Vec<String>> {
        for (prompt, _) in prompts {
            self.check_length(prompt)?;
        }
        let longest = prompts.iter().map(|(p, _)| p.ids.len()).max().unwrap_or(0);
        let capacity =
            longest.saturating_add(sampling.max_new_tokens).min(self.model.config().llm.max_positions);
        let mut cache = self.model.cache(&self.device, prompts.len(), capacity)?;
        let mut answers: Vec<Answer> = prompts
            .iter()
            .enumerate()
            .map(|(slot, (prompt, _))| Answer::new(self, prompt, sampling, slot))
            .collect();
        let pieces = self.tokenizer.vocab_size();
        let mut logits = Logits::read(&self.prefill(prompts, &mut cache)?, pieces, sampling)?;
        let mut live: Vec<usize> = (0..prompts.len()).collect();
        loop {
            let mut next = NewRows::default();
            let mut still = vec![];
            for (row, &slot) in live.iter().enumerate() {
                let answer = &mut answers[slot];
                let token = logits.choose(row, &answer.seen, sampling, &mut answer.random);
                let go_on = answer.push(token, sampling, &mut |text| on_text(slot, text))?;
                if go_on && answer.len < capacity {
                    next.ids.push(token);
                    next.slots.push(slot as u32);
                    next.positions.push(answer.len as u32);
                    answer.len += 1;
                    still.push(slot);
                } else {
                    answer.finish(&mut |text| on_text(slot, text))?;
                }
            }
            live = still;
            if live.is_empty() {
                return Ok(answers.into_iter().map(|a| a.text).collect());
            }
            let wanted: Vec<u32> = (0..live.len() as u32).collect();
            let out = self.model.extend(&self.device, &mut cache, &next, &wanted)?;
            logits = Logits::read(&out, pieces, sampling)?;
        }
    }

    /// Feeds the prompts and returns the logits that follow each.
    fn prefill(&self, prompts: &[(Prompt, Vec<f32>)], cache: &mut crate::model::KvCache) -> Result<Tensor> {
        let mut rows = NewRows::default();
        let (mut pixels, mut wanted) = (vec![], vec![]);
        for (slot, (prompt, image)) in prompts.iter().enumerate() {
            let first = rows.ids.len() as u32;
            rows.ids.extend(&prompt.ids);
            rows.slots.extend(std::iter::repeat_n(slot as u32, prompt.ids.len()));
            rows.positions.extend(0..prompt.ids.len() as u32);
            rows.image_rows.extend(prompt.image_rows.iter().map(|r| first + r));
            wanted.push(rows.ids.len() as u32 - 1);
            pixels.extend_from_slice(image);
        }
        let vision = &self.model.config().vision;
        let images = rows.image_rows.len() / vision.feature_rows();
        if images > 0 {
            let _no_grad = self.device.no_grad();
            rows.features = Some(self.model.encode_images(&self.device, &pixels, images)?);
        }
        self.model.extend(&self.device, cache, &rows, &wanted)
    }
}

fn another_number(written: usize, images: &[PathBuf]) -> Error {
    let given = match images.len() {
        1 => "1 image is".to_string(),
        n => format!("{n} images are"),
    };
    Error::Usage(format!("the prompt has {written} {IMAGE}, but {given} given"))
}

/// The preprocessing a model directory asks for; CLIP's if it says nothing.
fn preprocess(dir: &Path, size: usize, mode: Mode) -> Result<Preprocess> {
    let path = dir.join("preprocessor_config.json");
    if !path.exists() {
        return Ok(Preprocess::clip(size, mode));
    }
    let mut preprocess = Preprocess::from_json(&json::read(&path)?, &path)?;
    if preprocess.size != size {
        let message = format!("size is {}, but the tower takes images of {size} pixels", preprocess.size);
        return Err(Error::Checkpoint { path, message });
    }
    preprocess.mode = mode;
    Ok(preprocess)
}

/// One answer under way.
struct Answer<'a> {
    decoder: crate::tokenizer::Decoder<'a>,
    ends: Vec<u32>,
    /// Tokens seen and made, for the repetition penalty.
    seen: Vec<u32>,
    made: usize,
    /// Rows in the cache.
    len: usize,
    text: String,
    /// How much of `text` was handed out.
    shown: usize,
    /// Whether a stop text ended it.
    stopped: bool,
    random: Random,
}

impl<'a> Answer<'a> {
    fn new(of: &'a Answerer, prompt: &Prompt, sampling: &Sampling, slot: usize) -> Self {
        let tokenizer = &of.tokenizer;
        Answer {
            decoder: tokenizer.decoder(false),
            ends: tokenizer.eos().into_iter().collect(),
            seen: prompt.ids.clone(),
            made: 0,
            len: prompt.ids.len(),
            text: String::new(),
            shown: 0,
            stopped: false,
            random: Random::new(derive(sampling.seed, &[slot as u64]), 0),
        }
    }

    /// Takes a token in; false if it ends the answer.
    fn push(
        &mut self,
        token: u32,
        sampling: &Sampling,
        show: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<bool> {
        if self.ends.contains(&token) {
            return Ok(false);
        }
        self.seen.push(token);
        self.made += 1;
        self.decoder.push(token, &mut self.text);
        for stop in sampling.stop.iter().filter(|s| !s.is_empty()) {
            if let Some(at) = self.text.find(stop.as_str()) {
                self.text.truncate(at);
                self.stopped = true;
                return Ok(false);
            }
        }
        // What might be the beginning of a stop text is held back.
        let held = sampling.stop.iter().map(|s| overlap(&self.text, s)).max().unwrap_or(0);
        self.show(self.text.len() - held, show)?;
        Ok(self.made < sampling.max_new_tokens)
    }

    /// Hands out what is left: what a stop text might have begun, and characters whose bytes never became whole.
    fn finish(&mut self, show: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        if !self.stopped {
            self.decoder.finish(&mut self.text);
        }
        self.show(self.text.len(), show)
    }

    fn show(&mut self, to: usize, show: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        if to > self.shown {
            show(&self.text[self.shown..to])?;
            self.shown = to;
        }
        Ok(())
    }
}

/// The longest end of `text` that begins `stop`, in bytes.
fn overlap(text: &str, stop: &str) -> usize {
    (1..stop.len()).rev().find(|&n| stop.is_char_boundary(n) && text.ends_with(&stop[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_stop_text_is_held_back() {
        assert_eq!(overlap("red <", "</s>"), 1);
        assert_eq!(overlap("red </s", "</s>"), 3);
        assert_eq!(overlap("red", "</s>"), 0);
    }
}
