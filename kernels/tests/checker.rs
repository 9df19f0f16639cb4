//! The checker finds planted races and accesses out of bounds, whatever the schedule, and says nothing about sound
//! kernels that come close. Each kernel is in `planted.cu`, whose comments mark the lines that a report has to name.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/simulated/mod.rs"]
mod simulated;

use kernels::device::Kind;
use kernels::device::gpu::{Grid, KernelArg};
use kernels::device::program::Source;
use kernels::{Buffer, DType, Device, Result, Role, Spec};
use simulated::{IN_CHILD, child, simulator, text};
use std::env;

const PLANTED: &str = include_str!("planted.cu");
/// In the child: the kernels and numbers of threads to launch, as `kernel:threads`, with spaces between.
const LAUNCHES: &str = "NEVA_TEST_LAUNCHES";

/// Launches a planted kernel as two blocks on two buffers of two values per thread. Both halves of `in` begin with 0.
fn launch(kernel: &str, threads: u32) -> Result<()> {
    let device = Device::gpu(0)?;
    let Kind::Gpu(gpu) = device.kind() else { unreachable!("opened as a GPU") };
    let values: Vec<u32> = (0..2 * threads).map(|i| i % threads / 3).collect();
    let mut out = Buffer::zeros(&device, Spec::new(DType::U32, [values.len()]), Role::Workspace)?;
    let input = Buffer::from_slice(&device, [values.len()], &values, Role::Workspace)?;
    let source = Source::new("planted.cu", PLANTED);
    let args = [KernelArg::write(&mut out), KernelArg::read(&input)];
    let grid = Grid { blocks: [2, 1, 1], threads, shared_bytes: 4 * threads };
    // SAFETY: each kernel takes the addresses of two values per thread. What goes beyond is stopped by the checker.
    unsafe { gpu.launch("planted", &source, kernel, grid, &args) }?;
    out.to_vec::<u32>().map(|_| ())
}

/// What the simulator says to these launches, in order, in one process; None where there is no compiler. In the child
/// it launches, and does not return.
fn launches(settings: &str, list: &str) -> Option<String> {
    if env::var_os(IN_CHILD).is_some() {
        for one in env::var(LAUNCHES).unwrap().split(' ') {
            let (kernel, threads) = one.split_once(':').unwrap();
            match launch(kernel, threads.parse().unwrap()) {
                Ok(()) => println!("{one} passed"),
                Err(e) => println!("{one} failed: {e}"),
            }
        }
        std::process::exit(0);
    }
    let output = child(&[("NEVA_SIM", settings), (LAUNCHES, list)], Some(simulator()?));
    assert!(output.status.success(), "{settings}, {list}: {}\n{}", output.status, text(&output));
    Some(text(&output))
}

/// The lines of a kernel in `planted.cu` whose comment begins with one of `marks`.
fn marked(kernel: &str, marks: &[&str]) -> Vec<String> {
    let mut lines = PLANTED.lines().enumerate().skip_while(|(_, l)| !l.contains(&format!(", {kernel}, ")));
    let body = lines.by_ref().take_while(|(_, l)| *l != "}");
    let places: Vec<String> = body
        .filter(|(_, l)| l.split_once("// ").is_some_and(|(_, c)| marks.iter().any(|m| c.starts_with(m))))
        .map(|(i, _)| format!("planted.cu:{}", i + 1))
        .collect();
    assert!(!places.is_empty(), "no line of {kernel} is marked");
    places
}

/// The launch fails, and the report has all of `words` and the marked lines, under several schedules.
fn found(kernel: &str, threads: &[u32], marks: &[&str], words: &[&str]) {
    for threads in threads {
        for schedule in ["schedule=lowest", "schedule=highest,early", "schedule=random:5"] {
            let one = format!("{kernel}:{threads}");
            let Some(said) = launches(&format!("{schedule},check=race+bounds"), &one) else { return };
            assert!(
                said.contains(&format!("{one} failed: download: CUDA driver: unspecified launch failure")),
                "{said}"
            );
            for word in words.iter().copied().chain(marked(kernel, marks).iter().map(String::as_str)) {
                assert!(said.contains(word), "{one}, {schedule}: no {word:?} in\n{said}");
            }
        }
    }
}

const ALL: &[u32] = &[32, 128, 1024];

#[test]
fn a_missing_syncthreads() {
    found(
        "missing_syncthreads",
        ALL,
        &["written", "read"],
        &["race", "shared array `slots`", "nothing orders"],
    );
    found("missing_second_syncthreads", ALL, &["written", "read"], &["race", "shared array `slots`"]);
}

#[test]
fn a_missing_syncwarp() {
    found("missing_syncwarp", ALL, &["written", "read"], &["race", "shared array `slots`"]);
    found("half_syncwarp", ALL, &["written", "read"], &["race", "shared array `slots`"]);
}

#[test]
fn a_copy_that_nobody_waited_for() {
    found(
        "copy_without_wait",
        ALL,
        &["copied", "read"],
        &["race", "the copy was not waited for", "copy by thread"],
    );
    found("copy_of_the_wrong_group", ALL, &["copied", "read"], &["race", "the copy was not waited for"]);
    found("copy_without_barrier", ALL, &["copied", "read"], &["race", "shared array `tile`"]);
    found("copy_into_a_stage_in_use", ALL, &["written", "read"], &["race", "shared array `tile`"]);
}

#[test]
fn a_race_between_blocks() {
    found("between_blocks", ALL, &["both"], &["race", "`out`", "of block (", "nothing orders"]);
    found("block_reads_block", ALL, &["written", "read"], &["race", "`out`", "of block ("]);
    found("last_block_without_fence", ALL, &["written", "read"], &["race", "`out`", "of block ("]);
}

#[test]
fn a_turn_that_is_not_handed_over() {
    let words: &[&str] = &["race", "`out`", "of block (", "nothing orders"];
    found("turn_without_release", ALL, &["both"], words);
    found("turn_released_too_early", ALL, &["both"], words);
    found("turn_awaited_by_one", ALL, &["both"], words);
    found("turn_of_a_later_block", ALL, &["waits"], &["deadlock", "waits in a loop for a word of memory"]);
}

#[test]
fn a_race_within_a_word() {
    found("overlapping_writes", ALL, &["written"], &["race", "`out`"]);
    found("atomic_against_plain", ALL, &["updated", "written"], &["race", "`out`"]);
}

#[test]
fn an_arrival_that_does_not_wait() {
    found("arrival_is_no_wait", &[64, 128, 1024], &["written", "read"], &["race", "shared array `slots`"]);
}

#[test]
fn an_access_beyond_a_buffer() {
    let bounds: &[&str] = &["out of bounds"];
    found(
        "read_past_the_end",
        ALL,
        bounds,
        &["reads 4 bytes out of bounds", "0 bytes past the end of `in`, a buffer of"],
    );
    found(
        "write_past_the_end",
        ALL,
        bounds,
        &["writes 4 bytes out of bounds", "past the end of `out`, a buffer of"],
    );
    found("read_before_the_start", ALL, bounds, &["reads 4 bytes out of bounds", "before the start of `in`"]);
    found("write_before_the_start", ALL, bounds, &["writes 4 bytes", "4 bytes before the start of `out`"]);
    found("wide_read_past_the_end", ALL, bounds, &["out of bounds", "past the end of `in`"]);
    found("write_into_the_neighbour", ALL, bounds, &["writes 4 bytes out of bounds"]);
    found("copy_past_the_end", ALL, bounds, &["reads 16 bytes out of bounds", "past the end of `in`"]);
}

#[test]
fn an_access_beyond_shared_memory() {
    let bounds: &[&str] = &["out of bounds"];
    found(
        "static_shared_overrun",
        ALL,
        bounds,
        &["0 bytes past the end of shared array `first` (128 bytes)"],
    );
    found("dynamic_shared_overrun", ALL, bounds, &["0 bytes past the end of dynamic shared memory ("]);
}

#[test]
fn a_misaligned_access() {
    let words = ["reads 16 bytes at an address that is no multiple of that", "byte 4 of `in`"];
    found("misaligned", ALL, &["misaligned"], &words);
    found(
        "copy_of_misaligned",
        ALL,
        &["misaligned"],
        &["at an address that is no multiple of that", "of `in`"],
    );
}

#[test]
fn sound_kernels_pass_without_a_word() {
    let sound: Vec<&str> = PLANTED.match_indices(", sound_").map(|(i, _)| &PLANTED[i + 2..]).collect();
    let names = sound.iter().map(|rest| rest.split(',').next().unwrap());
    let list: Vec<String> = names.flat_map(|name| ALL.iter().map(move |t| format!("{name}:{t}"))).collect();
    assert_eq!(list.len(), 11 * ALL.len());
    for schedule in ["schedule=lowest", "schedule=highest,early", "schedule=round", "schedule=random:7"] {
        let Some(said) = launches(&format!("{schedule},check=race+bounds+proxy"), &list.join(" ")) else {
            return;
        };
        assert!(!said.contains("simulated GPU"), "{said}");
        for one in &list {
            assert!(said.contains(&format!("{one} passed")), "{one}:\n{said}");
        }
    }
}

#[test]
fn each_check_is_made_if_asked_for() {
    let said = |settings: &str, one: &str| launches(settings, one);
    let Some(text) = said("check=race", "read_past_the_end:32") else { return };
    assert!(text.contains("passed"), "{text}");
    let text = said("check=bounds", "missing_syncthreads:32").unwrap();
    assert!(text.contains("passed"), "{text}");
    let text = said("late", "missing_syncthreads:32").unwrap();
    assert!(text.contains("passed"), "{text}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for wrong in
        ["check=", "check=races", "check=race+race", "check=proxy", "check=bounds+proxy", "count=2", "count"]
    {
        let Some(said) = launches(wrong, "sound_reduction:32") else { return };
        assert!(said.contains("NEVA_SIM: ") && said.contains("expected "), "{wrong}: {said}");
        assert!(said.contains("sound_reduction:32 failed"), "{wrong}: {said}");
    }
}
