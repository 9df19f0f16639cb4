//! The drawings of `neva quickstart`: records that are true of their pictures, balanced answers, pairs kept out.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use neva::image::Image;
use neva::scenes::{SIDE, Scenes, UNSEEN, write};
use serde_json::Value;

/// A folder of this test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("neva-scenes-{}-{name}", std::process::id()));
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Record {
    id: String,
    image: PathBuf,
    /// Question and answer.
    turns: Vec<(String, String)>,
}

impl Record {
    fn answer(&self, start: &str) -> &str {
        let found = self.turns.iter().find(|(question, _)| question.starts_with(start));
        &found.unwrap_or_else(|| panic!("{}: no question {start}", self.id)).1
    }

    fn pair(&self) -> (String, String) {
        (self.answer("What colour").to_string(), self.answer("What shape").to_string())
    }
}

fn records(scenes: &Scenes, path: &Path) -> Vec<Record> {
    let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |v: &Value| v.as_str().unwrap().to_string();
    let record = |record: &Value| {
        let turns = record["conversations"].as_array().unwrap();
        let mut pairs = Vec::new();
        for (i, pair) in turns.chunks(2).enumerate() {
            assert_eq!((text(&pair[0]["from"]), text(&pair[1]["from"])), ("human".into(), "gpt".into()));
            let question = text(&pair[0]["value"]);
            let bare = question.strip_prefix("<image>\n");
            assert_eq!(bare.is_some(), i == 0, "the picture stands before the first question, only");
            pairs.push((bare.unwrap_or(&question).to_string(), text(&pair[1]["value"])));
        }
        let image = scenes.image_folder.join(text(&record["image"]));
        Record { id: text(&record["id"]), image, turns: pairs }
    };
    json.as_array().unwrap().iter().map(record).collect()
}

/// Whether the answer is yes or no.
fn is_guess(question: &str) -> bool {
    question.starts_with("Is it ") && !question.contains(" or ")
}

/// Where the shape is: the pixels brighter than any background. Their mean colour, and the box around them.
fn look(image: &Image) -> ([f64; 3], [usize; 4], usize) {
    let (mut sum, mut area) = ([0.0; 3], 0);
    let mut bounds = [SIDE, SIDE, 0, 0];
    for (i, pixel) in image.rgb.chunks_exact(3).enumerate() {
        if pixel.iter().max() > Some(&130) {
            let (x, y) = (i % SIDE, i / SIDE);
            bounds = [bounds[0].min(x), bounds[1].min(y), bounds[2].max(x), bounds[3].max(y)];
            sum.iter_mut().zip(pixel).for_each(|(sum, &v)| *sum += f64::from(v));
            area += 1;
        }
    }
    (sum.map(|v| v / area as f64), bounds, area)
}

#[test]
fn answers_are_true_of_the_pictures() {
    let folder = Folder::new("true");
    let scenes = write(&folder.0, 300, 0, 5).unwrap();
    let records = records(&scenes, &scenes.train);
    let mut colours: HashMap<String, Vec<[f64; 3]>> = HashMap::new();
    let mut fills: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for record in &records {
        let image = Image::open(&record.image).unwrap();
        assert_eq!((image.width, image.height), (SIDE, SIDE));
        let (colour, [x0, y0, x1, y1], area) = look(&image);
        let side = (x1 - x0 + 1).max(y1 - y0 + 1);
        match record.answer("Is it small") {
            "small" => assert!((13..=16).contains(&side), "{}: {side}", record.id),
            "large" => assert!((19..=22).contains(&side), "{}: {side}", record.id),
            other => panic!("{other}"),
        }
        let place = if x0 + x1 + 1 < SIDE { "left" } else { "right" };
        assert_eq!(record.answer("Is it left"), place, "{}", record.id);
        let pair = record.pair();
        let (guess, answer) = record.turns.iter().find(|(q, _)| is_guess(q)).unwrap();
        let right = [format!("Is it {}?", pair.0), format!("Is it a {}?", pair.1)].contains(guess);
        assert_eq!(answer, if right { "yes" } else { "no" }, "{}", record.id);
        colours.entry(pair.0).or_default().push(colour);
        fills.entry(pair.1).or_default().push(area as f64 / (side * side) as f64);
    }
    // A colour's pictures look alike and unlike every other's; so does a shape's share of its square, of those that
    // do not happen to have the same.
    assert_eq!((colours.len(), fills.len()), (8, 5));
    let far = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    for (name, own) in &colours {
        let centre: [f64; 3] =
            std::array::from_fn(|c| own.iter().map(|colour| colour[c]).sum::<f64>() / own.len() as f64);
        assert!(own.iter().all(|colour| far(colour, &centre) < 40.0), "{name}");
        let others = colours.iter().filter(|(other, _)| *other != name).flat_map(|(_, colours)| colours);
        assert!(others.map(|colour| far(colour, &centre)).all(|d| d > 40.0), "{name}");
    }
    let range = |name: &str| {
        let values = &fills[name];
        (values.iter().copied().fold(1.0, f64::min), values.iter().copied().fold(0.0, f64::max))
    };
    assert!(range("square").0 > 0.99);
    for (name, low, high) in
        [("circle", 0.72, 0.86), ("triangle", 0.42, 0.60), ("ring", 0.45, 0.62), ("cross", 0.48, 0.65)]
    {
        let (least, most) = range(name);
        assert!(least > low && most < high, "{name}: {least}..{most}");
    }
}

#[test]
fn guessing_stays_below_half() {
    let folder = Folder::new("balance");
    let scenes = write(&folder.0, 1200, 600, 6).unwrap();
    for path in [&scenes.train, &scenes.held_out] {
        let mut answers: BTreeMap<&str, BTreeMap<String, usize>> = BTreeMap::new();
        let mut first: BTreeMap<&str, usize> = BTreeMap::new();
        let records = records(&scenes, path);
        for record in &records {
            assert_eq!(record.turns.len(), 5, "{}", record.id);
            for (i, (question, answer)) in record.turns.iter().enumerate() {
                let kind = if is_guess(question) { "yes or no" } else { question };
                assert!(!answer.contains(' '), "one word, not {answer}");
                *answers.entry(kind).or_default().entry(answer.clone()).or_default() += 1;
                *first.entry(kind).or_default() += usize::from(i == 0);
            }
        }
        let guessed: usize = answers.values().map(|counts| counts.values().max().unwrap()).sum();
        let share = guessed as f64 / (5 * records.len()) as f64;
        assert!((0.33..0.45).contains(&share), "the most frequent answers are {share} of all: {answers:?}");
        // Each question comes first in about a fifth of the records.
        assert!(
            first.values().all(|&n| (0.15..0.25).contains(&(n as f64 / records.len() as f64))),
            "{first:?}"
        );
    }
}

#[test]
fn held_out_pictures_are_new_and_some_pairs_are_only_there() {
    let folder = Folder::new("new");
    let scenes = write(&folder.0, 1000, 400, 7).unwrap();
    let (train, held_out) = (records(&scenes, &scenes.train), records(&scenes, &scenes.held_out));
    assert_eq!((train.len(), held_out.len()), (1000, 400));
    let pixels: HashSet<Vec<u8>> =
        train.iter().chain(&held_out).map(|record| Image::open(&record.image).unwrap().rgb).collect();
    assert_eq!(pixels.len(), 1400, "every drawing differs from every other");

    let trained: HashSet<_> = train.iter().map(Record::pair).collect();
    let unseen: HashSet<_> =
        held_out.iter().filter(|record| record.id.starts_with(UNSEEN)).map(Record::pair).collect();
    assert_eq!((trained.len(), unseen.len()), (35, 5));
    assert!(trained.is_disjoint(&unseen));
    for record in &held_out {
        assert_eq!(unseen.contains(&record.pair()), record.id.starts_with(UNSEEN), "{}", record.id);
    }
    assert_eq!(held_out.iter().filter(|record| record.id.starts_with(UNSEEN)).count(), 50);
    // Nor does training speak of them.
    let texts = std::fs::read_to_string(&scenes.texts).unwrap();
    for (colour, shape) in &unseen {
        assert!(!texts.contains(&format!("{colour} {shape}")), "{colour} {shape}");
        // But of each word, a tokenizer must know it.
        assert!(texts.contains(&format!("Is it {colour}?")) && texts.contains(&format!("Is it a {shape}?")));
    }
    // Captions say the same as the answers, of the same pictures.
    let captions = records(&scenes, &scenes.captions);
    for (caption, record) in captions.iter().zip(&train) {
        let (colour, shape) = record.pair();
        let (size, place) = (record.answer("Is it small"), record.answer("Is it left"));
        assert_eq!(caption.image, record.image);
        assert_eq!(caption.turns.len(), 1);
        assert_eq!(caption.turns[0].1, format!("a {size} {colour} {shape} on the {place}"));
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let make = |name: &str, train: usize, seed: u64| {
        let folder = Folder::new(name);
        let scenes = write(&folder.0, train, 4, seed).unwrap();
        let read = |path: PathBuf| std::fs::read(path).unwrap();
        let files =
            [&scenes.captions, &scenes.train, &scenes.held_out, &scenes.texts].map(|p| read(p.clone()));
        let picture = |name: &str| read(scenes.image_folder.join(name));
        (files, picture("train/000003.png"), picture("held_out/000003.png"))
    };
    let first = make("a", 20, 1);
    assert_eq!(first, make("b", 20, 1));
    let (_, train, held_out) = make("c", 40, 1);
    assert_eq!((&train, &held_out), (&first.1, &first.2), "a picture does not depend on how many there are");
    assert_ne!(first.1, make("d", 20, 2).1);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = Folder::new("file");
    std::fs::write(&folder.0, "a file").unwrap();
    let error = write(&folder.0, 1, 1, 1).unwrap_err().to_string();
    std::fs::remove_file(&folder.0).unwrap();
    assert!(error.starts_with(&folder.0.join("images/train").display().to_string()), "{error}");
}
