//! Bicubic resize, equal to Pillow's `Image.resize(…, BICUBIC)` bit for bit.
//!
//! Pillow resamples 8-bit pictures with Keys' cubic (a = -0.5) whose support grows with the reduction, so that it also
//! filters; one axis after the other, in fixed point, and rounds to 8 bits *after each pass*. What a trained tower has
//! seen are those bytes: a resize that rounds once, or in floating point, differs in a fifth of them. Because of the
//! rounding the order of the passes shows; see `down_first`.
//!
//! Only the output is ever held whole. A centre crop is a window of the output and nothing outside of it is computed, so
//! a very long picture costs no more than its crop.

use std::ops::Range;

use super::Image;

/// Fraction bits of a weight: 32, less 8 of a sample and 2 for sign and overshoot.
const FRACTION_BITS: u32 = 22;
/// One half in fixed point: where accumulators start, so that the shift rounds.
const HALF: i32 = 1 << (FRACTION_BITS - 1);

/// The whole of `image` as `width` x `height` pixels.
///
/// # Panics
/// When a target side is 0.
pub fn bicubic(image: &Image, width: usize, height: usize) -> Image {
    bicubic_window(image, [width, height], [0..width, 0..height])
}

/// The columns and rows `window` of `image` resized to `size` (width, height).
///
/// # Panics
/// When the window is empty or not inside `size`.
pub fn bicubic_window(image: &Image, size: [usize; 2], window: [Range<usize>; 2]) -> Image {
    for (side, range) in size.iter().zip(&window) {
        assert!(range.start < range.end && range.end <= *side, "window {window:?} of {size:?}");
    }
    let [columns, rows] = window;
    let across = Taps::new(image.width, size[0], columns);
    let down = Taps::new(image.height, size[1], rows);
    let rgb = if down_first([image.width, image.height], size) {
        down_then_across(image, &across, &down)
    } else {
        across_then_down(image, &across, &down)
    };
    Image { width: across.len(), height: down.len(), rgb }
}

/// Whether the vertical pass runs first: Pillow's rule since 13.0 (before, it never did), which is when that sheds rows,
/// and more than twice as many as the other pass sheds columns.
fn down_first(source: [usize; 2], target: [usize; 2]) -> bool {
    let shed = |axis: usize| source[axis] as i64 - target[axis] as i64;
    shed(1) > 0 && shed(1) > 2 * shed(0)
}

/// Reads the source once. A row is resampled, then added into the accumulators of the few output rows that it reaches:
/// integer sums do not depend on their order, so this equals two full passes.
fn across_then_down(image: &Image, across: &Taps, down: &Taps) -> Vec<u8> {
    let mut row = vec![0; across.len() * 3];
    let mut sums = vec![HALF; down.len() * row.len()];
    let mut first_open = 0;
    for y in down.reach() {
        across.resample(image.row(y), &mut row);
        while down.source(first_open).end <= y {
            first_open += 1;
        }
        for i in (first_open..down.len()).take_while(|&i| down.source(i).start <= y) {
            let weight = down.weights(i)[y - down.source(i).start];
            accumulate(&mut sums[i * row.len()..][..row.len()], weight, &row);
        }
    }
    sums.into_iter().map(to_sample).collect()
}

/// Makes one output row after the other, from only the columns that the horizontal pass will read.
fn down_then_across(image: &Image, across: &Taps, down: &Taps) -> Vec<u8> {
    let mut rgb = vec![0; down.len() * across.len() * 3];
    let read = across.reach().start * 3..across.reach().end * 3;
    let mut row = vec![0; image.width * 3];
    let mut sums = vec![HALF; read.len()];
    for (i, target) in rgb.chunks_exact_mut(across.len() * 3).enumerate() {
        sums.fill(HALF);
        for (y, &weight) in down.source(i).zip(down.weights(i)) {
            accumulate(&mut sums, weight, &image.row(y)[read.clone()]);
        }
        for (sample, &sum) in row[read.clone()].iter_mut().zip(&sums) {
            *sample = to_sample(sum);
        }
        across.resample(&row, target);
    }
    rgb
}

fn accumulate(sums: &mut [i32], weight: i32, samples: &[u8]) {
    for (sum, &sample) in sums.iter_mut().zip(samples) {
        *sum += weight * i32::from(sample);
    }
}

/// Rounds (the half is in the sum already) and clips.
fn to_sample(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// Keys' cubic convolution kernel with a = -0.5, at distance `x`.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    } else {
        0.0
    }
}

/// For each output position of one axis: the source positions it reads, and their weights.
struct Taps {
    /// First source position and number of taps; both ends never decrease from one output to the next.
    spans: Vec<(usize, usize)>,
    /// `[outputs, stride]`, in fixed point.
    weights: Vec<i32>,
    stride: usize,
}

impl Taps {
    /// The taps of the outputs `window` when `source` positions become `target`.
    fn new(source: usize, target: usize, window: Range<usize>) -> Self {
        let scale = source as f64 / target as f64;
        let filter_scale = scale.max(1.0);
        let support = 2.0 * filter_scale;
        let stride = (support.ceil() as usize * 2 + 1).min(source);
        let mut spans = Vec::with_capacity(window.len());
        let mut weights = vec![0; window.len() * stride];
        let mut exact = vec![0.0; stride];
        for (output, fixed) in window.zip(weights.chunks_exact_mut(stride)) {
            let centre = (output as f64 + 0.5) * scale;
            // The casts truncate towards zero (and saturate), which for the start clips it at the border.
            let start = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(source);
            let exact = &mut exact[..end - start];
            let mut total = 0.0;
            for (i, weight) in exact.iter_mut().enumerate() {
                *weight = cubic(((i + start) as f64 - centre + 0.5) * (1.0 / filter_scale));
                total += *weight;
            }
            for (fixed, weight) in fixed.iter_mut().zip(exact.iter()) {
                let weight = if total == 0.0 { *weight } else { weight / total };
                let scaled = weight * f64::from(1 << FRACTION_BITS);
                *fixed = (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32;
            }
            spans.push((start, end - start));
        }
        Self { spans, weights, stride }
    }

    /// The number of outputs.
    fn len(&self) -> usize {
        self.spans.len()
    }

    fn source(&self, output: usize) -> Range<usize> {
        let (start, len) = self.spans[output];
        start..start + len
    }

    fn weights(&self, output: usize) -> &[i32] {
        &self.weights[output * self.stride..][..self.spans[output].1]
    }

    /// Every source position that any output reads.
    fn reach(&self) -> Range<usize> {
        self.source(0).start..self.source(self.len() - 1).end
    }

    /// One row of RGB pixels: `row` is the source's, `out` has three samples for each output.
    fn resample(&self, row: &[u8], out: &mut [u8]) {
        for (i, target) in out.chunks_exact_mut(3).enumerate() {
            let source = self.source(i);
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[source.start * 3..source.end * 3].chunks_exact(3).zip(self.weights(i))
            {
                for (sum, &sample) in sums.iter_mut().zip(pixel) {
                    *sum += weight * i32::from(sample);
                }
            }
            for (sample, sum) in target.iter_mut().zip(sums) {
                *sample = to_sample(sum);
            }
        }
    }
}
