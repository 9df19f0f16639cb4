//! NeVA: a vision tower, a projector and a language model (Liu et al., *Visual Instruction Tuning*, 2023, figure 1).
//!
//! ```text
//! pixels -> tower -> projector ----+
//!                                  v
//! token ids -> embedding -> splice into the image tokens' rows -> decoder -> logits
//! ```

pub mod config;
pub mod layers;
pub mod llm;
pub mod projector;
pub mod vision;
pub mod weights;

pub use config::{LlmConfig, ModelConfig, ProjectorConfig, VisionConfig};
pub use llm::{Dropout, KvCache, LlmInit};
pub use weights::{Init, Source, Weights};

use crate::Result;
use engine::{DType, Device, Param, Tensor};
use llm::{CacheRows, Layout, Llm, Wanted};
use projector::Projector;
use vision::VisionTower;

/// The label of a row whose prediction does not count.
pub const IGNORE: u32 = u32::MAX;

/// The whole model.
pub struct Model {
    config: ModelConfig,
    tower: VisionTower,
    projector: Projector,
    llm: Llm,
}

/// Which parts learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trainable {
    /// The vision tower.
    pub vision: bool,
    /// The projector.
    pub projector: bool,
    /// The language model.
    pub llm: bool,
}

impl Trainable {
    /// Nothing learns: inference.
    pub const NONE: Trainable = Trainable { vision: false, projector: false, llm: false };
}

/// Where each part's parameters come from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The vision tower.
    pub vision: Source<'a>,
    /// The projector.
    pub projector: Source<'a>,
    /// The language model.
    pub llm: Source<'a>,
}

impl<'a> Sources<'a> {
    /// All from one source.
    pub fn all(source: Source<'a>) -> Self {
        Sources { vision: source, projector: source, llm: source }
    }
}

/// Sequences packed one behind the other, with their images.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Token per row; rows of images hold the image token.
    pub ids: Vec<u32>,
    /// Position of each row in its sequence.
    pub positions: Vec<u32>,
    /// First row of each sequence, and the number of rows.
    pub cu_seqlens: Vec<u32>,
    /// What each row should predict: the next token, or [`IGNORE`].
    pub labels: Vec<u32>,
    /// How much each row's prediction counts. The loss is the weighted sum, so 1/tokens makes it a mean.
    pub weights: Vec<f32>,
    /// Which (sample, position) each row is, for dropout.
    pub keys: Vec<u32>,
    /// The rows that image features replace, in the order of the images.
    pub image_rows: Vec<u32>,
    /// Preprocessed pixels of all images: [images, 3, S, S].
    pub pixels: Vec<f32>,
    /// How many images.
    pub images: usize,
}

impl Batch {
    /// Rows with a label.
    pub fn supervised(&self) -> usize {
        self.labels.iter().filter(|&&l| l != IGNORE).count()
    }
}

impl Model {
    /// A model on `device` in `dtype` (f32, or bf16 for O2 and inference).
    pub fn new(
        device: &Device,
        dtype: DType,
        config: &ModelConfig,
        trainable: Trainable,
        sources: Sources,
        init: LlmInit,
    ) -> Result<Self> {
        let weights = |trainable, source| Weights { device, dtype, trainable, source };
        let tower = VisionTower::new(&weights(trainable.vision, sources.vision), &config.vision)?;
        let projector = Projector::new(
            &weights(trainable.projector, sources.projector),
            config.projector,
            config.vision.hidden_size,
            config.llm.hidden_size,
        )?;
        let llm = Llm::new(&weights(trainable.llm, sources.llm), &config.llm, init)?;
        Ok(Model { config: config.clone(), tower, projector, llm })
    }

    /// Its architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Every parameter, tower first, in a fixed order.
    pub fn params(&self) -> Vec<&Param> {
        let mut all = self.tower.params();
        all.extend(self.projector.params());
        all.extend(self.llm.params());
        all
    }

    /// The type its weights are stored in.
    pub fn dtype(&self) -> DType {
        self.params()[0].spec().dtype
    }

    /// Projected features [images * rows per image, hidden] of preprocessed pixels [images, 3, S, S].
    pub fn encode_images(&self, device: &Device, pixels: &[f32], images: usize) -> Result<Tensor> {
        let side = self.config.vision.image_size;
        let pixels = Tensor::from_f32(device, self.dtype(), [images, 3, side, side], pixels)?;
        self.projector.forward(&self.tower.forward(&pixels)?)
    }

    /// Token embeddings with image features spliced in: [rows, hidden].
    fn embed(&self, device: &Device, ids: &[u32], features: Option<&Tensor>, rows: &[u32]) -> Result<Tensor> {
        let ids = Tensor::from_slice(device, [ids.len()], ids)?;
        let x = self.llm.embed(&ids)?;
        match features {
            None => Ok(x),
            Some(features) => {
                let rows = Tensor::from_slice(device, [rows.len()], rows)?;
                Ok(x.splice(features.clone(), &rows)?)
            }
        }
    }

    /// The layout of a pack, and its embeddings.
    fn prepare(&self, device: &Device, batch: &Batch, dropout_seed: Option<u64>) -> Result<(Tensor, Layout)> {
        let features = (batch.images > 0)
            .then(|| self.encode_images(device, &batch.pixels, batch.images))
            .transpose()?;
        let x = self.embed(device, &batch.ids, features.as_ref(), &batch.image_rows)?;
        let lengths = batch.cu_seqlens.windows(2).map(|w| (w[1] - w[0]) as usize);
        let dropout = dropout(device, &batch.keys, dropout_seed)?;
        let layout = Layout {
            cu_seqlens: Tensor::from_slice(device, [batch.cu_seqlens.len()], &batch.cu_seqlens)?,
            rotation: self.llm.rotation(device, &batch.positions)?,
            dropout,
            max_len: lengths.clone().max().unwrap_or(0),
            pairs: lengths.map(|n| (n * (n + 1) / 2) as u64).sum(),
        };
        Ok((x, layout))
    }

    /// Logits [rows, vocab] of every row.
    pub fn logits(&self, device: &Device, batch: &Batch) -> Result<Tensor> {
        let (x, layout) = self.prepare(device, batch, None)?;
        self.llm.forward(x, &layout, None)
    }

    /// The loss: sum over labelled rows of weight * cross entropy, one element. Rows without a label end at the last
    /// attention: what follows is no part of the loss. `dropout_seed` is Some in training, different each step.
    pub fn loss(&self, device: &Device, batch: &Batch, dropout_seed: Option<u64>) -> Result<Tensor> {
        let (x, layout) = self.prepare(device, batch, dropout_seed)?;
        let rows: Vec<u32> =
            (0..batch.ids.len() as u32).filter(|&i| batch.labels[i as usize] != IGNORE).collect();
        let labels: Vec<u32> = rows.iter().map(|&i| batch.labels[i as usize]).collect();
        let weights: Vec<f32> = rows.iter().map(|&i| batch.weights[i as usize]).collect();
        let n = rows.len();
        let keys: Vec<u32> = rows.iter().map(|&i| batch.keys[i as usize]).collect();
        let wanted = Wanted {
            rows: Tensor::from_slice(device, [n], &rows)?,
            dropout: dropout(device, &keys, dropout_seed)?,
        };
        let logits = self.llm.forward(x, &layout, Some(&wanted))?;
        let labels = Tensor::from_slice(device, [n], &labels)?;
        let weights = Tensor::from_f32(device, self.dtype().acc(), [n], &weights)?;
        Ok(logits.cross_entropy(&labels, &weights)?)
    }

    /// An empty cache for `slots` sequences of up to `capacity` positions.
    pub fn cache(&self, device: &Device, slots: usize, capacity: usize) -> Result<KvCache> {
        self.llm.cache(device, slots, capacity)
    }

    /// Feeds new rows to sequences in a cache and returns the logits [wanted, vocab] of the rows in `wanted`.
    pub fn extend(
        &self,
        device: &Device,
        cache: &mut KvCache,
        rows: &NewRows,
        wanted: &[u32],
    ) -> Result<Tensor> {
        let _no_grad = device.no_grad();
        let x = self.embed(device, &rows.ids, rows.features.as_ref(), &rows.image_rows)?;
        let n = rows.ids.len();
        let places: Vec<u32> =
            rows.slots.iter().zip(&rows.positions).map(|(s, p)| s * cache.capacity as u32 + p).collect();
        let at = CacheRows {
            rows: Tensor::from_slice(device, [n], &places)?,
            slots: Tensor::from_slice(device, [n], &rows.slots)?,
            positions: Tensor::from_slice(device, [n], &rows.positions)?,
            rotation: self.llm.rotation(device, &rows.positions)?,
            max_len: rows.positions.iter().map(|p| *p as usize + 1).max().unwrap_or(0),
            pairs: rows.positions.iter().map(|p| u64::from(*p) + 1).sum(),
        };
        let wanted = Tensor::from_slice(device, [wanted.len()], wanted)?;
        self.llm.forward_cached(x, cache, &at, Some(&wanted))
    }
}

/// What dropout needs to know of rows with these keys; None outside training.
fn dropout(device: &Device, keys: &[u32], seed: Option<u64>) -> Result<Option<Dropout>> {
    let of = |seed| Ok(Dropout { keys: Tensor::from_slice(device, [keys.len()], keys)?, seed });
    seed.map(of).transpose()
}

/// Rows to feed to sequences in a cache.
#[derive(Debug, Clone, Default)]
pub struct NewRows {
    /// Token per row.
    pub ids: Vec<u32>,
    /// Slot per row.
    pub slots: Vec<u32>,
    /// Position per row in its slot.
    pub positions: Vec<u32>,
    /// Projected image features, if rows of images are among them.
    pub features: Option<Tensor>,
    /// The rows that features replace.
    pub image_rows: Vec<u32>,
}
