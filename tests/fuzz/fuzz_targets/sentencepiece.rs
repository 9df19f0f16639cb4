//! The fuzzer's way into the target `sentencepiece`.
#![no_main]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::fuzz("sentencepiece", data));
