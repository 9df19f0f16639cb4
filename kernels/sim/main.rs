//! Runs a command on the simulated GPU.
fn main() {}
