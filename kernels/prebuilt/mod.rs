//! The programs that this binary holds compiled. Written by `neva kernels compile --prebuilt`; do not edit.

/// Names, in their order, and archives; `device/prebuilt.rs` says what lies in one.
pub(crate) const PROGRAMS: &[(&str, &[u8])] = &[];
