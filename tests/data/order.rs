//! The order of samples, the weights of tokens, and the pixels of images.

use std::collections::HashSet;

use neva::config::schema::{LossReduction, Template};
use neva::data::{DataOptions, Dataset};
use neva::image::{Augment, Image, Mode, Preprocess};
use neva::model::{Batch, IGNORE};
use neva::tokenizer::Tokenizer;

use super::{Folder, characters};

/// Ten records; record i has the image i % 3 if i is even, and an answer of i + 1 characters.
struct Ten {
    folder: Folder,
    tokenizer: Tokenizer,
    options: DataOptions,
}

impl Ten {
    fn new(name: &str) -> Self {
        let (folder, tokenizer) = (Folder::new(name), characters());
        let records: Vec<_> = (0..10)
            .map(|i: usize| {
                let shows = i.is_multiple_of(2);
                let image = shows.then(|| format!("{}.png", i % 3));
                let question = if shows { "<image>" } else { "q" };
                serde_json::json!({"image": image, "system": "", "conversations": [
                    {"from": "human", "value": question},
                    {"from": "gpt", "value": "a".repeat(i + 1)}]})
            })
            .collect();
        for image in 0..3 {
            folder.image(&format!("{image}.png"), 100 * image);
        }
        let first = folder.write("first.json", &serde_json::json!(records[..4]).to_string());
        let second = folder.write("second.json", &serde_json::json!(records[4..]).to_string());
        let options = DataOptions {
            paths: vec![first.clone(), second],
            global_batch: 4,
            micro_batch: 2,
            shuffle: true,
            ..folder.options(Template::V1, &tokenizer, &first)
        };
        Ten { folder, tokenizer, options }
    }

    fn open(&self, change: impl FnOnce(&mut DataOptions)) -> Dataset {
        let mut options = self.options.clone();
        change(&mut options);
        Dataset::open(options, &self.tokenizer).unwrap()
    }
}

#[test]
fn the_order_is_a_function_of_seed_and_step() {
    let ten = Ten::new("order");
    let data = ten.open(|_| {});
    assert_eq!((data.samples(), data.micro_batches(), data.truncated()), (10, 2, 0));
    let steps: Vec<Vec<usize>> = (0..40).map(|step| data.global_batch(step)).collect();
    // Any step at once, in any order, from a set that was just opened.
    for step in [39, 0, 17, 2] {
        assert_eq!(ten.open(|_| {}).global_batch(step), steps[step as usize]);
        assert_eq!(data.global_batch(step), steps[step as usize]);
    }
    // An epoch is two steps: eight of the ten samples, each once.
    let epochs: Vec<Vec<usize>> = steps.chunks(2).map(|steps| steps.concat()).collect();
    for epoch in &epochs {
        assert_eq!(epoch.iter().collect::<HashSet<_>>().len(), 8);
        assert!(epoch.iter().all(|&index| index < 10));
    }
    assert_eq!(epochs.iter().collect::<HashSet<_>>().len(), epochs.len(), "every epoch has its own order");
    assert_eq!(epochs.concat().into_iter().collect::<HashSet<_>>().len(), 10, "no sample is always left out");
    assert_ne!(ten.open(|o| o.seed = 8).global_batch(0), steps[0]);
    // Known numbers: a run must find its order again after an update of the program.
    assert_eq!(steps[..2], [[3, 4, 0, 6], [9, 5, 7, 8]]);
    let in_files = ten.open(|o| o.shuffle = false);
    assert_eq!(in_files.global_batch(0), [0, 1, 2, 3]);
    assert_eq!(in_files.global_batch(1), [4, 5, 6, 7]);
    assert_eq!(in_files.global_batch(2), [0, 1, 2, 3]);
}

#[test]
fn micro_batches_are_consecutive_slices_whatever_ran_before() {
    let ten = Ten::new("slices");
    let data = ten.open(|_| {});
    let whole = ten.open(|o| o.micro_batch = 4).batch(5, 0).unwrap();
    let parts = [data.batch(5, 0).unwrap(), data.batch(5, 1).unwrap()];
    let joined: Vec<u32> = parts.iter().flat_map(|part| part.ids.clone()).collect();
    assert_eq!(joined, whole.ids);
    let pixels: Vec<f32> = parts.iter().flat_map(|part| part.pixels.clone()).collect();
    assert_eq!(pixels, whole.pixels);
    let keys: Vec<u32> = parts.iter().flat_map(|part| part.keys.clone()).collect();
    assert_eq!(keys, whole.keys);
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len(), "every row of a step has its own key");
    assert_eq!(ten.open(|_| {}).batch(5, 1).unwrap(), parts[1]);
    // A sample has its keys wherever it comes.
    let indices = data.global_batch(5);
    for (place, &index) in indices.iter().enumerate() {
        let alone = data.in_order(index, 1).unwrap();
        let [start, end] = [whole.cu_seqlens[place] as usize, whole.cu_seqlens[place + 1] as usize];
        assert_eq!(alone.keys, whole.keys[start..end]);
        assert_eq!(alone.ids, whole.ids[start..end]);
        assert_eq!(alone.labels, whole.labels[start..end]);
        assert_eq!(alone.positions, whole.positions[start..end]);
    }
    let rows: Vec<u32> = whole.image_rows.clone();
    let image = ten.tokenizer.id("<image>").unwrap();
    assert_eq!(rows.len(), 3 * whole.images);
    assert!(rows.iter().all(|&row| whole.ids[row as usize] == image));
}

#[test]
fn weights_make_the_mean_that_was_asked_for() {
    let ten = Ten::new("weights");
    let sum = |weights: &[f32]| weights.iter().map(|&w| f64::from(w)).sum::<f64>();
    let token = ten.open(|_| {});
    let nemo = ten.open(|o| o.reduction = LossReduction::MicroBatch);
    let tokens: usize = (0..2).map(|micro| token.batch(3, micro).unwrap().supervised()).sum();
    // The space, the answer's characters and </s>.
    let expected: usize = token.global_batch(3).iter().map(|&index| 1 + index + 1 + 1).sum();
    assert_eq!(tokens, expected);
    for micro in 0..2 {
        let batch = token.batch(3, micro).unwrap();
        let same = nemo.batch(3, micro).unwrap();
        for ((label, weight), of_nemo) in batch.labels.iter().zip(&batch.weights).zip(&same.weights) {
            let counts = f32::from(u8::from(*label != IGNORE));
            assert_eq!(*weight, counts * (1.0 / tokens as f32));
            assert_eq!(*of_nemo, counts * (1.0 / (2 * batch.supervised()) as f32));
        }
        assert!((sum(&same.weights) - 0.5).abs() < 1e-6);
    }
    assert!((0..2).map(|m| sum(&token.batch(3, m).unwrap().weights)).sum::<f64>() - 1.0 < 1e-6);
    let checked = token.in_order(2, 3).unwrap();
    assert_eq!(sum(&checked.weights), checked.supervised() as f64);
    assert_eq!(checked.cu_seqlens.len(), 4);
}

#[test]
fn pixels_are_those_of_the_files_and_decoded_once() {
    let ten = Ten::new("pixels");
    let data = ten.open(|_| {});
    let first = data.in_order(0, 10).unwrap();
    assert_eq!((first.images, first.pixels.len()), (5, 5 * 48));
    let preprocess = Preprocess::clip(4, Mode::Square);
    for (image, name) in ["0.png", "2.png", "1.png", "0.png", "2.png"].iter().enumerate() {
        let expected = preprocess.open(&ten.folder.0.join(name)).unwrap();
        assert_eq!(first.pixels[image * 48..][..48], expected, "image {image}");
    }
    for image in 0..3 {
        std::fs::remove_file(ten.folder.0.join(format!("{image}.png"))).unwrap();
    }
    assert_eq!(data.in_order(0, 10).unwrap(), first);
}

#[test]
fn changes_to_pictures_are_a_function_of_seed_epoch_and_sample() {
    let ten = Ten::new("changes");
    for image in 0..3u8 {
        let mut drawn = Image::filled(4, 4, [0; 3]);
        drawn.rgb.iter_mut().enumerate().for_each(|(at, sample)| *sample = 5 * at as u8 + image);
        drawn.save_png(&ten.folder.0.join(format!("{image}.png"))).unwrap();
    }
    let change = |o: &mut DataOptions| o.augment = Augment { flip: true, shift: 2 };
    let data = ten.open(change);
    let steps: Vec<Batch> = (0..20).map(|step| data.batch(step, 0).unwrap()).collect();
    assert_eq!(ten.open(change).batch(17, 0).unwrap(), steps[17], "whatever ran before");
    let joined = [data.batch(3, 0).unwrap().pixels, data.batch(3, 1).unwrap().pixels].concat();
    let whole = ten.open(|o| {
        change(o);
        o.micro_batch = 4;
    });
    assert_eq!(whole.batch(3, 0).unwrap().pixels, joined);
    // The same pictures, but for the pixels as they are without.
    let plain = ten.open(|_| {});
    let same = |step: &usize| plain.batch(*step as u64, 0).unwrap().pixels == steps[*step].pixels;
    let unchanged = (0..20).filter(|&step| steps[step].images > 0).filter(same).count();
    assert!(unchanged < 5, "{unchanged} of 20 steps show their pictures as they are");
    for (step, batch) in steps.iter().enumerate() {
        let pixels = plain.batch(step as u64, 0).unwrap().pixels;
        assert_eq!(*batch, Batch { pixels: batch.pixels.clone(), ..plain.batch(step as u64, 0).unwrap() });
        assert_eq!(pixels.len(), batch.pixels.len());
    }
    assert_eq!(data.in_order(0, 10).unwrap(), plain.in_order(0, 10).unwrap(), "validation sees the files");
    // A sample's picture is another one in most of its epochs.
    let first = |step: u64| {
        let place = data.global_batch(step).iter().position(|&index| index == 0)?;
        let batch = whole.batch(step, 0).unwrap();
        let before = data.global_batch(step)[..place].iter().filter(|index| index.is_multiple_of(2)).count();
        Some(batch.pixels[before * 48..][..48].iter().map(|v| v.to_bits()).collect::<Vec<_>>())
    };
    let seen: Vec<_> = (0..40).filter_map(first).collect();
    assert!(seen.len() >= 12 && seen.iter().collect::<HashSet<_>>().len() > seen.len() / 2);
}
