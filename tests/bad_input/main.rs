//! What a user gets wrong, and what goes wrong around a run: each ends in one sentence that names the file, the key or
//! the record and what was expected, and leaves nothing half done. The binary is run as a user runs it.
//!
//! | file | what goes wrong |
//! |---|---|
//! | `keys.rs`, `flags.rs`, `files.rs` | every key, flag and file in every way; what is then said lies in `errors/` |
//! | `written.rs`, `answers.rs`, `damaged.rs` | what a user writes, asks for, and has on disk, one by one |
//! | `interrupted.rs` | what happens to a run from outside |
#![allow(clippy::unwrap_used)]

/// Words of a command line.
macro_rules! words {
    ($($word:expr),* $(,)?) => { vec![$($word.to_string()),*] };
}

mod answers;
mod damaged;
mod files;
mod flags;
mod interrupted;
mod keys;
mod table;
#[path = "../tiny/mod.rs"]
mod tiny;
mod written;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

/// A directory of this test, empty.
fn scratch(name: &str) -> PathBuf {
    tiny::scratch(&format!("bad-{name}"))
}

fn command(arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neva"));
    command.args(arguments);
    command
}

/// Exit code, stdout and stderr of a command.
fn end(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn run(arguments: &[String]) -> (Option<i32>, String, String) {
    end(command(arguments).output().unwrap())
}

/// The command fails with this error: one line, the last, and nothing on stdout.
fn refused(arguments: &[String], error: &str) {
    is_refused(run(arguments), error);
}

fn is_refused((code, stdout, stderr): (Option<i32>, String, String), error: &str) {
    assert_eq!(stderr.lines().last().unwrap_or(""), format!("error: {error}"), "all of stderr:\n{stderr}");
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{error}");
    assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
}

/// The command succeeds; its stdout.
fn accepted(arguments: &[String]) -> String {
    let (code, stdout, stderr) = run(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    stdout
}

/// Data, a recipe and a trained model, shared by tests that only read them.
static SHARED: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = scratch("shared");
    recipe(&dir);
    accepted(&train(&dir, "run", &["trainer.max_steps=2", "model.mm_cfg.llm.model_type=v1"]));
    dir
});

/// The data and `recipe.yaml` in `dir`.
fn recipe(dir: &Path) {
    tiny::data(dir);
    fs::write(dir.join("recipe.yaml"), tiny::yaml(dir)).unwrap();
}

/// The command that trains by `recipe.yaml` into the run directory `name`.
fn train(dir: &Path, name: &str, overrides: &[&str]) -> Vec<String> {
    let mut words = words!["train", dir.join("recipe.yaml").display()];
    words.push(format!("exp_manager.explicit_log_dir={}", dir.join(name).display()));
    words.extend(overrides.iter().map(|o| o.to_string()));
    words
}

/// The trained model of [`SHARED`].
fn model() -> PathBuf {
    SHARED.join("run/checkpoints/step-00000002")
}

/// A copy of that model, to be damaged.
fn copy_of_model(dir: &Path) -> PathBuf {
    let copy = dir.join("model");
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(model()).unwrap().map(|e| e.unwrap()) {
        if entry.path().is_file() {
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
    }
    copy
}

fn generate(model: &Path, more: &[&str]) -> Vec<String> {
    let mut words = words!["generate", "--max-new-tokens", "4", "--model", model.display()];
    words.extend(more.iter().map(|m| m.to_string()));
    words
}
