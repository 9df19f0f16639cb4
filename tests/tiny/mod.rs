//! A data set, a tokenizer and a model so small that a run takes a blink: what tests of training start from.
#![allow(clippy::unwrap_used, dead_code)] // each test file uses some of it

use neva::image::Image;
use neva::tokenizer;
use std::fs;
use std::path::{Path, PathBuf};

/// A directory of this name, empty.
pub fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Ten pictures of plain colour with captions and questions, and a tokenizer.
pub fn data(dir: &Path) {
    let colours = ["red", "green", "blue", "white", "black"];
    let (mut captions, mut questions, mut text) = (vec![], vec![], String::new());
    for i in 0..10 {
        let colour = colours[i % 5];
        let rgb = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [250, 250, 250], [5, 5, 5]][i % 5];
        let mut image = Image::filled(16, 16, rgb);
        image.rgb[3 * i] ^= 64; // no two are alike
        image.save_png(&dir.join(format!("{i}.png"))).unwrap();
        let turn = |from: &str, value: String| serde_json::json!({"from": from, "value": value});
        captions
            .push(serde_json::json!({"id": i.to_string(), "image": format!("{i}.png"), "conversations": [
            turn("human", "<image>\nDescribe.".into()), turn("gpt", format!("a {colour} square"))]}));
        questions.push(
            serde_json::json!({"id": i.to_string(), "image": format!("{i}.png"), "conversations": [
            turn("human", "<image>\nWhich colour?".into()), turn("gpt", colour.into()),
            turn("human", "Is it a square?".into()), turn("gpt", "yes".into())]}),
        );
        text += &format!("a {colour} square\nWhich colour?\n{colour}\nIs it a square?\nyes\n");
    }
    // Text alone, mixed in.
    questions.push(serde_json::json!({"id": "text", "conversations": [
        {"from": "human", "value": "Is red a colour?"}, {"from": "gpt", "value": "yes"}]}));
    fs::write(dir.join("captions.json"), serde_json::to_string(&captions).unwrap()).unwrap();
    fs::write(dir.join("questions.json"), serde_json::to_string(&questions).unwrap()).unwrap();
    tokenizer::train(text.lines(), 340, &[]).unwrap().save(dir).unwrap();
}

/// Steps of a whole run.
pub const STEPS: u64 = 5;

/// A run of phase 1 on that data; its directory is for overrides to say.
pub fn yaml(dir: &Path) -> String {
    format!(
        "
trainer: {{precision: 32, max_steps: {STEPS}, val_check_interval: 2, threads: 1}}
exp_manager: {{explicit_log_dir: null}}
model:
  micro_batch_size: 2
  global_batch_size: 6
  encoder_seq_length: 512
  num_layers: 2
  hidden_size: 32
  ffn_hidden_size: 48
  num_attention_heads: 4
  num_query_groups: 2
  hidden_dropout: 0.1
  ffn_dropout: 0.1
  init_method_std: 0.05
  mm_cfg:
    llm: {{freeze: true, model_type: plain}}
    vision_encoder: {{freeze: true, patch_dim: 8, crop_size: [16, 16], hidden_size: 16, num_layers: 2,
                     num_attention_heads: 2, ffn_hidden_size: 32}}
  tokenizer: {{library: sentencepiece, model: {0}/tokenizer.model}}
  data: {{data_path: {0}/captions.json, image_folder: {0}, validation_data_path: {0}/captions.json}}
  optim: {{lr: 0.01, weight_decay: 0.1, sched: {{warmup_steps: 2, min_lr: 0.001}}}}
",
        dir.display()
    )
}

/// Every file of a checkpoint with its bytes.
fn files(checkpoint: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = vec![];
    for dir in [checkpoint.to_path_buf(), checkpoint.join("trainer")] {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                all.push((
                    path.strip_prefix(checkpoint).unwrap().display().to_string(),
                    fs::read(&path).unwrap(),
                ));
            }
        }
    }
    all.sort();
    all
}

/// Two checkpoints hold the same files with the same bytes.
pub fn assert_same(a: &Path, b: &Path, what: &str) {
    let (a, b) = (files(a), files(b));
    let names = |f: &[(String, Vec<u8>)]| f.iter().map(|f| f.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b), "{what}");
    for ((name, a), (_, b)) in a.iter().zip(&b) {
        assert!(a == b, "{what}: {name} differs");
    }
}
