//! Matrix products by cuBLASLt: which algorithm computes which product, and the call.
//!
//! The library knows many algorithms for a product and a guess at the best few. These are measured when such a product
//! first comes, each into scratch memory, never into the result, and the fastest is kept: in memory, and in the cache
//! (`cache.rs`) so that a run that is resumed adds in the same order and gets the same bits. Sizes are rounded up to an
//! eighth of their magnitude for that, because a batch of packed sequences has another number of rows each time. What
//! is kept is the library's own 64 bytes, which it documents as good for the same version; the index in its list of
//! guesses could change with its state. A kept algorithm that the library refuses for the sizes it was chosen for is
//! from a damaged file and is chosen anew; sizes that it is not good for get one of their own.
//!
//! Sums of partial results (split K) are taken in f32 or not at all: the other schemes would round them to the type of
//! the result in between.

use super::event::Mark;
use super::gpu::{Gpu, driver_error};
use super::{cache, libraries};
use crate::{DType, Error, Result};
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Scratch memory of a product: what NVIDIA advises for Hopper. It is one block for the life of the device.
const WORKSPACE_BYTES: usize = 32 << 20;

/// How many of the library's guesses are measured.
const CANDIDATES: usize = 8;

/// Runs of each candidate: the first loads its code, the fastest of the others counts.
const RUNS: usize = 3;

/// The largest alignment that an algorithm asks for.
const ALIGNED: u64 = 16;

/// A product in the library's terms, d = [d +] op(a) op(b) [+ bias], all matrices dense and stored by columns: op(a)
/// is m x k, op(b) k x n, d m x n, and bias has m values, one per row of d.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByColumns {
    /// Whether a and b are stored transposed: k x m and n x k.
    pub transposed: [bool; 2],
    /// m, n and k; none is 0.
    pub sizes: [usize; 3],
    /// Products, each behind the one before; all share the bias.
    pub batch: usize,
    /// Type of a and b: f32 or bf16.
    pub factors: DType,
    /// Type of d and bias: that of a and b, or f32.
    pub result: DType,
    /// Whether there is a bias.
    pub bias: bool,
    /// Whether to add to what d holds.
    pub accumulate: bool,
}

impl ByColumns {
    /// Rows and columns of a, b and d as stored.
    fn stored(&self) -> [[usize; 2]; 3] {
        let [m, n, k] = self.sizes;
        let turned = |t: bool, [rows, columns]: [usize; 2]| if t { [columns, rows] } else { [rows, columns] };
        [turned(self.transposed[0], [m, k]), turned(self.transposed[1], [k, n]), [m, n]]
    }

    fn types(&self) -> [DType; 3] {
        [self.factors, self.factors, self.result]
    }

    /// Bytes that every column of a, b and d starts at a multiple of, up to [`ALIGNED`].
    fn alignments(&self, addresses: [u64; 3]) -> [u32; 3] {
        let (stored, types) = (self.stored(), self.types());
        std::array::from_fn(|i| {
            let column = (stored[i][0] * types[i].size()) as u64;
            1 << (addresses[i] | column | ALIGNED).trailing_zeros()
        })
    }

    /// The product whose algorithm this one takes: sizes rounded up to an eighth of their magnitude.
    fn rounded(&self) -> Self {
        let round = |n: usize| n.next_multiple_of((n.next_power_of_two() / 8).max(1));
        ByColumns { sizes: self.sizes.map(round), batch: round(self.batch), ..*self }
    }
}

impl fmt::Display for ByColumns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([m, n, k], letter) = (self.sizes, |t| if t { "T" } else { "N" });
        let [a, b] = self.transposed.map(letter);
        write!(f, "{a}{b} by columns, {m} x {n} x {k} of {} into {}", self.factors, self.result)?;
        write!(f, ", {} of them", self.batch)?;
        f.write_str(if self.bias { ", bias" } else { "" })?;
        f.write_str(if self.accumulate { ", added" } else { "" })
    }
}

/// What algorithms are kept by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    product: ByColumns,
    /// What a, b and d are aligned to.
    alignments: [u32; 3],
    /// Whether it is for these sizes alone, because they do not take the algorithm of their neighbours.
    alone: bool,
}

/// An algorithm, and the sizes it was chosen for.
struct Kept {
    algorithm: sys::cublasLtMatmulAlgo_t,
    sizes: [usize; 3],
    batch: usize,
}

/// The library on one device.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    /// All that a choice depends on beside the product: device, library, arithmetic.
    setting: String,
    folder: Option<PathBuf>,
    kept: HashMap<Key, Kept>,
}

// SAFETY: the handle may be used from any thread on which the device's context is current.
unsafe impl Send for Blas {}

impl Blas {
    /// Opens the library. The context is current.
    fn open(gpu: &Gpu) -> Result<Self> {
        libraries::blas().map_err(|searched| Error::NoBlas { searched })?;
        let workspace = gpu.reserve(WORKSPACE_BYTES)?;
        let handle = result::create_handle().map_err(|e| {
            gpu.release(workspace);
            blas_error("open", e, "a handle")
        })?;
        // SAFETY: the library is loaded; the call has no requirements.
        let version = unsafe { sys::cublasLtGetVersion() };
        let arithmetic = if gpu.tf32 { "TF32" } else { "f32" };
        let setting = format!(
            "{}, {} multiprocessors, cuBLASLt {version}, {arithmetic}, workspace {WORKSPACE_BYTES}",
            gpu.name,
            gpu.multiprocessors()
        );
        Ok(Blas { handle, workspace, setting, folder: cache::folder("blas"), kept: HashMap::new() })
    }

    /// Gives back what [`Blas::open`] took. The context is current.
    pub(super) fn close(self, gpu: &Gpu) {
        // SAFETY: created once in `open`. There is nobody to tell of an error.
        let _ = unsafe { result::destroy_handle(self.handle) };
        gpu.release(self.workspace);
    }

    /// The file of a product's algorithm, and the line it begins with: the key in words.
    fn file(&self, key: &Key) -> (Option<PathBuf>, String) {
        let alone = if key.alone { ", alone" } else { "" };
        let line = format!("{}: {}, aligned to {:?}{alone}", self.setting, key.product, key.alignments);
        (self.folder.as_ref().map(|f| f.join(format!("{:032x}.algorithm", cache::hash([&*line])))), line)
    }

    /// The algorithm kept for this product, by this process or a former one.
    fn find(&mut self, gpu: &Gpu, key: &Key) -> Option<sys::cublasLtMatmulAlgo_t> {
        if !self.kept.contains_key(key) {
            let kept = self.read(gpu, key)?;
            self.kept.insert(*key, kept);
        }
        self.kept.get(key).map(|kept| kept.algorithm)
    }

    /// What a former process kept. None if the library does not take it for the sizes it was chosen for: then the file
    /// is damaged.
    fn read(&self, gpu: &Gpu, key: &Key) -> Option<Kept> {
        let (path, line) = self.file(key);
        let text = fs::read_to_string(path?).ok()?;
        let mut lines = text.strip_prefix(&line)?.lines().skip(1);
        let numbers =
            lines.next()?.split(' ').map(str::parse).collect::<std::result::Result<Vec<usize>, _>>().ok()?;
        let [m, n, k, batch] = numbers.try_into().ok()?;
        let words =
            lines.map(|w| u64::from_str_radix(w, 16)).collect::<std::result::Result<Vec<_>, _>>().ok()?;
        let kept = Kept {
            algorithm: sys::cublasLtMatmulAlgo_t { data: words.try_into().ok()? },
            sizes: [m, n, k],
            batch,
        };
        let product = ByColumns { sizes: kept.sizes, batch, ..key.product };
        let call = Call::new(gpu, &product, [ALIGNED; 4], key.alignments, self).ok()?;
        call.takes(&kept.algorithm).then_some(kept)
    }

    /// Keeps the algorithm of a product, for other processes too, and returns the one to use: if another process has
    /// kept one meanwhile, that. So processes that measure at the same time end with the same bits.
    fn keep(&mut self, gpu: &Gpu, key: Key, kept: Kept) -> sys::cublasLtMatmulAlgo_t {
        let mut kept = kept;
        if let (Some(path), line) = self.file(&key) {
            let [m, n, k] = kept.sizes;
            let words: String = kept.algorithm.data.iter().map(|word| format!("{word:016x}\n")).collect();
            let text = format!("{line}\n{m} {n} {k} {}\n{words}", kept.batch);
            // Not being able to write is no error: see cache.rs.
            if matches!(cache::write_new(&path, text.as_bytes()), Ok(false)) {
                match self.read(gpu, &key) {
                    Some(theirs) => kept = theirs,
                    None => drop(cache::write_whole(&path, text.as_bytes())), // damaged
                }
            }
        }
        let algorithm = kept.algorithm;
        self.kept.insert(key, kept);
        algorithm
    }
}

impl Gpu {
    /// Computes a product of cuBLASLt for the op `op`.
    ///
    /// Errors: no cuBLASLt on this machine; the library has no algorithm for the product.
    ///
    /// # Safety
    ///
    /// `a`, `b`, `bias` (0 without one) and `d` are addresses of buffers on this device that hold the matrices of
    /// `product`; d is none of the others.
    pub unsafe fn multiply(
        &self,
        op: &'static str,
        product: &ByColumns,
        [a, b, bias, d]: [u64; 4],
    ) -> Result<()> {
        self.bind(op)?;
        let mut blas = self.blas.lock().unwrap_or_else(|e| e.into_inner());
        if blas.is_none() {
            *blas = Some(Blas::open(self)?);
        }
        let blas = blas.as_mut().expect("opened above");
        let alignments = product.alignments([a, b, d | bias]); // what d and bias have in common
        let call = Call::new(self, product, [a, b, bias, d], alignments, blas)
            .map_err(|e| blas_error(op, e, product))?;
        let mut key = Key { product: product.rounded(), alignments, alone: false };
        loop {
            let algorithm = match blas.find(self, &key) {
                Some(algorithm) => algorithm,
                None => {
                    let algorithm = call.choose(self).map_err(|e| match e {
                        Failure::Blas(e) => blas_error(op, e, product),
                        Failure::Device(e) => e,
                    })?;
                    blas.keep(self, key, Kept { algorithm, sizes: product.sizes, batch: product.batch })
                }
            };
            match call.run(self, &algorithm, d) {
                Ok(()) => return self.launched(op),
                Err(e) if !refused(e) || key.alone => return Err(blas_error(op, e, product)),
                Err(_) => key = Key { product: *product, alignments, alone: true },
            }
        }
    }
}

/// Whether the library will not run this algorithm on this product, having done nothing.
fn refused(CublasError(status): CublasError) -> bool {
    use sys::cublasStatus_t::*;
    matches!(status, CUBLAS_STATUS_NOT_SUPPORTED | CUBLAS_STATUS_INVALID_VALUE | CUBLAS_STATUS_ARCH_MISMATCH)
}

fn blas_error(op: &'static str, CublasError(status): CublasError, what: impl fmt::Display) -> Error {
    Error::Blas { op, message: format!("{status:?} for {what}") }
}

/// What choosing an algorithm can meet.
enum Failure {
    Blas(CublasError),
    Device(Error),
}

impl From<CublasError> for Failure {
    fn from(e: CublasError) -> Self {
        Failure::Blas(e)
    }
}

/// A product with its matrices, ready to be run by any algorithm.
struct Call<'a> {
    product: &'a ByColumns,
    addresses: [u64; 4],
    alignments: [u32; 3],
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    operation: Operation,
    /// Of a, b and d.
    layouts: [Layout; 3],
}

impl<'a> Call<'a> {
    fn new(
        gpu: &Gpu,
        product: &'a ByColumns,
        addresses: [u64; 4],
        alignments: [u32; 3],
        blas: &Blas,
    ) -> std::result::Result<Self, CublasError> {
        let operation = Operation::new(product, gpu.tf32, addresses[2])?;
        let (stored, types) = (product.stored(), product.types());
        let layout = |i: usize| Layout::new(stored[i], types[i], product.batch);
        let layouts = [layout(0)?, layout(1)?, layout(2)?];
        let (handle, workspace) = (blas.handle, blas.workspace);
        Ok(Call { product, addresses, alignments, handle, workspace, operation, layouts })
    }

    /// Runs the product by one algorithm into `d`, which is the product's own or as large.
    fn run(
        &self,
        gpu: &Gpu,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        d: u64,
    ) -> std::result::Result<(), CublasError> {
        let [a, b, _, c] = self.addresses;
        let [a_layout, b_layout, d_layout] = self.layouts.each_ref().map(|l| l.0);
        let (one, beta) = (1.0f32, f32::from(u8::from(self.product.accumulate)));
        // SAFETY: handle, descriptors and stream exist; the layouts are those of the buffers that the caller of
        // `multiply` promised; the workspace is as long as said, and only this stream uses it; the two scalars are
        // read before the call returns.
        unsafe {
            result::matmul(
                self.handle,
                self.operation.0,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                a as *const c_void,
                a_layout,
                b as *const c_void,
                b_layout,
                c as *const c_void,
                d_layout,
                d as *mut c_void,
                d_layout,
                algorithm,
                self.workspace as *mut c_void,
                WORKSPACE_BYTES,
                gpu.stream.cast(),
            )
        }
    }

    /// Whether the library takes an algorithm for this product.
    fn takes(&self, algorithm: &sys::cublasLtMatmulAlgo_t) -> bool {
        let [a, b, d] = self.layouts.each_ref().map(|l| l.0);
        // SAFETY: a result of the library is numbers and enums of which 0 is a value.
        let mut result: sys::cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        // SAFETY: handle and descriptors exist; one result is written.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(self.handle, self.operation.0, a, b, d, d, algorithm, &mut result)
        };
        status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && result.workspaceSize <= WORKSPACE_BYTES
    }

    /// The fastest of the library's best guesses; its first where the device has no room for a second result.
    fn choose(&self, gpu: &Gpu) -> std::result::Result<sys::cublasLtMatmulAlgo_t, Failure> {
        let candidates = self.candidates()?;
        let first =
            *candidates.first().ok_or(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED))?;
        if candidates.len() == 1 {
            return Ok(first);
        }
        let [m, n, _] = self.product.sizes;
        let scratch = match gpu.reserve(self.product.batch * m * n * self.product.result.size()) {
            Ok(scratch) => scratch,
            Err(Error::OutOfMemory { .. }) => return Ok(first),
            Err(e) => return Err(Failure::Device(e)),
        };
        let fastest = self.measure(gpu, &candidates, scratch);
        gpu.release(scratch);
        Ok(fastest?.unwrap_or(first))
    }

    /// The candidate with the shortest run, the earlier of equals; None if the library runs none of them.
    fn measure(
        &self,
        gpu: &Gpu,
        candidates: &[sys::cublasLtMatmulAlgo_t],
        scratch: u64,
    ) -> std::result::Result<Option<sys::cublasLtMatmulAlgo_t>, Failure> {
        let device = |e| Failure::Device(driver_error("gemm: measure", e));
        let mark = || {
            let mark = Mark::timed().map_err(device)?;
            mark.record(gpu.stream).map_err(device)?;
            Ok::<_, Failure>(mark)
        };
        let mut best: Option<(Duration, sys::cublasLtMatmulAlgo_t)> = None;
        for algorithm in candidates {
            // All runs are asked for before any is waited for, so that the host's own time is not in theirs.
            let mut marks = vec![mark()?];
            for _ in 0..RUNS {
                match self.run(gpu, algorithm, scratch) {
                    Ok(()) => marks.push(mark()?),
                    Err(e) if refused(e) => break,
                    Err(e) => return Err(e.into()),
                }
            }
            marks[marks.len() - 1].wait().map_err(device)?;
            for run in marks.windows(2).skip(1) {
                let time = run[1].since(&run[0]).map_err(Failure::Device)?;
                if best.as_ref().is_none_or(|(least, _)| time < *least) {
                    best = Some((time, *algorithm));
                }
            }
        }
        Ok(best.map(|(_, algorithm)| algorithm))
    }

    /// The library's guesses, the best first.
    fn candidates(&self) -> std::result::Result<Vec<sys::cublasLtMatmulAlgo_t>, CublasError> {
        let preference = Preference::new(self.alignments)?;
        let [a, b, d] = self.layouts.each_ref().map(|l| l.0);
        // SAFETY: a result of the library is numbers and enums of which 0 is a value.
        let mut found: [sys::cublasLtMatmulHeuristicResult_t; CANDIDATES] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        // SAFETY: handle and descriptors exist; at most `CANDIDATES` results are written, and their number.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                self.operation.0,
                a,
                b,
                d,
                d,
                preference.0,
                CANDIDATES as i32,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        status.result()?;
        let fits = |r: &&sys::cublasLtMatmulHeuristicResult_t| {
            r.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && r.workspaceSize <= WORKSPACE_BYTES
        };
        Ok(found.iter().take(count.max(0) as usize).filter(fits).map(|r| r.algo).collect())
    }
}

/// The library's name of a type.
fn data_type(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::F32 => sys::cudaDataType_t::CUDA_R_32F,
        DType::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        other => unreachable!("products are of f32 or bf16, not of {other}"),
    }
}

/// What is computed: the library's descriptor, which it calls a matmul.
struct Operation(sys::cublasLtMatmulDesc_t);

impl Operation {
    fn new(product: &ByColumns, tf32: bool, bias: u64) -> std::result::Result<Self, CublasError> {
        use sys::cublasComputeType_t::*;
        use sys::cublasLtMatmulDescAttributes_t::*;
        let f32_factors = product.factors == DType::F32;
        let compute = if tf32 && f32_factors { CUBLAS_COMPUTE_32F_FAST_TF32 } else { CUBLAS_COMPUTE_32F };
        let operation = Operation(result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F)?);
        for (which, transposed) in
            [CUBLASLT_MATMUL_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSB].into_iter().zip(product.transposed)
        {
            operation.set(which, &i32::from(transposed))?; // CUBLAS_OP_N is 0, CUBLAS_OP_T 1
        }
        if product.bias {
            operation.set(CUBLASLT_MATMUL_DESC_EPILOGUE, &sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS)?;
            operation.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        Ok(operation)
    }

    fn set<T>(
        &self,
        which: sys::cublasLtMatmulDescAttributes_t,
        value: &T,
    ) -> std::result::Result<(), CublasError> {
        // SAFETY: the descriptor exists; the value, of the type that the attribute has, is copied.
        unsafe {
            result::set_matmul_desc_attribute(self.0, which, std::ptr::from_ref(value).cast(), size_of::<T>())
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// How a matrix lies in memory.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    /// A dense matrix by columns, `batch` times.
    fn new(
        [rows, columns]: [usize; 2],
        dtype: DType,
        batch: usize,
    ) -> std::result::Result<Self, CublasError> {
        use sys::cublasLtMatrixLayoutAttribute_t::*;
        let too_large = |_| CublasError(sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE);
        let layout =
            Layout(result::create_matrix_layout(data_type(dtype), rows as u64, columns as u64, rows as i64)?);
        if batch > 1 {
            layout.set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &i32::try_from(batch).map_err(too_large)?)?;
            layout.set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &((rows * columns) as i64))?;
        }
        Ok(layout)
    }

    fn set<T>(
        &self,
        which: sys::cublasLtMatrixLayoutAttribute_t,
        value: &T,
    ) -> std::result::Result<(), CublasError> {
        // SAFETY: the layout exists; the value, of the type that the attribute has, is copied.
        unsafe {
            result::set_matrix_layout_attribute(
                self.0,
                which,
                std::ptr::from_ref(value).cast(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What an algorithm must keep to.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new([a, b, d]: [u32; 3]) -> std::result::Result<Self, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t::*;
        let preference = Preference(result::create_matmul_pref()?);
        let schemes = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(WORKSPACE_BYTES as u64))?;
        preference.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes)?;
        preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &a)?;
        preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &b)?;
        preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &d)?;
        preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &d)?;
        Ok(preference)
    }

    fn set<T>(
        &self,
        which: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> std::result::Result<(), CublasError> {
        // SAFETY: the preference exists; the value, of the type that the attribute has, is copied.
        unsafe {
            result::set_matmul_pref_attribute(self.0, which, std::ptr::from_ref(value).cast(), size_of::<T>())
        }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
