//! What kernels move: the simulator counts every byte they read and write, and each row has to be read once and written
//! once. What all blocks share and keep in the second-level cache (weights, statistics, tables) is left out.
#![allow(clippy::unwrap_used)]

mod simulated;

use simulated::{simulator, text};
use std::collections::HashMap;
use std::process::Command;

/// Bytes that a kernel read and wrote of one buffer, and the least it could have.
#[derive(Debug, PartialEq)]
struct Moved {
    read: u64,
    read_least: u64,
    written: u64,
    written_least: u64,
}

/// What each buffer of `kernel` saw when one pass of a case ran in bf16, by the argument's name.
fn moved(op: &str, case: &str, pass: &str, kernel: &str) -> Option<HashMap<String, Moved>> {
    let simulator = simulator()?;
    let output = Command::new(env!("CARGO_BIN_EXE_neva"))
        .args(["kernels", "profile", op, "--case", case, "--pass", pass, "--device", "cuda"])
        .env_remove("NEVA_KERNEL_DIR")
        .envs(simulator.environment())
        .env("NEVA_SIM", "count=1")
        .output()
        .unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{op} {case}: {text}");
    let mut buffers = HashMap::new();
    for line in text.lines() {
        let fields: HashMap<&str, &str> = line.split(' ').filter_map(|f| f.split_once('=')).collect();
        let Some(buffer) = fields.get("buffer").filter(|_| fields.get("kernel") == Some(&kernel)) else {
            continue;
        };
        let number = |name: &str| fields[name].parse().unwrap();
        let moved = Moved {
            read: number("read"),
            read_least: number("read_least"),
            written: number("written"),
            written_least: number("written_least"),
        };
        buffers.insert(buffer.to_string(), moved);
    }
    assert!(!buffers.is_empty(), "{kernel} did not run for {op} {case}: {text}");
    Some(buffers)
}

/// One kernel: the op, its case and pass, the kernel, the elements of a tensor of rows, the bytes that have to move for
/// each, and what is left out.
type Row = (&'static str, &'static str, &'static str, &'static str, u64, u64, &'static [&'static str]);

const KERNELS: [Row; 9] = [
    ("rms_norm", "several vectors per", "forward", "rms_norm_fwd_bf16", 19 * 2560, 4, &["w", "rstd"]),
    (
        "rms_norm",
        "several vectors per",
        "backward",
        "rms_norm_bwd_bf16",
        19 * 2560,
        6,
        &["w", "rstd", "partial"],
    ),
    ("add_rms_norm", "several vectors per", "forward", "add_rms_norm_fwd_bf16", 19 * 2560, 8, &["w", "rstd"]),
    (
        "add_rms_norm",
        "several vectors per",
        "backward",
        "add_rms_norm_bwd_bf16",
        19 * 2560,
        8,
        &["w", "rstd", "partial"],
    ),
    ("gated", "one long row", "forward", "gated_fwd_bf16", 40_001, 6, &[]),
    ("gated", "one long row", "backward", "gated_bwd_bf16", 40_001, 10, &[]),
    // 6 of 8 heads, 12 of 24 columns of each, are rotated.
    ("rope", "577 rows", "forward", "rope_fwd_bf16", 577 * 6 * 12, 4, &["table"]),
    ("rope", "577 rows", "backward", "rope_bwd_bf16", 577 * 6 * 12, 4, &["table"]),
    // Gradients are in f32: 30 bytes where PyTorch's own, with everything in f32, moves 28.
    ("adamw", "several tasks", "forward", "adamw_fwd_bf16", 50_003, 30, &["hyper", "squares", "table"]),
];

#[test]
fn rows_are_read_once_and_written_once() {
    for (op, case, pass, kernel, elements, bytes, left_out) in KERNELS {
        let Some(buffers) = moved(op, case, pass, kernel) else { return };
        let mut total = 0;
        for (name, m) in &buffers {
            // One buffer that two arguments name is called by both.
            if name.split('=').all(|n| left_out.contains(&n)) {
                continue;
            }
            assert_eq!((m.read, m.written), (m.read_least, m.written_least), "{kernel}: {name}");
            total += m.read + m.written;
        }
        assert_eq!(total, elements * bytes, "{kernel}: {buffers:?}");
    }
}

/// Attention reads q, out and dout once each, and writes each result once; k and v come once for every tile of queries.
#[test]
fn attention_reads_keys_once_per_tile_of_queries() {
    const ROW: u64 = 131 * 128 * 2; // bytes of q, of k or of v: 131 tokens, one head of 128
    let case = "head_dim 128, full";
    let Some(forward) = moved("attention", case, "forward", "attention_fwd_bf16") else { return };
    let (qkv, out) = (&forward["qkv"], &forward["out"]);
    assert_eq!((qkv.read_least, out.written, out.written_least, out.read), (3 * ROW, ROW, ROW, 0));
    // 131 queries are two tiles of 128.
    assert_eq!(qkv.read, ROW + 2 * 2 * ROW);
    let kernel = |name: &str| moved("attention", case, "backward", name).unwrap();
    let rows = kernel("attention_bwd_rows_bf16");
    assert_eq!((rows["dout"].read, rows["out"].read), (ROW, ROW));
    // Two tiles of 128 keys go over three of 64 queries each: q and dout twice, k and v once. The sums of dq are in f32, of
    // nine groups of 16 rows: the first tile of keys writes them, the second one adds.
    let sums = 9 * 16 * 128 * 4;
    let (scores, queries) = (kernel("attention_bwd_kv_bf16"), kernel("attention_bwd_q_bf16"));
    let (qkv, dqkv, dq) = (&scores["qkv"], &scores["dqkv"], &scores["dq"]);
    assert_eq!((qkv.read, scores["dout"].read), (2 * ROW + 2 * ROW, 2 * ROW));
    assert_eq!((dqkv.written, dq.read, dq.written, dq.written_least), (2 * ROW, 0, 2 * sums, sums));
    assert_eq!((queries["dq"].read, queries["dqkv"].written), (sums, ROW));
}
