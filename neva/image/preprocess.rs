//! From a picture to a vision tower's input, as transformers' `CLIPImageProcessor` (its PIL backend) computes it.
//!
//! Resize the short side to `size`, crop the centre, scale by 1/255 (in f64, rounded to f32), subtract the mean, divide
//! by the deviation (in f32). Since a sample is one of 256 bytes, the last three steps are a table per channel.

use std::path::Path;

use super::resize::{bicubic, bicubic_window};
use super::{Image, MAX_PIXELS};
use crate::{Error, Result};

/// The mean of CLIP's training pictures, per channel, in 0..=1.
pub const CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
/// Their standard deviation.
pub const CLIP_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// What becomes of a picture that is not square: NeMo's `image_aspect_ratio`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Resize the short side to `size` and crop the centre: what lies outside of the middle square is lost.
    Square,
    /// First paste the picture in the middle of a square of the mean colour: nothing is lost, and shapes stay true.
    Pad,
    /// Resize so that the short side is `size` and the long side at most twice that, without a crop. The result is
    /// rectangular, which a tower with learned positions for a square cannot take: only pictures that come out square
    /// are accepted.
    Keep,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Square, Self::Pad, Self::Keep];

    /// The name that configurations use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Square => "square",
            Self::Pad => "pad",
            Self::Keep => "keep",
        }
    }

    /// The mode of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// How pictures become the tower's input.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// Side of the square input, in pixels.
    pub size: usize,
    /// What becomes of a picture that is not square.
    pub mode: Mode,
    /// Subtracted from each channel, in 0..=1; also the colour of padding.
    pub mean: [f64; 3],
    /// Each channel is divided by this.
    pub std: [f64; 3],
}

impl Preprocess {
    /// CLIP's mean and deviation, `size` pixels a side.
    pub fn clip(size: usize, mode: Mode) -> Self {
        Self { size, mode, mean: CLIP_MEAN, std: CLIP_STD }
    }

    /// Reads an image file and preprocesses it: `[3, size, size]`.
    ///
    /// # Errors
    /// [`Error::Image`] as of [`Image::open`] and [`Preprocess::apply`], with the file's name.
    pub fn open(&self, path: &Path) -> Result<Vec<f32>> {
        let image = Image::open(path)?;
        self.apply(&image).map_err(|error| Error::Image { path: path.into(), message: error.to_string() })
    }

    /// The tower's input `[3, size, size]`, channels first.
    ///
    /// # Errors
    /// [`Error::Usage`] as of [`Preprocess::fit`].
    pub fn apply(&self, image: &Image) -> Result<Vec<f32>> {
        let fitted = self.fit(image)?;
        let mut values = vec![0.0; fitted.rgb.len()];
        self.normalise(&fitted.rgb, &mut values);
        Ok(values)
    }

    /// From the bytes of [`Preprocess::fit`], red, green and blue side by side, to the tower's input, channels first.
    ///
    /// # Panics
    /// When `values` is not as long as `rgb`.
    pub fn normalise(&self, rgb: &[u8], values: &mut [f32]) {
        assert_eq!(rgb.len(), values.len(), "each sample becomes one value");
        let channels = values.chunks_exact_mut((rgb.len() / 3).max(1));
        for (channel, (table, values)) in self.tables().iter().zip(channels).enumerate() {
            for (value, &sample) in values.iter_mut().zip(rgb.iter().skip(channel).step_by(3)) {
                *value = table[sample as usize];
            }
        }
    }

    /// The `size` x `size` pixels that the tower sees, before normalisation.
    ///
    /// # Errors
    /// [`Error::Usage`] when [`Mode::Keep`] does not give a square, or the square of [`Mode::Pad`] would have more than
    /// [`MAX_PIXELS`].
    pub fn fit(&self, image: &Image) -> Result<Image> {
        match self.mode {
            Mode::Square => Ok(self.resize_and_crop(image)),
            Mode::Pad => Ok(self.resize_and_crop(&self.pad(image)?)),
            Mode::Keep => {
                let (long, short) = (image.width.max(image.height), image.width.min(image.height));
                let longest = 2.0 * self.size as f64;
                let short_edge = (longest / (long as f64 / short as f64)).min(self.size as f64) as usize;
                let long_edge = long_edge(short_edge, long, short);
                if [short_edge, long_edge] != [self.size; 2] {
                    return Err(Error::Usage(format!(
                        "image_aspect_ratio keep makes {long_edge} x {short_edge} pixels of this image of {} x {}, \
                         but the vision tower takes {size} x {size}: use square or pad",
                        image.width,
                        image.height,
                        size = self.size,
                    )));
                }
                Ok(bicubic(image, self.size, self.size))
            }
        }
    }

    fn resize_and_crop(&self, image: &Image) -> Image {
        let (long, short) = (image.width.max(image.height), image.width.min(image.height));
        let long_edge = long_edge(self.size, long, short);
        let size = if image.width <= image.height { [self.size, long_edge] } else { [long_edge, self.size] };
        let window = size.map(|side| {
            let start = (side - self.size) / 2;
            start..start + self.size
        });
        bicubic_window(image, size, window)
    }

    fn pad(&self, image: &Image) -> Result<Image> {
        let side = image.width.max(image.height);
        if side as u64 * side as u64 > MAX_PIXELS {
            return Err(Error::Usage(format!(
                "image_aspect_ratio pad makes {side} x {side} pixels of this image of {} x {}, more than {MAX_PIXELS}: \
                 use square",
                image.width, image.height
            )));
        }
        let mut square = Image::filled(side, side, self.mean.map(|mean| (mean * 255.0) as u8));
        let (left, top) = ((side - image.width) / 2, (side - image.height) / 2);
        for (y, row) in image.rgb.chunks_exact(image.width * 3).enumerate() {
            square.rgb[((top + y) * side + left) * 3..][..row.len()].copy_from_slice(row);
        }
        Ok(square)
    }

    /// What each of the 256 samples becomes, per channel.
    fn tables(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            let (mean, std) = (self.mean[channel] as f32, self.std[channel] as f32);
            std::array::from_fn(|sample| ((sample as f64 * (1.0 / 255.0)) as f32 - mean) / std)
        })
    }
}

/// The long side when the short one becomes `short_edge`, cut to a whole pixel.
fn long_edge(short_edge: usize, long: usize, short: usize) -> usize {
    ((short_edge * long) as f64 / short as f64) as usize
}
