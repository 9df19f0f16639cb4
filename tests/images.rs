//! Pictures against Pillow and transformers (tests/golden/make_images.py), and files that are not what they say.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kernels::random::Random;
use neva::Error;
use neva::image::augment::{Augment, Change};
use neva::image::resize::bicubic;
use neva::image::{Image, Mode, Preprocess, Processor};
use safetensors::SafeTensors;
use serde_json::{Value, json};

const GOLDEN: &[u8] = include_bytes!("golden/images.safetensors");

/// The tensors under `prefix`, by the rest of their name: shape and bytes.
fn golden(prefix: &str) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let tensors = SafeTensors::deserialize(GOLDEN).unwrap();
    let found: BTreeMap<_, _> = tensors
        .iter()
        .filter_map(|(name, view)| {
            let rest = name.strip_prefix(prefix)?.to_string();
            Some((rest, (view.shape().to_vec(), view.data().to_vec())))
        })
        .collect();
    assert!(!found.is_empty(), "no golden data under {prefix}");
    found
}

/// The bytes that make_images.py draws its pictures from.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// Noise on the left, black or white on the right.
fn picture(width: usize, height: usize) -> Image {
    let mut rgb = noise(width * height * 3);
    for row in rgb.chunks_exact_mut(width * 3) {
        row[width / 2 * 3..].iter_mut().for_each(|v| *v = if *v < 128 { 0 } else { 255 });
    }
    Image { width, height, rgb }
}

fn sides(text: &str) -> (usize, usize) {
    let (width, height) = text.split_once('x').unwrap();
    (width.parse().unwrap(), height.parse().unwrap())
}

fn decode(bytes: &[u8]) -> Result<Image, String> {
    Image::from_bytes(bytes, Path::new("x")).map_err(|error| error.to_string())
}

/// Each file under `prefix` with Pillow's pixels of it.
fn files(prefix: &str) -> Vec<(String, Vec<u8>, Image)> {
    let golden = golden(prefix);
    let named = golden.keys().filter_map(|name| name.strip_suffix("/file"));
    named
        .map(|name| {
            let (shape, rgb) = golden[&format!("{name}/rgb")].clone();
            let file = golden[&format!("{name}/file")].1.clone();
            (name.to_string(), file, Image { width: shape[1], height: shape[0], rgb })
        })
        .collect()
}

#[test]
fn png_of_every_colour_type_and_depth_equals_pillow() {
    let files = files("png/");
    assert_eq!(files.len(), 15 * 4 + 3);
    for (name, file, expected) in files {
        assert_eq!(decode(&file).unwrap(), expected, "{name}");
    }
}

/// libjpeg-turbo and zune-jpeg round differently in the inverse DCT (1 level, 2 once converted to RGB) and in the
/// upsampling of chroma.
#[test]
fn jpeg_is_within_four_levels_of_pillow() {
    for (name, file, expected) in files("jpeg/") {
        let ours = decode(&file).unwrap();
        assert_eq!((ours.width, ours.height), (expected.width, expected.height), "{name}");
        let differences: Vec<u8> = ours.rgb.iter().zip(&expected.rgb).map(|(a, b)| a.abs_diff(*b)).collect();
        let worst = *differences.iter().max().unwrap();
        let mean = differences.iter().map(|&d| f64::from(d)).sum::<f64>() / differences.len() as f64;
        let (allowed, allowed_mean) = match &name[..3] {
            "420" => (4, 0.3),
            "422" => (3, 0.15),
            _ => (2, 0.03),
        };
        assert!(worst <= allowed && mean <= allowed_mean, "{name}: worst {worst}, mean {mean}");
    }
}

#[test]
fn resize_equals_pillow_bit_for_bit() {
    for (name, (_, expected)) in golden("resize/") {
        let (source, target) = name.split_once('-').unwrap();
        let ((width, height), (to_width, to_height)) = (sides(source), sides(target));
        let resized = bicubic(&picture(width, height), to_width, to_height);
        assert_eq!((resized.width, resized.height), (to_width, to_height));
        assert_eq!(resized.rgb, expected, "{name}");
    }
}

fn preprocess(name: &str) -> Vec<f32> {
    let [mode, size, source] = name.split('-').collect::<Vec<_>>().try_into().unwrap();
    let (width, height) = sides(source);
    let preprocess = Preprocess::clip(size.parse().unwrap(), Mode::from_name(mode).unwrap());
    preprocess.apply(&picture(width, height)).unwrap()
}

#[test]
fn preprocessing_equals_the_clip_image_processor_bit_for_bit() {
    for (name, (_, expected)) in golden("preprocess/") {
        let values: Vec<u8> = preprocess(&name).iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(values, expected, "{name}");
    }
    for (name, (_, expected)) in golden("checksum/") {
        let values: Vec<u8> = preprocess(&name).iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(crc32fast::hash(&values).to_le_bytes().to_vec(), expected, "{name}");
    }
}

/// A folder of this test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("neva-images-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn file(prefix: &str) -> Vec<u8> {
    golden(prefix).remove("/file").unwrap().1
}

#[test]
fn a_saved_png_reads_back() {
    let folder = Folder::new("save");
    let (image, path) = (picture(33, 7), folder.0.join("a.jpg")); // The extension does not matter.
    image.save_png(&path).unwrap();
    assert_eq!(Image::open(&path).unwrap(), image);
    let missing = folder.0.join("no/such/folder.png");
    assert!(matches!(image.save_png(&missing), Err(Error::Io { .. })));
}

#[test]
fn what_is_no_picture_is_said_in_words() {
    let folder = Folder::new("words");
    let message = |name: &str, content: Option<&[u8]>| {
        let path = folder.0.join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let error = Image::open(&path).unwrap_err();
        assert!(matches!(error, Error::Image { .. }));
        let text = error.to_string();
        text.strip_prefix(&format!("{}: ", path.display())).unwrap().to_string()
    };
    assert_eq!(message("none.png", None), "no such image file");
    assert_eq!(message("empty.png", Some(b"")), "the file is empty (0 bytes), expected a PNG or JPEG image");
    assert_eq!(message("a.png", Some(b"GIF89a......")), "the content is GIF, expected PNG or JPEG");
    assert_eq!(message("b.jpg", Some(b"RIFF....WEBPVP8 ")), "the content is WebP, expected PNG or JPEG");
    assert_eq!(message("c.png", Some(b"BM........")), "the content is BMP, expected PNG or JPEG");
    assert_eq!(
        message("d.png", Some(b"hello")),
        "the content is not an image that we know, expected PNG or JPEG"
    );
    assert_eq!(message("e.png", Some(&file("png/rgb_8_plain_13x9")[..100])), "the file is truncated");
    assert_eq!(message("f.jpg", Some(&file("jpeg/420")[..700])), "the file is truncated");
    let directory = Image::open(&folder.0).unwrap_err().to_string();
    assert!(directory.ends_with(": is a directory, expected a PNG or JPEG image"), "{directory}");
}

/// A PNG that is only a header of `width` x `height`.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    file.extend(&chunk);
    file.extend(crc32fast::hash(&chunk).to_be_bytes());
    file
}

#[test]
fn a_picture_too_large_is_refused_from_its_header() {
    assert_eq!(
        decode(&png_header(60_000, 60_000)).unwrap_err(),
        "x: the header says 60000 x 60000 = 3600000000 pixels, an image may have at most 178956970"
    );
    // One byte of a small JPEG's height and width raised: 0xea60 is 60,000.
    let mut jpeg = file("jpeg/444");
    let frame = jpeg.windows(4).position(|w| w == [0xff, 0xc0, 0, 17]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xea, 0x60, 0xea, 0x60]);
    assert_eq!(
        decode(&jpeg).unwrap_err(),
        "x: the header says 60000 x 60000 = 3600000000 pixels, an image may have at most 178956970"
    );
    // Within the limit, but more than the file can hold.
    let error = decode(&png_header(13_000, 13_000)).unwrap_err();
    assert!(error.contains("cannot hold the 13000 x 13000 pixels"), "{error}");
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x32, 0xc8, 0x32, 0xc8]);
    let error = decode(&jpeg).unwrap_err();
    assert!(error.contains("cannot hold the 13000 x 13000 pixels"), "{error}");
    assert!(decode(&png_header(0, 5)).is_err());
}

#[test]
fn a_cut_file_is_an_error_at_every_length() {
    for prefix in ["png/", "jpeg/"] {
        for (name, file, _) in files(prefix) {
            for end in 0..file.len() {
                assert!(decode(&file[..end]).is_err(), "{name} cut to {end} of {} bytes", file.len());
            }
        }
    }
}

/// Decoding must end, without a panic and with a picture of the size announced, whatever the bytes are.
#[test]
fn damaged_files_do_not_panic() {
    let mut random = kernels::random::Random::new(7, 0);
    let (mut decoded, mut refused) = (0, 0);
    for prefix in ["png/", "jpeg/"] {
        for (_, file, _) in files(prefix) {
            for _ in 0..200 {
                let mut damaged = file.clone();
                for _ in 0..1 + random.below(4) {
                    let at = random.below(file.len() as u32) as usize;
                    damaged[at] = random.next_u32() as u8;
                }
                match decode(&damaged) {
                    Ok(image) => {
                        assert_eq!(image.rgb.len(), image.width * image.height * 3);
                        decoded += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
        }
    }
    assert!(decoded > 100 && refused > 1000, "{decoded} decoded, {refused} refused");
}

#[test]
fn keep_and_pad_refuse_what_a_square_tower_cannot_take() {
    let message = |mode, image: &Image| Preprocess::clip(16, mode).apply(image).unwrap_err().to_string();
    assert_eq!(
        message(Mode::Keep, &picture(40, 20)),
        "image_aspect_ratio keep makes 32 x 16 pixels of this image of 40 x 20, but the vision tower takes 16 x 16: \
         use square or pad"
    );
    assert_eq!(
        message(Mode::Pad, &picture(1, 20_000)),
        "image_aspect_ratio pad makes 20000 x 20000 pixels of this image of 1 x 20000, more than 178956970: use square"
    );
}

/// The resized picture would have 16 x 3,200,000 pixels; only the crop is made.
#[test]
fn a_very_long_picture_costs_its_crop_only() {
    let values = Preprocess::clip(16, Mode::Square).apply(&picture(200_000, 1)).unwrap();
    assert_eq!(values.len(), 3 * 16 * 16);
}

#[test]
fn processor_files_round_trip_and_refuse_what_we_do_not_do() {
    let path = Path::new("preprocessor_config.json");
    for mode in [Mode::Square, Mode::Pad, Mode::Keep] {
        let preprocess = Preprocess { mean: [0.5, 0.25, 0.125], ..Preprocess::clip(336, mode) };
        assert_eq!(Preprocess::from_json(&preprocess.to_json(), path).unwrap(), preprocess);
    }
    let old = json!({ "feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224, "resample": 3 });
    assert_eq!(Preprocess::from_json(&old, path).unwrap(), Preprocess::clip(224, Mode::Square));

    let refused = |change: Value| {
        let mut config = Preprocess::clip(224, Mode::Square).to_json();
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        Preprocess::from_json(&config, path).unwrap_err().to_string()
    };
    for (change, expected) in [
        (
            json!({ "image_processor_type": "SiglipImageProcessor" }),
            "image_processor_type is SiglipImageProcessor, expected CLIPImageProcessor or LlavaImageProcessor",
        ),
        (json!({ "resample": 2 }), "resample is 2, expected 3 (bicubic)"),
        (json!({ "do_normalize": false }), "do_normalize is false, expected true"),
        (json!({ "do_resize": "yes" }), "do_resize is \"yes\", expected true or false"),
        (json!({ "rescale_factor": 1.0 }), "rescale_factor is 1, expected 1/255"),
        (
            json!({ "crop_size": { "height": 224, "width": 448 } }),
            "crop_size is {\"height\":224,\"width\":448}, expected one side of 1 to 16384 pixels as height = width",
        ),
        (json!({ "crop_size": 200 }), "crop_size is 200, expected 224 as size says"),
        (json!({ "size": 0 }), "size is 0, expected one side of 1 to 16384 pixels as shortest_edge"),
        (json!({ "image_mean": [0.5, 0.5] }), "image_mean is [0.5,0.5], expected three numbers"),
        (json!({ "image_mean": [0.5, 0.5, 2.0] }), "image_mean has 2, expected values in 0..=1"),
        (json!({ "image_std": [0.5, 0.5, 0.0] }), "image_std has 0, expected positive values"),
    ] {
        assert_eq!(refused(change), format!("preprocessor_config.json: {expected}"));
    }

    let path = Path::new("processor_config.json");
    let processor = Processor {
        patch_size: 14,
        vision_feature_select_strategy: "default".into(),
        num_additional_image_tokens: 1,
        image_token: "<image>".into(),
    };
    assert_eq!(Processor::from_json(&processor.to_json(), path).unwrap(), processor);
    assert_eq!(
        Processor::from_json(&json!({ "patch_size": 14, "vision_feature_select_strategy": "cls" }), path)
            .unwrap_err()
            .to_string(),
        "processor_config.json: vision_feature_select_strategy is \"cls\", expected \"default\" or \"full\""
    );
}

#[test]
fn pictures_are_mirrored_and_then_moved() {
    let rgb: Vec<u8> = (0..9).flat_map(|at| [at, at + 10, at + 20]).collect();
    let reds = |mirrored, right, down| -> Vec<u8> {
        let changed = Change { mirrored, right, down }.apply(&rgb, 3);
        let pixels: Vec<&[u8]> = changed.chunks_exact(3).collect();
        assert!(pixels.iter().all(|p| p[1] == p[0] + 10 && p[2] == p[0] + 20), "pixels stay whole");
        pixels.iter().map(|pixel| pixel[0]).collect()
    };
    assert_eq!(reds(false, 0, 0), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(reds(true, 0, 0), [2, 1, 0, 5, 4, 3, 8, 7, 6]);
    assert_eq!(reds(false, 1, 0), [0, 0, 1, 3, 3, 4, 6, 6, 7]);
    assert_eq!(reds(false, 0, -1), [3, 4, 5, 6, 7, 8, 6, 7, 8]);
    assert_eq!(reds(true, 1, 1), [2, 2, 1, 2, 2, 1, 5, 5, 4]);
    assert_eq!(reds(false, -9, 9), [2; 9]);

    // Each move and each side as often as another; nothing that was not asked for.
    let count = |augment: Augment| {
        let mut counts = BTreeMap::new();
        let mut random = Random::new(3, 0);
        for _ in 0..18_000 {
            let Change { mirrored, right, down } = augment.choose(&mut random);
            *counts.entry((mirrored, right, down)).or_insert(0) += 1;
        }
        counts
    };
    let all = count(Augment { flip: true, shift: 1 });
    assert_eq!(all.len(), 18);
    assert!(all.values().all(|&n| (850..1150).contains(&n)), "{all:?}");
    assert_eq!(count(Augment::default()).into_keys().collect::<Vec<_>>(), [(false, 0, 0)]);
    assert_eq!(count(Augment { flip: true, shift: 0 }).len(), 2);
}
