//! In place of `bf16` on machines for which no instructions on pairs of bf16 are written: products are widened.

use super::cpu::{Grain, Product};
use super::pack::Scratch;
use crate::dtype::Real;
use crate::simd::Path;
use std::convert::Infallible;
use std::ops::Range;

/// There is none.
pub struct Pairs(Infallible);

impl Pairs {
    /// None.
    pub fn of<T: Real>(_path: Path, _product: &Product<T>) -> Option<Pairs> {
        None
    }

    /// Not called.
    pub fn grain(&self) -> Grain {
        match self.0 {}
    }

    /// # Safety
    /// None: it is not called.
    pub unsafe fn run<C: Real>(
        &self,
        _batch: usize,
        _part: (&Range<usize>, &Range<usize>),
        _c: *mut C,
        _scratch: &mut Scratch,
    ) {
        match self.0 {}
    }
}
