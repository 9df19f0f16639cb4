//! The command line of NeVA: argument parsing only.
#![forbid(unsafe_code)]

fn main() {}
