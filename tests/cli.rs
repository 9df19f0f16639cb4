//! The command line: what goes to stdout and stderr, and the exit codes.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn neva() -> Command {
    Command::new(env!("CARGO_BIN_EXE_neva"))
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = neva().args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn recipe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/neva_llama2_7b_pretrain.yaml")
}

#[test]
fn config_prints_the_resolved_yaml() {
    let recipe = recipe();
    let (code, stdout, stderr) = run(&[
        "config",
        recipe.to_str().unwrap(),
        "model.seed=7",
        "+trainer.benchmark=True",
        "trainer.max_steps=200",
    ]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("\n  seed: 7\n") && stdout.contains("\n  max_steps: 200\n"), "{stdout}");
    let warning =
        format!("warning: {}: NeMo keys without effect here: trainer.benchmark\n", recipe.display());
    assert_eq!(stderr, warning);
}

#[test]
fn an_error_is_one_line_and_exit_code_1() {
    let recipe = recipe();
    let (code, stdout, stderr) = run(&["config", recipe.to_str().unwrap(), "model.sed=7"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert_eq!(stderr, "error: command line: model.sed: unknown key; did you mean model.seed?\n");
}

#[test]
fn a_senseless_command_line_is_exit_code_2() {
    let (code, stdout, stderr) = run(&["confg"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.starts_with("error: unrecognized subcommand 'confg'\n"), "{stderr}");
    assert_eq!(run(&["config"]).0, Some(2));
    assert_eq!(run(&["--help"]).0, Some(0));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child =
        neva().arg("config").arg(recipe()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_device_that_is_not_there_is_an_error_of_every_command_that_computes() {
    let recipe = recipe();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-device");
    let train = ["train", recipe.to_str().unwrap(), "trainer.accelerator=cpu"]; // the flag has the last word
    let commands: [&[&str]; 5] = [
        &train,
        &["generate", "--model", "none", "--prompt", "?"],
        &["eval", "--model", "none", "--data", "none"],
        &["quickstart", "--out", out.to_str().unwrap()],
        &["bench", "step"],
    ];
    for command in commands {
        let (code, stdout, stderr) = run(&[command, &["--device", "gpu"]].concat());
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{command:?}");
        assert_eq!(stderr, "error: --device: expected cpu, cuda, cuda:N or auto, got \"gpu\"\n");
        let (code, _, stderr) = run(&[command, &["--device", "cuda:99"]].concat());
        let stderr = stderr.strip_prefix("error: ").unwrap_or_else(|| panic!("{command:?}: {stderr}"));
        // Without a driver, and with one.
        let named =
            ["no CUDA driver: searched ", "the CUDA driver shows no device", "open cuda:99: find the device"];
        assert!(named.iter().any(|beginning| stderr.starts_with(beginning)), "{stderr}");
        assert_eq!((code, stderr.lines().count()), (Some(1), 1), "{stderr}");
    }
    assert!(!out.exists(), "a command that cannot run leaves nothing behind");
}

#[test]
fn an_unknown_cpu_path_is_named_with_those_there_are() {
    let output = neva().args(["config", recipe().to_str().unwrap()]).env("NEVA_CPU", "mmx").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.starts_with("error: NEVA_CPU=mmx: this machine has "), "{stderr}");
    assert!(stderr.contains("portable"), "{stderr}");
}

fn json_of(arguments: &[&str]) -> serde_json::Value {
    let (code, stdout, stderr) = run(arguments);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}

/// At a size whose activations are most of it: what the formula leaves out would show.
#[cfg(target_os = "linux")]
#[test]
fn a_step_stays_within_the_memory_that_the_formula_allows() {
    for dtype in ["f32", "bf16"] {
        for train in ["llm", "projector"] {
            let line = json_of(&[
                "bench",
                "step",
                "--steps",
                "1",
                "--llm",
                "384,6,6,1024",
                "--vision",
                "128,3,2,256",
                "--vocab",
                "2000",
                "--batch",
                "8",
                "--text",
                "128",
                "--dtype",
                dtype,
                "--train",
                train,
            ]);
            let [peak, allowed] = ["peak_mib", "allowed_mib"].map(|key| line[key].as_f64().unwrap());
            assert!(peak <= allowed, "{dtype} {train}: {peak} MiB of {allowed}");
            assert!(
                line["ms_best"].as_f64().unwrap() > 0.0 && line["gflop"].as_f64().unwrap() > 1.0,
                "{line}"
            );
        }
    }
}

#[test]
fn decoding_is_timed_beside_the_rate_of_memory() {
    let line = json_of(&[
        "bench",
        "decode",
        "--llm",
        "64,2,4,96",
        "--kv",
        "2",
        "--vocab",
        "50",
        "--prompt",
        "3",
        "--tokens",
        "4",
    ]);
    // Embedding and head; qkv, output, MLP and two norms of each layer; the last norm.
    let parameters = 2 * 50 * 64 + 2 * (64 * 128 + 64 * 64 + 3 * 64 * 96 + 2 * 64) + 64;
    assert_eq!(line["parameters"], parameters);
    // All but the embedding, of which a row is read; two layers of keys and values of two heads of 16, five rows.
    let bytes = 2 * (parameters - 50 * 64 + 64) + 2 * 5 * 2 * 2 * 16 * 2;
    assert_eq!(line["mb_per_token"].as_f64().unwrap(), (bytes as f64 / 1e4).round() / 100.0);
    assert!(
        line["of_read_rate"].as_f64().unwrap() >= 0.0 && line["read_gb_per_s"].as_f64().unwrap() > 0.0,
        "{line}"
    );
}
