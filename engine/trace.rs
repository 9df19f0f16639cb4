//! Sums over a recorded trace.

use kernels::device::Event;
use std::collections::BTreeMap;
use std::time::Duration;

/// One line of a summary.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Op and pass, or a part of the model.
    pub key: String,
    /// How many runs.
    pub runs: usize,
    /// Their time.
    pub time: Duration,
    /// Their floating-point operations.
    pub flops: u64,
    /// Their compulsory bytes.
    pub bytes: u64,
}

/// Sums `events` by `key`, the longest first.
///
/// ```
/// # let device = engine::Device::cpu();
/// device.start_trace();
/// // ... a training step ...
/// let rows = engine::summarize(&device.take_trace()?, |e| e.op.to_string());
/// # assert!(rows.is_empty());
/// # Ok::<(), engine::Error>(())
/// ```
pub fn summarize(events: &[Event], key: impl Fn(&Event) -> String) -> Vec<Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for event in events {
        let key = key(event);
        let row =
            rows.entry(key.clone()).or_insert(Row { key, runs: 0, time: Duration::ZERO, flops: 0, bytes: 0 });
        row.runs += 1;
        row.time += event.time;
        row.flops += event.flops;
        row.bytes += event.bytes;
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.time));
    rows
}
