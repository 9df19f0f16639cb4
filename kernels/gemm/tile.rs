//! What a micro-kernel is: it multiplies a few rows of A by one packed strip of B and holds the sums in registers.
//!
//! The driver is written against [`Tile`], so an instruction set is added by writing one `micro_*.rs` and naming
//! it in [`Accumulator::tile`].

use super::micro_portable;
use super::pack::Matrix;
use crate::dtype::{Float, Real};
use crate::simd::Path;

/// Bytes of a line of the cache.
pub const LINE: usize = 64;

/// A micro-kernel and the sizes it works in.
#[derive(Clone, Copy)]
pub struct Tile<A: 'static> {
    /// The most rows of one call.
    pub rows: usize,
    /// Columns of one register. A strip of B has a whole number of them.
    pub lanes: usize,
    /// The most columns of one call.
    pub cols: usize,
    /// The most steps of k in one block.
    pub depth: usize,
    /// The most columns of a packed block of B.
    pub width: usize,
    /// The most rows for which B is not packed, if its columns are contiguous.
    pub direct: usize,
    /// The micro-kernel.
    pub run: Run<A>,
}

impl<A> Tile<A> {
    /// Columns of the next strip if `left` are left. A single last register would do too little arithmetic per load,
    /// so the strip before it is made narrower instead.
    pub fn strip(&self, left: usize) -> usize {
        let most = self.cols / self.lanes;
        let registers = left.div_ceil(self.lanes);
        let take = if registers == most + 1 && most > 2 { most - 1 } else { most.min(registers) };
        take * self.lanes
    }
}

/// A micro-kernel.
///
/// # Safety
/// The pointers of the call are valid as its fields say, and this machine has the kernel's instructions.
pub type Run<A> = unsafe fn(&Call<A>);

/// Lines of the cache that will be read soon, as far as a micro-kernel has time to ask for them: runs of contiguous ones.
/// They need not be readable.
#[derive(Clone, Copy)]
pub struct Ahead {
    /// The next.
    pub at: *const u8,
    /// How many of this run are left.
    pub left: usize,
    /// How many a run has.
    pub run: usize,
    /// Bytes from the last line of a run to the first of the next.
    pub jump: usize,
    /// How many runs are left.
    pub runs: usize,
}

impl Ahead {
    /// Nothing but a line that is near already.
    pub fn nothing<T>(near: *const T) -> Ahead {
        Ahead { at: near.cast(), left: 0, run: 0, jump: 0, runs: 0 }
    }

    /// The next line; the last one again, if there are no more.
    #[inline(always)]
    pub fn next(&mut self) -> *const u8 {
        let at = self.at;
        let ends = self.left <= 1;
        let over = ends && self.runs <= 1;
        let step = if ends { self.jump } else { LINE };
        self.at = at.wrapping_add(if over { 0 } else { step });
        self.left = if ends { self.run } else { self.left - 1 };
        self.runs -= usize::from(ends && !over);
        at
    }
}

/// The operands of one run of a micro-kernel: `c = [c +] a b [+ bias]`.
///
/// Every element is one chain `sum = a[i, k] * b[k, j] + sum` from zero over k upwards, onto which the old c and
/// then the bias are added: the same whatever the number of rows and columns of the call.
pub struct Call<A> {
    /// Rows of this call, 1 to [`Tile::rows`].
    pub rows: usize,
    /// Columns of this call, 1 to [`Tile::cols`].
    pub cols: usize,
    /// Steps of k.
    pub depth: usize,
    /// Element (i, k) of A lies at `k * rows + i`.
    pub a: *const A,
    /// Element (k, j) of the strip lies at `k * width + j`, with as many whole registers in the width as hold the columns.
    pub b: *const A,
    /// Element (i, j) of C lies at `i * c_row + j`.
    pub c: *mut A,
    /// Distance of the rows of C.
    pub c_row: usize,
    /// Whether to add to what C holds.
    pub accumulate: bool,
    /// Added to every row; readable up to a whole number of registers.
    pub bias: Option<*const A>,
    /// What to ask for meanwhile, because it is packed next.
    pub ahead: Ahead,
}

/// A type that products are summed in: f32 or f64.
pub trait Accumulator: Float {
    /// The micro-kernel of an instruction set.
    fn tile(path: Path) -> Tile<Self>;

    /// Writes `out[k * width + j] = from[j * distance + k]` for as many of the columns j and steps k (`size` has the
    /// number of each) as fill whole blocks of registers, and returns how many those were.
    ///
    /// # Safety
    /// This machine has the instructions of `path`.
    unsafe fn transpose<T: Real<Acc = Self>>(
        path: Path,
        size: [usize; 2],
        from: &[T],
        distance: usize,
        out: &mut [Self],
        width: usize,
    ) -> [usize; 2];

    /// A run of up to `Tile::direct` rows and one register of columns, of B where it lies.
    ///
    /// # Safety
    /// As `Run` says of `call`, whose own B is not read; this machine has the instructions of `path`.
    unsafe fn direct<T: Real<Acc = Self>>(path: Path, b: Matrix<T>, call: &Call<Self>) {
        let _ = (b, call);
        unreachable!("{path:?} packs B for any number of rows");
    }
}

impl Accumulator for f64 {
    fn tile(_path: Path) -> Tile<f64> {
        micro_portable::F64
    }

    unsafe fn transpose<T: Real<Acc = f64>>(
        _path: Path,
        _size: [usize; 2],
        _from: &[T],
        _distance: usize,
        _out: &mut [f64],
        _width: usize,
    ) -> [usize; 2] {
        [0, 0]
    }
}

impl Accumulator for f32 {
    fn tile(path: Path) -> Tile<f32> {
        match path {
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 | Path::Avx512Bf16 | Path::Amx => super::micro_avx512::F32,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => super::micro_avx2::F32,
            _ => micro_portable::F32,
        }
    }

    unsafe fn transpose<T: Real<Acc = f32>>(
        path: Path,
        size: [usize; 2],
        from: &[T],
        distance: usize,
        out: &mut [f32],
        width: usize,
    ) -> [usize; 2] {
        match path {
            // SAFETY: the caller's promise.
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 | Path::Avx512Bf16 | Path::Amx => unsafe {
                super::micro_avx512::transpose(size, from, distance, out, width)
            },
            // SAFETY: the caller's promise.
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => unsafe { super::micro_avx2::transpose(size, from, distance, out, width) },
            _ => [0, 0],
        }
    }

    unsafe fn direct<T: Real<Acc = f32>>(path: Path, b: Matrix<T>, call: &Call<f32>) {
        match path {
            // SAFETY: the caller's promise.
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 | Path::Avx512Bf16 | Path::Amx => unsafe { super::micro_avx512::direct(b, call) },
            _ => unreachable!("{path:?} packs B for any number of rows"),
        }
    }
}
