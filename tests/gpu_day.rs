//! `benches/gpu_day.sh` from end to end on the simulated GPU, in a copy of what would travel to a machine with a card: the
//! benches and a stripped binary. What such a machine may have besides (a profiler, a driver's tools, PyTorch) is absent or
//! played by a script, so that both ways through each step are taken.
#![allow(clippy::unwrap_used)]

mod simulated;

use kernel_sim::Simulator;
use simulated::{simulator, text};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

/// What no step may call.
const CARGO: &str = "#!/bin/sh\necho \"cargo $*\" >>\"$CALLS\"\nexit 1\n";

/// A Python that has no PyTorch.
const PYTHON: &str = "#!/bin/sh\ncase \"$*\" in *'import torch'*) exit 1 ;; esac\nexec python3 \"$@\"\n";

/// A profiler that runs the command behind its options, the first argument that is a path.
const NCU: &str =
    "#!/bin/sh\necho \"ncu $*\" >>\"$CALLS\"\nwhile [ \"${1#/}\" = \"$1\" ]; do shift; done\nexec \"$@\"\n";

/// A sanitizer that finds something in cross_entropy.
const SANITIZER: &str = "#!/bin/sh\ncase \"$*\" in *'check cross_entropy'*) echo 'ERROR SUMMARY: 1 error'; exit 9 ;; esac\nexit 0\n";

/// A copy of the tree, with these programs in front of the system's.
struct Day {
    tree: PathBuf,
    simulator: &'static Simulator,
}

impl Day {
    fn new(name: &str, programs: &[(&str, &str)]) -> Option<Self> {
        let simulator = simulator()?;
        let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&tree);
        for dir in ["benches/peers", "data", "programs"] {
            fs::create_dir_all(tree.join(dir)).unwrap();
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for file in ["gpu_day.sh", "peers/ratios.py", "peers/torch_kernels.py", "peers/train_step.py"] {
            fs::copy(root.join("benches").join(file), tree.join("benches").join(file)).unwrap();
        }
        let strip = Command::new("strip")
            .arg("-o")
            .args([&tree.join("data/neva"), Path::new(env!("CARGO_BIN_EXE_neva"))])
            .status()
            .unwrap();
        assert!(strip.success());
        for (name, script) in [("cargo", CARGO), ("python", PYTHON)].iter().chain(programs) {
            let path = tree.join("programs").join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Some(Day { tree, simulator })
    }

    fn run(&self, part: &str, environment: &[(&str, &str)]) -> Output {
        let path = format!("{}:{}", self.tree.join("programs").display(), env::var("PATH").unwrap());
        Command::new("bash")
            .arg(self.tree.join("benches/gpu_day.sh"))
            .arg(part)
            .env_remove("NEVA_KERNEL_DIR")
            .envs(self.simulator.environment())
            .env("PATH", path)
            .envs([("SMOKE", "1"), ("PYTHON", "python"), ("COMMIT", "abc123"), ("SECONDS_A_PART", "3600")])
            .env("CALLS", self.calls())
            .envs(environment.iter().copied())
            .output()
            .unwrap()
    }

    fn calls(&self) -> PathBuf {
        self.tree.join("calls")
    }

    fn result(&self, name: &str) -> String {
        let path = self.tree.join("data/gpu_day").join(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The verdict on a step, from the summary's table.
    fn verdict(&self, step: &str) -> String {
        let summary = self.result("summary.md");
        let start = format!("| {step} | ");
        let line = summary.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{step} has no verdict in {summary}"))
            .split(" | ")
            .next()
            .unwrap()
            .into()
    }
}

#[test]
fn a_day_with_a_card_runs_from_a_bare_copy_and_says_what_is_missing() {
    let Some(day) = Day::new("gpu-day-bare", &[]) else { return };
    let steps = [("STEPS", "facts card binary check sanitize bench torch ratios step profile")];
    let output = day.run("all", &[&steps[..], &[("OPS", "scale rms_norm")]].concat());
    assert!(output.status.success(), "{}", text(&output));
    for step in [
        "facts",
        "binary",
        "check conformance",
        "check scale",
        "check rms_norm",
        "bench",
        "bench any order",
        "ratios",
    ] {
        assert_eq!(day.verdict(step), "ok", "{step}");
    }
    assert_eq!((day.verdict("step llm"), day.verdict("step projector")), ("ok".into(), "ok".into()));
    for (step, missing) in [
        ("sanitize racecheck", "compute-sanitizer"),
        ("torch", "PyTorch"),
        ("step llm, transformers", "PyTorch with transformers"),
        ("profile", "ncu"),
    ] {
        assert_eq!(day.verdict(step), format!("not there: {missing}"), "{step}");
    }
    let summary = day.result("summary.md");
    assert!(summary.contains("- commit: abc123\n"), "{summary}");
    assert!(
        summary.contains("| attention forward | sdpa flash | 1.05 | | | 0 | not measured |"),
        "{summary}"
    );
    assert!(summary.contains("| AdamW | copy | 0.95 | "), "{summary}");
    assert!(day.result("step-llm.json").contains("\"tokens_per_s_best\""));
    assert!(day.tree.join("data/gpu_day/logs.tar.gz").is_file());
    assert!(!day.calls().exists(), "{}", fs::read_to_string(day.calls()).unwrap());
}

#[test]
fn a_day_goes_on_after_what_fails_and_does_not_pass() {
    let programs = [("ncu", NCU), ("compute-sanitizer", SANITIZER)];
    let Some(day) = Day::new("gpu-day-failures", &programs) else { return };
    let some = [("OPS", "scale cross_entropy"), ("STEPS", "check sanitize")];
    let output = day.run("check", &[&some[..], &[("NEVA_SIM_FAULT", "launch:3")]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let failed = day.verdict("check scale");
    assert!(failed.starts_with("**failed** (1): "), "{failed}");
    assert_eq!(day.verdict("sanitize memcheck scale"), "ok");
    let failed = day.verdict("sanitize memcheck cross_entropy");
    assert_eq!(failed, "**failed** (9): ERROR SUMMARY: 1 error");

    // The profiler sees one launch of each, by names that the catalogue has.
    let output = day.run("bench", &[("STEPS", "profile")]);
    assert!(output.status.success(), "{}", text(&output));
    let calls = fs::read_to_string(day.calls()).unwrap();
    assert_eq!(calls.lines().filter(|call| call.starts_with("ncu ")).count(), 8, "{calls}");
    assert!(calls.contains("--profile-from-start off"), "{calls}");

    // A step that does not end, and one that there is no time for.
    fs::write(day.tree.join("data/neva"), "#!/bin/sh\nsleep 60\n").unwrap();
    let output = day.run("bench", &[("STEPS", "bench step"), ("SECONDS_A_PART", "2")]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(day.verdict("bench").starts_with("**timed out** after "), "{}", day.verdict("bench"));
    assert_eq!(day.verdict("step llm"), "not reached: no time left");
    let output = day.run("neither", &[]);
    assert_eq!((output.status.code(), text(&output).contains("benches/gpu_day.sh check")), (Some(2), true));
}

#[test]
fn goals_are_reached_or_missed_by_the_mean_over_their_cases() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ratios");
    fs::create_dir_all(&dir).unwrap();
    let row = |op: &str, pass: &str, case: &str, ms: f64, bytes: u64| {
        serde_json::json!({"op": op, "parameters": "", "case": case, "dtype": "bf16", "pass": pass,
            "ms": ms, "spread": 0.01, "flops": 1, "bytes": bytes, "floor_ms": ms / 2.0})
    };
    // 1e6 bytes in 1 ms are as fast as the small copy, and half as fast as the large one.
    let ours = serde_json::json!({"device": "made", "runs": 1, "copy_bytes_per_s": 2e9, "bf16_flops_per_s": 1e12,
    "copies": [[1_000_000, 1e9], [1_000_000_000, 2e9]],
    "rows": [
        row("attention", "forward", "short", 1.0, 1000),
        row("attention", "forward", "long", 4.0, 1000),
        row("attention", "backward", "causal", 1.0, 1000),
        row("rms_norm", "forward", "a", 1.0, 1_000_000),
        row("rms_norm", "backward", "a", 2.0, 1_000_000),
        row("adamw", "forward", "a", 1.0, 30_000_000),
    ]});
    let peer = |of: usize, name: &str, ms: f64, bytes: u64| {
        let key = &ours["rows"][of];
        serde_json::json!({"op": key["op"], "case": key["case"], "dtype": key["dtype"], "pass": key["pass"],
            "peer": name, "ms": ms, "bytes": bytes})
    };
    let torch = serde_json::json!({"torch": "made", "device": "made", "copy_bytes_per_s": 2e9, "bf16_flops_per_s": 1e12,
    "rows": [
        peer(0, "sdpa flash", 2.0, 1000),
        peer(1, "sdpa flash", 3.0, 1000),
        peer(2, "sdpa flash", 0.95, 1000),
        peer(5, "fused f32", 1.0, 28_000_000),
    ]});
    let free = serde_json::json!({"rows": [row("attention", "backward", "causal", 1.0, 1000)]});
    for (name, value) in [("ours.json", &ours), ("torch.json", &torch), ("free.json", &free)] {
        fs::write(dir.join(name), value.to_string()).unwrap();
    }
    let ratios = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/ratios.py");
    let output = Command::new("python3")
        .arg(ratios)
        .args(["ours.json", "torch.json", "--any-order", "free.json"])
        .current_dir(&dir)
        .output()
        .unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    for line in [
        "| attention forward | sdpa flash | 1.05 | 1.22 | 0.75 (long) | 2 | reached |",
        "| attention forward, to cuDNN | sdpa cudnn | 1.00 | | | 0 | not measured |",
        "| attention backward, deterministic | sdpa flash | 0.90 | 0.95 | 0.95 (causal) | 1 | reached |",
        "| attention backward, any order | sdpa flash | 1.05 | 0.95 | 0.95 (causal) | 1 | missed |",
        "| norms and activations forward | copy | 0.95 | 1.00 | 1.00 (a) | 1 | reached |",
        "| norms backward | copy | 0.85 | 0.50 | 0.50 (a) | 1 | missed |",
        "| AdamW, to fused AdamW | fused f32 | 1.00 | 1.07 | 1.07 (a) | 1 | reached |",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}
