//! The order of the samples, their pixels, and batches.
//!
//! # Order
//! A batch is a function of (seed, step): nothing is carried from step to step, so a run can go on at any step. An epoch
//! is floor(n / global batch) steps. With `shuffle` each epoch has its own permutation of all n samples, a function of the
//! seed and the epoch; the samples at its end that fill no global batch are left out, others each time (NeMo leaves the
//! same ones out in every epoch). Without, it is the order of the files.
//!
//! # Weights
//! The loss of a batch is the weighted sum over the tokens to be predicted, and a step's loss is the sum over its
//! micro-batches:
//!
//! | reduction | weight of a token |
//! |---|---|
//! | `token` | 1 / tokens to be predicted in the global batch: how it is divided does not matter |
//! | `micro_batch` | 1 / (tokens to be predicted in the micro-batch x micro-batches): NeMo's mean of means |
//!
//! # Pixels
//! Every image file must be there when the set is opened, and is decoded when a batch first needs it, in parallel. What
//! the tower's input is made of, 8 bits a sample, is kept for up to [`CACHE_BYTES`]: a set that fits is decoded once.
//! What [`Augment`] changes in a picture is a function of the seed, the epoch and the sample.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kernels::random::{Random, derive};
use rayon::prelude::*;

use super::encode::ImageTokens;
use super::records::{Record, read};
use super::sample::Sample;
use crate::config::schema::{LossReduction, Template};
use crate::image::augment::Change;
use crate::image::{Augment, Image, Preprocess};
use crate::model::Batch;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// How many bytes of decoded images are kept.
const CACHE_BYTES: usize = 1 << 30;

/// What seeds of permutations are derived with, beside the epoch.
const ORDER: u64 = 2;
/// What seeds of changes to pictures are derived with, beside the epoch and the sample.
const CHANGES: u64 = 3;

/// What to load, and how to divide it into batches.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// Files of records; one set, file after file.
    pub paths: Vec<PathBuf>,
    /// What the records' image paths are relative to.
    pub image_folder: PathBuf,
    /// The prompt template.
    pub template: Template,
    /// The most rows of a sample, image rows included.
    pub max_len: usize,
    /// Rows of features per image.
    pub image_rows: usize,
    /// The id that stands in the rows of images.
    pub image_token: u32,
    /// The ids before and after an image.
    pub image_marks: Option<(u32, u32)>,
    /// From image files to the tower's input.
    pub preprocess: Preprocess,
    /// How pictures are changed each time a step shows them.
    pub augment: Augment,
    /// Samples of one step: a multiple of `micro_batch`.
    pub global_batch: usize,
    /// Samples of one forward pass.
    pub micro_batch: usize,
    /// A new order each epoch, instead of the files'.
    pub shuffle: bool,
    /// Of the order.
    pub seed: u64,
    /// What a token counts.
    pub reduction: LossReduction,
}

/// A set of samples, ready to be trained on.
pub struct Dataset {
    options: DataOptions,
    entries: Vec<Entry>,
    /// Every image once, however many records show it.
    images: Vec<Source>,
    cached_bytes: AtomicUsize,
    /// The permutation that was needed last, and its epoch.
    order: Mutex<Option<(u64, Arc<Vec<u32>>)>>,
}

struct Entry {
    sample: Sample,
    /// Indices into [`Dataset::images`].
    images: Vec<u32>,
}

struct Source {
    path: PathBuf,
    /// The first record that shows it: its file, as an index into the options' paths, and what errors call it.
    shown_by: (usize, String),
    /// `[size, size, 3]`, if kept.
    rgb: OnceLock<Vec<u8>>,
}

impl Dataset {
    /// Reads and tokenises everything, in parallel, and sees that every image file is there.
    ///
    /// # Errors
    /// As [`read`]; [`Error::Data`] for the first record that makes no sample (see [`Sample::new`]) or whose image file is
    /// missing; [`Error::Usage`] when the sizes of the batches do not fit each other or the number of samples.
    pub fn open(options: DataOptions, tokenizer: &Tokenizer) -> Result<Dataset> {
        let DataOptions { global_batch, micro_batch, max_len, image_rows, .. } = options;
        if micro_batch == 0 || global_batch == 0 || global_batch % micro_batch != 0 {
            return Err(Error::Usage(format!(
                "the global batch of {global_batch} samples is no multiple of the micro-batch of {micro_batch}"
            )));
        }
        if max_len == 0 || image_rows == 0 {
            return Err(Error::Usage(format!(
                "samples of at most {max_len} rows, {image_rows} of them for an image: expected at least 1"
            )));
        }
        let mut entries = Vec::new();
        let mut images = Vec::new();
        let mut known = HashMap::new();
        for (file, path) in options.paths.iter().enumerate() {
            let records = read(path)?;
            let images_of = |record: &Record| -> Vec<PathBuf> {
                record.images.iter().map(|image| options.image_folder.join(image)).collect()
            };
            let sample = |record: &Record| -> std::result::Result<Sample, String> {
                if let Some(missing) = images_of(record).iter().find(|image| !image.is_file()) {
                    return Err(format!("no such image file: {}", missing.display()));
                }
                Sample::new(record, options.template, tokenizer, options.images(), max_len)
            };
            // Not collected as a Result at once: of several errors the first is to be told, whatever the threads do.
            let samples: Vec<_> = records.par_iter().map(sample).collect();
            for (record, sample) in records.iter().zip(samples) {
                let sample = sample.map_err(|message| Error::Data {
                    path: path.clone(),
                    record: record.name.clone(),
                    message,
                })?;
                let images = images_of(record).into_iter().take(sample.images()).map(|path| {
                    *known.entry(path).or_insert_with_key(|path: &PathBuf| {
                        let shown_by = (file, record.name.clone());
                        images.push(Source { path: path.clone(), shown_by, rgb: OnceLock::new() });
                        images.len() as u32 - 1
                    })
                });
                let images = images.collect();
                entries.push(Entry { sample, images });
            }
        }
        if entries.len() < global_batch {
            return Err(Error::Usage(format!(
                "the data has {} samples, fewer than the global batch of {global_batch} (model.global_batch_size)",
                entries.len()
            )));
        }
        if u32::try_from(entries.len()).is_err() {
            return Err(Error::Usage(format!("the data has {} samples, more than 2^32 - 1", entries.len())));
        }
        Ok(Dataset { options, entries, images, cached_bytes: AtomicUsize::new(0), order: Mutex::new(None) })
    }

    /// How many samples there are.
    pub fn samples(&self) -> usize {
        self.entries.len()
    }

    /// How many of them were cut to `max_len`.
    pub fn truncated(&self) -> usize {
        self.entries.iter().filter(|entry| entry.sample.truncated()).count()
    }

    /// Micro-batches per global batch.
    pub fn micro_batches(&self) -> usize {
        self.options.global_batch / self.options.micro_batch
    }

    /// The indices of the samples of the global batch of `step`, counted from 0.
    pub fn global_batch(&self, step: u64) -> Vec<usize> {
        let size = self.options.global_batch;
        let (epoch, step) = self.epoch(step);
        let first = step as usize * size;
        if !self.options.shuffle {
            return (first..first + size).collect();
        }
        self.permutation(epoch)[first..first + size].iter().map(|&index| index as usize).collect()
    }

    /// The epoch of a step, and which of its steps it is.
    fn epoch(&self, step: u64) -> (u64, u64) {
        let steps = (self.entries.len() / self.options.global_batch) as u64;
        (step / steps, step % steps)
    }

    fn permutation(&self, epoch: u64) -> Arc<Vec<u32>> {
        // A panic elsewhere cannot leave half a permutation here.
        let mut last = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((of, order)) if *of == epoch => order.clone(),
            _ => {
                let mut random = Random::new(derive(self.options.seed, &[ORDER, epoch]), 0);
                let order = Arc::new(random.permutation(self.entries.len() as u32));
                *last = Some((epoch, order.clone()));
                order
            }
        }
    }

    /// Micro-batch `micro` of the global batch of `step`: consecutive samples of it, weighted as the reduction says.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is no such micro-batch; [`Error::Data`], which names the record and the image, when an image cannot be read.
    pub fn batch(&self, step: u64, micro: usize) -> Result<Batch> {
        let micros = self.micro_batches();
        if micro >= micros {
            return Err(Error::Usage(format!("there is no micro-batch {micro} of a step's {micros}")));
        }
        let all = self.global_batch(step);
        let size = self.options.micro_batch;
        let indices = &all[micro * size..][..size];
        let supervised = |indices: &[usize]| -> usize {
            indices.iter().map(|&index| self.entries[index].sample.supervised()).sum()
        };
        let tokens = match self.options.reduction {
            LossReduction::Token => supervised(&all),
            LossReduction::MicroBatch => supervised(indices) * micros,
        };
        self.pack(indices, (1.0 / tokens as f64) as f32, |index| {
            let seed = derive(self.options.seed, &[CHANGES, self.epoch(step).0, index as u64]);
            let mut random = Random::new(seed, 0);
            move || self.options.augment.choose(&mut random)
        })
    }

    /// The samples `first..first + count` in the order of the files, each token to be predicted with weight 1.
    ///
    /// # Errors
    /// [`Error::Usage`] when there are not so many samples; [`Error::Data`], which names the record and the image, when an image cannot be read.
    pub fn in_order(&self, first: usize, count: usize) -> Result<Batch> {
        let all = self.entries.len();
        match first.checked_add(count) {
            Some(end) if end <= all => self.pack(&(first..end).collect::<Vec<_>>(), 1.0, |_| Change::default),
            _ => Err(Error::Usage(format!("{count} samples from {first} are more than the data's {all}"))),
        }
    }

    /// `changes` makes what tells, for a sample, the change to each of its pictures.
    fn pack<F: FnMut() -> Change>(
        &self,
        indices: &[usize],
        weight: f32,
        changes: impl Fn(usize) -> F,
    ) -> Result<Batch> {
        let mut batch = Batch::default();
        let mut images = Vec::new();
        for &index in indices {
            let entry = &self.entries[index];
            // Distinct rows of a step have distinct keys unless the whole set has 2^32 rows.
            let first_key = (index as u32).wrapping_mul(self.options.max_len as u32);
            entry.sample.append(&mut batch, self.options.images(), weight, first_key);
            let mut change = changes(index);
            images.extend(entry.images.iter().map(|&image| (&self.images[image as usize], change())));
        }
        let each = 3 * self.options.preprocess.size.pow(2);
        batch.pixels = vec![0.0; images.len() * each];
        let filled: Vec<Result<()>> = batch
            .pixels
            .par_chunks_exact_mut(each)
            .zip(images)
            .map(|(pixels, (image, change))| self.fill(image, change, pixels))
            .collect();
        filled.into_iter().collect::<Result<()>>()?;
        Ok(batch)
    }

    /// Makes the tower's input of an image: `[3, size, size]`.
    fn fill(&self, source: &Source, change: Change, pixels: &mut [f32]) -> Result<()> {
        let preprocess = &self.options.preprocess;
        let mut normalise = |rgb: &[u8]| match change == Change::default() {
            true => preprocess.normalise(rgb, pixels),
            false => preprocess.normalise(&change.apply(rgb, preprocess.size), pixels),
        };
        if let Some(rgb) = source.rgb.get() {
            normalise(rgb);
            return Ok(());
        }
        let (file, record) = &source.shown_by;
        let bad = |error: Error| Error::Data {
            path: self.options.paths[*file].clone(),
            record: record.clone(),
            message: error.to_string(),
        };
        let fitted = Image::open(&source.path).and_then(|image| {
            let path = || source.path.clone();
            preprocess.fit(&image).map_err(|e| Error::Image { path: path(), message: e.to_string() })
        });
        let fitted = fitted.map_err(bad)?;
        normalise(&fitted.rgb);
        let size = fitted.rgb.len();
        // Two threads may decode one image at the same time; it is then counted twice, which only keeps less.
        if self.cached_bytes.fetch_add(size, Ordering::Relaxed) + size <= CACHE_BYTES {
            source.rgb.get_or_init(|| fitted.rgb);
        } else {
            self.cached_bytes.fetch_sub(size, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl DataOptions {
    fn images(&self) -> ImageTokens {
        ImageTokens { token: self.image_token, rows: self.image_rows, marks: self.image_marks }
    }
}
