//! The fuzzer's way into the target `trainer_state`.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::fuzz("trainer_state", data));
