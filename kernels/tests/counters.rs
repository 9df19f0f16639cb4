//! What the simulator counts of kernels whose accesses can be counted by hand: sectors, bank conflicts, bytes read
//! again, instructions. The kernels and the expected counts are in `counted.cu`.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/simulated/mod.rs"]
mod simulated;

use cudarc::driver::Profiler;
use kernels::device::Kind;
use kernels::device::gpu::{Grid, KernelArg};
use kernels::device::program::Source;
use kernels::{Buffer, DType, Device, Role, Spec};
use simulated::{IN_CHILD, child, simulator, text};
use std::env;
use std::sync::LazyLock;

const COUNTED: &str = include_str!("counted.cu");

/// The kernel that is launched between the driver's calls that start and stop profilers.
const PROFILED: &str = "far_apart";

/// Every kernel of `counted.cu`.
fn names() -> Vec<&'static str> {
    COUNTED
        .match_indices("KERNEL(1024, ")
        .map(|(i, m)| COUNTED[i + m.len()..].split(',').next().unwrap())
        .collect()
}

/// Runs all kernels in a child; the table it prints, as lines of words. None where there is no compiler.
fn table(settings: &str) -> Option<Vec<Vec<String>>> {
    if env::var_os(IN_CHILD).is_some() {
        let device = Device::gpu(0).unwrap();
        let Kind::Gpu(gpu) = device.kind() else { unreachable!("opened as a GPU") };
        let mut out = Buffer::zeros(&device, Spec::new(DType::U32, [4096]), Role::Workspace).unwrap();
        let input = Buffer::zeros(&device, Spec::new(DType::U32, [4096]), Role::Workspace).unwrap();
        let source = Source::new("counted.cu", COUNTED);
        for name in names() {
            let grid = if name == "many_warps" { Grid::linear(2, 64) } else { Grid::linear(1, 32) };
            let args = [KernelArg::write(&mut out), KernelArg::read(&input)];
            let _profiler = (name == PROFILED).then(|| Profiler::new().unwrap());
            // SAFETY: each kernel takes the addresses of 4096 values.
            unsafe { gpu.launch("counted", &source, name, grid, &args) }.unwrap();
        }
        gpu.synchronize("counted").unwrap();
        return None;
    }
    let output = child(&[("NEVA_SIM", settings)], Some(simulator()?));
    assert!(output.status.success(), "{}\n{}", output.status, text(&output));
    let text = text(&output);
    let lines = text.lines().filter(|l| l.starts_with("count "));
    Some(lines.map(|l| l.split(' ').map(String::from).collect()).collect())
}

/// The table with lanes in one order, for the tests that look at parts of it.
fn counts() -> Option<&'static Vec<Vec<String>>> {
    static TABLE: LazyLock<Option<Vec<Vec<String>>>> = LazyLock::new(|| table("count=1"));
    TABLE.as_ref()
}

/// Whether some line of the table has all of these words, and how often.
fn found(table: &[Vec<String>], words: &[&str]) -> usize {
    table.iter().filter(|line| words.iter().all(|w| line.iter().any(|l| l == w))).count()
}

/// Kernel, place, and expected words, of every line of `counted.cu` that says what is counted of it.
fn expected() -> Vec<(String, String, Vec<&'static str>)> {
    let mut kernel = "";
    let mut all = vec![];
    for (i, line) in COUNTED.lines().enumerate() {
        if let Some((_, rest)) = line.split_once("KERNEL(1024, ") {
            kernel = rest.split(',').next().unwrap();
        }
        let Some((_, counts)) = line.split_once(";  // ") else { continue };
        let place = format!("place=counted.cu:{}", i + 1);
        all.push((format!("kernel={kernel}"), place, counts.split(' ').collect()));
    }
    all
}

#[test]
fn every_line_counts_what_it_says() {
    let Some(table) = counts() else { return };
    let expected = expected();
    assert_eq!(expected.len(), 34);
    for (kernel, place, words) in &expected {
        let line: Vec<&str> =
            [kernel.as_str(), place.as_str()].into_iter().chain(words.iter().copied()).collect();
        let of_kernel: Vec<String> =
            table.iter().filter(|l| l.contains(kernel)).map(|l| l.join(" ")).collect();
        assert_eq!(found(table, &line), 1, "{line:?} in\n{}", of_kernel.join("\n"));
    }
}

#[test]
fn bytes_read_again_are_told_from_bytes_read_once() {
    let Some(table) = counts() else { return };
    let buffer = |kernel: &str, words: &[&str]| {
        let kernel = format!("kernel={kernel}");
        let words: Vec<&str> = [kernel.as_str()].into_iter().chain(words.iter().copied()).collect();
        assert_eq!(found(table, &words), 1, "{words:?}");
    };
    buffer("read_twice", &["buffer=in", "read=256", "read_least=128", "written=0", "written_least=0"]);
    buffer("read_twice", &["buffer=out", "read=0", "read_least=0", "written=128", "written_least=128"]);
    buffer("all_the_same", &["buffer=in", "read=4", "read_least=4"]);
    buffer("rounds", &["buffer=in", "read=960", "read_least=960"]);
    buffer("many_warps", &["buffer=in", "read=2048", "read_least=2048"]);
    buffer("many_warps", &["launches=1", "blocks=2"]);
}

#[test]
fn a_range_is_what_lies_between_start_and_stop_of_the_profiler() {
    let Some(all) = counts() else { return };
    let kernel = format!("kernel={PROFILED}");
    let expected: Vec<_> = all.iter().filter(|line| line.contains(&kernel)).cloned().collect();
    assert!(expected.len() > 1 && expected.len() < all.len());
    assert_eq!(table("count=range").unwrap(), expected);
}

#[test]
fn counts_do_not_depend_on_the_schedule() {
    let Some(one) = table("count=1") else { return };
    for settings in
        ["count=1,schedule=highest,early", "schedule=random:3,count=1", "count=1,check=race+bounds"]
    {
        assert_eq!(one, table(settings).unwrap(), "{settings}");
    }
}
