//! The data of `neva quickstart`: small drawings of one coloured shape, with captions and questions, made from a seed.
//!
//! A picture is 32 x 32 pixels: a plain dark background, a little tinted and noisy, and one shape that lies fully
//! inside, left or right of the middle, small or large. It is easy to see and impossible to guess: every answer is one
//! word, and the words that answer a question are equally frequent, so that a model that does not look is right in
//! (1/8 + 1/5 + 1/2 + 1/2 + 1/2) / 5 = 0.37 of the answers.
//!
//! One colour of each shape is kept out of training: whoever names such a pair has learnt colours and shapes, not pairs.

use std::fs;
use std::path::{Path, PathBuf};

use kernels::random::{Random, derive};
use rayon::prelude::*;

use crate::data::{self, Conversation, write_texts};
use crate::image::Image;
use crate::{Error, Result};

/// The side of a picture, in pixels.
pub const SIDE: usize = 32;

/// What the id of a held-out record starts with when training never shows its colour in its shape.
pub const UNSEEN: &str = "unseen-";

/// Of this many held-out pictures, one shows an unseen pair.
const UNSEEN_EVERY: usize = 8;

/// The colours, and how they are drawn.
const COLOURS: [(&str, [u8; 3]); 8] = [
    ("red", [220, 40, 40]),
    ("green", [40, 180, 60]),
    ("blue", [50, 80, 225]),
    ("yellow", [230, 215, 50]),
    ("purple", [150, 50, 190]),
    ("orange", [240, 135, 30]),
    ("cyan", [60, 215, 220]),
    ("white", [240, 240, 240]),
];

/// Whether (u, v), in -1..1 across and down a shape's square, lies in the shape.
type Inside = fn(f32, f32) -> bool;

/// The shapes.
const SHAPES: [(&str, Inside); 5] = [
    ("square", |_, _| true),
    ("circle", |u, v| u * u + v * v <= 1.0),
    ("triangle", |u, v| 2.0 * u.abs() <= v + 1.0),
    ("ring", |u, v| (0.3..=1.0).contains(&(u * u + v * v))),
    ("cross", |u, v| u.abs().min(v.abs()) <= 0.34),
];

/// The sizes, as the shape's side in pixels: 0.4 to 0.7 of the picture, with a gap that no eye mistakes.
const SIZES: [(&str, [usize; 2]); 2] = [("small", [14, 16]), ("large", [20, 22])];

/// The halves of the picture that the shape's middle may lie in.
const PLACES: [&str; 2] = ["left", "right"];

/// A middle is at least this many pixels left or right of the picture's.
const OFF_CENTRE: usize = 3;

/// The files that [`write()`] made.
#[derive(Clone, Debug)]
pub struct Scenes {
    /// LLaVA JSON: one caption for each training picture, for phase 1.
    pub captions: PathBuf,
    /// LLaVA JSON: five questions about each training picture, for phase 2.
    pub train: PathBuf,
    /// LLaVA JSON: five questions about each held-out picture; see [`UNSEEN`].
    pub held_out: PathBuf,
    /// The folder that the records' `image` is relative to.
    pub image_folder: PathBuf,
    /// Every caption, question and answer of training, one a line, to train a tokenizer on.
    pub texts: PathBuf,
}

/// Draws the pictures and writes the records to the folder `out`, which is made if need be. The same numbers give the
/// same bytes.
///
/// # Errors
/// [`Error::Io`] when a file cannot be written.
pub fn write(out: &Path, train_images: usize, held_out_images: usize, seed: u64) -> Result<Scenes> {
    let scenes = Scenes {
        captions: out.join("captions.json"),
        train: out.join("train.json"),
        held_out: out.join("held_out.json"),
        image_folder: out.join("images"),
        texts: out.join("texts.txt"),
    };
    for split in ["train", "held_out"] {
        let folder = scenes.image_folder.join(split);
        fs::create_dir_all(&folder).map_err(Error::io(folder))?;
    }
    let draw = |split: &str, number: usize, unseen: bool| -> Result<(Conversation, Conversation)> {
        // Each picture has its own numbers, whatever is drawn before it, beside it, or in the other split.
        let mut random = Random::new(derive(seed, &[u64::from(split == "train"), number as u64]), 0);
        let scene = Scene::random(&mut random, unseen);
        let image = format!("{split}/{number:06}.png");
        scene.draw(&mut random).save_png(&scenes.image_folder.join(&image))?;
        let id = format!("{}{split}-{number:06}", if unseen { UNSEEN } else { "" });
        Ok((scene.caption(&id, &image), scene.questions(&mut random, &id, &image)))
    };
    let (captions, train): (Vec<_>, Vec<_>) = (0..train_images)
        .into_par_iter()
        .map(|i| draw("train", i, false))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .unzip();
    let held_out = (0..held_out_images)
        .into_par_iter()
        .map(|i| draw("held_out", i, i % UNSEEN_EVERY == 0).map(|(_, questions)| questions))
        .collect::<Result<Vec<_>>>()?;

    write_texts(&scenes.texts, captions.iter().chain(&train))?;
    data::write(&scenes.captions, &captions)?;
    data::write(&scenes.train, &train)?;
    data::write(&scenes.held_out, &held_out)?;
    Ok(scenes)
}

/// What a picture shows: indices into the tables above, and where.
#[derive(Clone, Copy, Debug)]
struct Scene {
    colour: usize,
    shape: usize,
    size: usize,
    place: usize,
    /// The shape's square: left, top and side, in pixels.
    left: usize,
    top: usize,
    side: usize,
}

impl Scene {
    /// A scene whose colour and shape training shows together, or never does if `unseen`.
    fn random(random: &mut Random, unseen: bool) -> Self {
        let (colour, shape) = loop {
            let pair = (below(random, COLOURS.len()), below(random, SHAPES.len()));
            if is_unseen(pair.0, pair.1) == unseen {
                break pair;
            }
        };
        let size = below(random, SIZES.len());
        let place = below(random, PLACES.len());
        let [least, most] = SIZES[size].1;
        let side = least + below(random, most - least + 1);
        let free = SIDE - side;
        let most_left = free / 2 - OFF_CENTRE;
        let off = below(random, most_left + 1);
        let left = if place == 0 { off } else { free - off };
        Self { colour, shape, size, place, left, top: below(random, free + 1), side }
    }

    fn draw(&self, random: &mut Random) -> Image {
        let grey = 20 + below(random, 21);
        let background: [usize; 3] = std::array::from_fn(|_| grey + below(random, 11));
        let shade: [usize; 3] =
            COLOURS[self.colour].1.map(|v| (usize::from(v) + below(random, 31)).saturating_sub(15));
        let mut image = Image::filled(SIDE, SIDE, [0; 3]);
        for (i, pixel) in image.rgb.chunks_exact_mut(3).enumerate() {
            // From the pixel's middle to the shape's, in halves of its side.
            let [u, v] = [(i % SIDE, self.left), (i / SIDE, self.top)]
                .map(|(at, start)| (2.0 * (at as f32 - start as f32) + 1.0) / self.side as f32 - 1.0);
            let inside = u.abs() < 1.0 && v.abs() < 1.0 && SHAPES[self.shape].1(u, v);
            let plain = if inside { shade } else { background };
            for (sample, value) in pixel.iter_mut().zip(plain) {
                *sample = (value + below(random, 9)).saturating_sub(4).min(255) as u8;
            }
        }
        image
    }

    fn caption(&self, id: &str, image: &str) -> Conversation {
        let (size, colour, shape, place) = self.words();
        Conversation::new(
            id,
            image,
            [("Describe the picture.".into(), format!("a {size} {colour} {shape} on the {place}"))],
        )
    }

    /// Five questions in random order, so that each comes first, without the others' answers, as often as any.
    fn questions(&self, random: &mut Random, id: &str, image: &str) -> Conversation {
        let (size, colour, shape, place) = self.words();
        let (guess, right) = self.guess(random);
        let mut turns = [
            ("What colour is it?".to_string(), colour),
            ("What shape is it?".to_string(), shape),
            ("Is it small or large?".to_string(), size),
            ("Is it left or right?".to_string(), place),
            (guess, right),
        ];
        random.shuffle(&mut turns);
        Conversation::new(id, image, turns.map(|(question, answer)| (question, answer.to_string())))
    }

    /// A yes-or-no question about the colour or the shape, and its answer. Never about both: training could ask for an
    /// unseen pair only where the answer is no.
    fn guess(&self, random: &mut Random) -> (String, &'static str) {
        let right = below(random, 2) == 0;
        let mut pick = |truth: usize, count: usize| match right {
            true => truth,
            false => (truth + 1 + below(random, count - 1)) % count,
        };
        let (colour, shape) = (pick(self.colour, COLOURS.len()), pick(self.shape, SHAPES.len()));
        let question = match below(random, 2) {
            0 => format!("Is it {}?", COLOURS[colour].0),
            _ => format!("Is it a {}?", SHAPES[shape].0),
        };
        (question, if right { "yes" } else { "no" })
    }

    fn words(&self) -> (&'static str, &'static str, &'static str, &'static str) {
        (SIZES[self.size].0, COLOURS[self.colour].0, SHAPES[self.shape].0, PLACES[self.place])
    }
}

/// Whether training never shows this colour in this shape: one colour of each shape.
fn is_unseen(colour: usize, shape: usize) -> bool {
    shape == colour
}

fn below(random: &mut Random, bound: usize) -> usize {
    random.below(bound as u32) as usize
}
