//! Training end to end on a few pictures: an exact resume, what is saved, what is frozen.
#![allow(clippy::unwrap_used)]

mod tiny;

use neva::config::Config;
use neva::train::{self, Summary};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tiny::{STEPS, assert_same, data, yaml};

/// A directory of this test, empty.
fn scratch(name: &str) -> PathBuf {
    tiny::scratch(&format!("train-{name}"))
}

fn config(dir: &Path, run: &str, overrides: &[String]) -> Config {
    let mut all = vec![format!("exp_manager.explicit_log_dir={}", dir.join(run).display())];
    all.extend_from_slice(overrides);
    Config::parse("test.yaml", &yaml(dir), &all).unwrap()
}

fn phase_2(dir: &Path, from: &Path) -> Vec<String> {
    vec![
        "model.mm_cfg.llm.freeze=false".into(),
        "model.mm_cfg.llm.model_type=v1".into(),
        format!("model.restore_from_path={}", from.display()),
        format!("model.data.data_path={}", dir.join("questions.json").display()),
        format!("model.data.validation_data_path={}", dir.join("questions.json").display()),
        "model.mm_cfg.vision_encoder.patch_dim=null".into(),
    ]
}

fn whole(config: &Config) -> Summary {
    train::run(config, &|_| false).unwrap()
}

#[test]
fn resume_after_any_step_ends_with_the_same_bytes() {
    let dir = scratch("resume");
    data(&dir);
    let first = whole(&config(&dir, "phase1", &[]));
    for (phase, extra) in [("1", vec![]), ("2", phase_2(&dir, &first.checkpoint))] {
        for precision in ["32", "bf16"] {
            let with = |run: &str, threads: usize| {
                let mut all = extra.clone();
                all.push(format!("trainer.precision={precision}"));
                all.push(format!("trainer.threads={threads}"));
                config(&dir, run, &all)
            };
            let what = format!("phase{phase}-{precision}");
            let expected = whole(&with(&format!("{what}-whole"), 1));
            for stop in 1..STEPS {
                let run = format!("{what}-stop{stop}");
                let stopped = train::run(&with(&run, 1), &|step| step == stop).unwrap();
                assert_eq!(stopped.steps, stop);
                let resumed = whole(&with(&run, 2));
                assert_eq!(resumed.steps, STEPS);
                assert_same(&expected.checkpoint, &resumed.checkpoint, &format!("{what} stopped at {stop}"));
                let lines = fs::read_to_string(dir.join(&run).join("metrics.jsonl")).unwrap();
                assert_eq!(lines.lines().count() as u64, STEPS, "one line a step");
            }
        }
    }
}

#[test]
fn frozen_tensors_keep_their_bytes_and_their_file() {
    let dir = scratch("frozen");
    data(&dir);
    let config = config(&dir, "run", &["exp_manager.checkpoint_callback_params.save_top_k=-1".into()]);
    whole(&config);
    let saved = train::list(&dir.join("run")).unwrap();
    assert_eq!(saved.iter().map(|s| s.step).collect::<Vec<_>>(), [2, 4, 5]);
    let inode = |i: usize| fs::metadata(saved[i].path.join("model-frozen.safetensors")).unwrap().ino();
    assert_eq!([inode(0), inode(1)], [inode(1), inode(2)], "later checkpoints link the frozen shard");
    let trained = |i: usize| fs::read(saved[i].path.join("model-trained.safetensors")).unwrap();
    assert!(trained(0) != trained(1), "the projector learns");
    // The shard holds what the model was born with: a run of another length has the same.
    let other = self::config(
        &dir,
        "other",
        &["trainer.max_steps=1".into(), "model.optim.sched.warmup_steps=0".into()],
    );
    let other = whole(&other).checkpoint;
    let frozen = |dir: &Path| fs::read(dir.join("model-frozen.safetensors")).unwrap();
    assert!(frozen(&other) == frozen(&saved[0].path));
}

#[test]
fn only_the_best_checkpoints_and_the_last_are_kept() {
    let dir = scratch("prune");
    data(&dir);
    let keep = [
        "exp_manager.checkpoint_callback_params.save_top_k=1".to_string(),
        "trainer.val_check_interval=1".into(),
    ];
    let summary = whole(&config(&dir, "run", &keep));
    let saved = train::list(&dir.join("run")).unwrap();
    assert!(saved.len() <= 2, "{saved:?}");
    assert_eq!(saved.last().unwrap().path, summary.checkpoint);
    assert_eq!(summary.steps, STEPS);
    assert!(summary.val_loss.is_some());
}

#[test]
fn micro_batches_of_any_size_give_the_same_loss() {
    let dir = scratch("micro");
    data(&dir);
    let loss = |micro: usize| {
        let all = [
            format!("model.micro_batch_size={micro}"),
            "trainer.max_steps=1".into(),
            "model.optim.sched.warmup_steps=0".into(),
            "model.hidden_dropout=0".into(),
            "model.ffn_dropout=0".into(),
        ];
        whole(&config(&dir, &format!("micro{micro}"), &all)).loss
    };
    let (a, b, c) = (loss(1), loss(3), loss(6));
    assert!((a - b).abs() < 1e-6 * a && (a - c).abs() < 1e-6 * a, "{a} {b} {c}");
}

#[test]
fn a_finished_run_is_not_trained_again() {
    let dir = scratch("finished");
    data(&dir);
    let config = config(&dir, "run", &[]);
    let first = whole(&config);
    let again = whole(&config);
    assert_eq!((again.steps, again.checkpoint), (first.steps, first.checkpoint));
}

#[test]
fn a_run_directory_in_use_is_refused() {
    let dir = scratch("lock");
    data(&dir);
    let config = config(&dir, "run", &[]);
    fs::create_dir_all(dir.join("run")).unwrap();
    let lock = fs::File::create(dir.join("run/run.lock")).unwrap();
    lock.lock().unwrap();
    let error = train::run(&config, &|_| false).unwrap_err().to_string();
    assert!(error.ends_with("another process is training into this directory"), "{error}");
}

#[test]
fn what_a_kill_left_half_written_is_cleared_and_the_previous_checkpoint_loads() {
    let dir = scratch("kill");
    data(&dir);
    let config = config(&dir, "run", &[]);
    train::run(&config, &|step| step == 3).unwrap();
    // A save that was killed: some files under a temporary name.
    let half = dir.join("run/checkpoints/.writing-step-00000004");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("model-trained.safetensors"), b"cut").unwrap();
    let summary = whole(&config);
    assert_eq!(summary.steps, STEPS);
    assert!(!half.exists());
}
