//! One method per op.
