//! Files that are not what their names say: images, model directories, a tokenizer of another model.

use super::*;
use serde_json::{Value, json};

/// A PNG's first chunk, saying this size.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
    chunk.extend([8, 2, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    file.extend(&chunk);
    file.extend(crc32fast::hash(&chunk).to_be_bytes());
    file
}

#[test]
fn an_image_that_cannot_be_read_is_named_in_training_and_in_answering() {
    let dir = scratch("images");
    recipe(&dir);
    let image = dir.join("0.png");
    let shown = image.display();
    let good = fs::read(&image).unwrap();
    let cases: [(&[u8], &str); 4] = [
        (&good[..good.len() / 2], "the file is truncated"),
        (b"", "the file is empty (0 bytes), expected a PNG or JPEG image"),
        (b"GIF89a", "the content is GIF, expected PNG or JPEG"),
        (
            &png_header(60_000, 60_000),
            "the header says 60000 x 60000 = 3600000000 pixels, an image may have at most 178956970",
        ),
    ];
    let answer = generate(&model(), &["--image", image.to_str().unwrap(), "--prompt", "What?"]);
    // One batch is the whole set, so that the first step reads the image.
    let fit = train(&dir, "run", &["model.micro_batch_size=10", "model.global_batch_size=10"]);
    for (bytes, message) in cases {
        fs::write(&image, bytes).unwrap();
        refused(&answer, &format!("{shown}: {message}"));
        refused(
            &fit,
            &format!("{}: record 0 (\"0\"): {shown}: {message}", dir.join("captions.json").display()),
        );
    }
    fs::remove_file(&image).unwrap();
    refused(&answer, &format!("{shown}: no such image file"));
    let data = dir.join("captions.json");
    refused(&fit, &format!("{}: record 0 (\"0\"): no such image file: {shown}", data.display()));

    // The content counts, not the name.
    let jpg = dir.join("0.jpg");
    fs::write(&jpg, &good).unwrap();
    accepted(&generate(&model(), &["--image", jpg.to_str().unwrap(), "--prompt", "What?"]));
}

/// Changes the JSON header of a safetensors file; the data stay.
fn edit_header(path: &Path, edit: impl FnOnce(&mut Value)) {
    let bytes = fs::read(path).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    edit(&mut header);
    let header = header.to_string();
    let new = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + n..]].concat();
    fs::write(path, new).unwrap();
}

#[test]
fn a_damaged_model_directory_is_refused_by_file_and_tensor() {
    let dir = scratch("model");
    const NORM: &str = "language_model.model.norm.weight";
    const HEAD: &str = "language_model.lm_head.weight";
    let check = |damage: &dyn Fn(&Path), error: &str| {
        let model = copy_of_model(&dir);
        damage(&model);
        let error = error.replace("MODEL", model.to_str().unwrap());
        refused(&generate(&model, &["--prompt", "What?"]), &error);
        let from = format!("model.restore_from_path={}", model.display());
        let out = format!("exp_manager.explicit_log_dir={}", dir.join("run").display());
        let recipe = SHARED.join("recipe.yaml");
        let train = words!["train", recipe.display(), from, out, "model.tokenizer.model=null"];
        refused(&train, &error);
    };
    let shard = |model: &Path| model.join("model-frozen.safetensors");
    let cut = |path: &Path, to: &dyn Fn(usize) -> usize| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..to(bytes.len())]).unwrap();
    };
    check(
        &|m| fs::write(shard(m), b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap(),
        "MODEL/model-frozen.safetensors: not a complete safetensors file: header too large",
    );
    check(
        &|m| cut(&shard(m), &|_| 5),
        "MODEL/model-frozen.safetensors: not a complete safetensors file: header too small",
    );
    check(
        &|m| cut(&shard(m), &|n| n - 1),
        "MODEL/model-frozen.safetensors: not a complete safetensors file: incomplete metadata, file not fully covered",
    );
    check(
        &|m| {
            edit_header(&shard(m), |h| h[HEAD]["shape"] = json!([32, h[HEAD]["shape"][0]]));
        },
        "MODEL/model-frozen.safetensors: language_model.lm_head.weight: has shape [32, 384], expected [384, 32]",
    );
    check(
        &|m| {
            edit_header(&shard(m), |h| {
                let norm = h.as_object_mut().unwrap().remove(NORM).unwrap();
                h["other"] = norm;
            });
        },
        "MODEL: language_model.model.norm.weight: no such tensor in model-frozen.safetensors, model-trained.safetensors",
    );
    check(
        &|m| edit_header(&shard(m), |h| h[NORM]["dtype"] = json!("U32")),
        "MODEL/model-frozen.safetensors: language_model.model.norm.weight: stored as u32, expected f32, bf16 or f16",
    );
    check(
        &|m| fs::remove_file(shard(m)).unwrap(),
        "MODEL/model-frozen.safetensors: no such file or directory",
    );
    check(
        &|m| fs::write(m.join("config.json"), "{\"model_type\": ").unwrap(),
        "MODEL/config.json: not JSON: EOF while parsing a value at line 1 column 15",
    );
    let set = |model: &Path, keys: &[&str], value: Value| {
        let path = model.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let mut at = &mut config;
        for key in keys {
            at = &mut at[*key];
        }
        *at = value;
        fs::write(path, config.to_string()).unwrap();
    };
    check(
        &|m| set(m, &["vision_config", "num_attention_heads"], json!(3)),
        "MODEL/config.json: vision_config.num_attention_heads: 3 does not divide hidden_size 16",
    );
    check(
        &|m| set(m, &["vision_feature_layer"], json!(-9)),
        "MODEL/config.json: vision_feature_layer: is -9, but the tower has hidden states 0 to 2",
    );
}

#[test]
fn a_tokenizer_larger_than_the_embedding_is_refused() {
    let dir = scratch("tokenizer");
    let copy = copy_of_model(&dir);
    let mut random = 1u32;
    let letter = |_| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        [' ', 'a', 'e', 'l', 'n', 'o', 'r', 's', 't', 'u'][(random >> 16) as usize % 10]
    };
    let text: String = (0..8000).map(letter).collect();
    let larger = neva::tokenizer::train(text.lines(), 500, &[]).unwrap();
    assert_eq!(larger.vocab_size(), 500);
    larger.save(&copy).unwrap();
    let pieces = "the tokenizer has 500 pieces, the embedding of the language model only 384 rows";
    refused(&generate(&copy, &["--prompt", "What?"]), &format!("{}: {pieces}", copy.display()));
    let mut resumed = train(&SHARED, "larger", &[]);
    resumed.push(format!("model.restore_from_path={}", model().display()));
    resumed.push(format!("model.tokenizer.model={}", copy.join("tokenizer.model").display()));
    refused(&resumed, &format!("command line: model.tokenizer.model: {pieces}"));
}
