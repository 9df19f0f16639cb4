//! One product by cuBLASLt, and the same by its definition in f64. The values are small integers, so that sums are
//! exact in any order and results are compared for equality.
#![allow(clippy::unwrap_used, clippy::macro_metavars_in_unsafe)] // blas! makes any call

use crate::raw_cuda::*;
use cudarc::cublaslt::sys::{self as lt, cublasStatus_t};
use half::{bf16, f16};
use lt::cudaDataType_t::{self, *};
use std::ffi::c_void;
use std::mem;
use std::ptr::{null, null_mut};

pub const SUCCESS: cublasStatus_t = cublasStatus_t::CUBLAS_STATUS_SUCCESS;
pub const INVALID: cublasStatus_t = cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE;
pub const UNSUPPORTED: cublasStatus_t = cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED;
pub const WORKSPACE_BYTES: usize = 1 << 20;

/// The library's result.
macro_rules! blas {
    ($($call:tt)*) => {{
        // SAFETY: the only library here is the simulator's, which checks descriptors and device addresses; host
        // pointers are those of live variables of the caller.
        unsafe { lt::$($call)* }
    }};
}

/// A matrix as a layout describes it: column-major unless `row_major`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub dtype: cudaDataType_t,
    pub rows: usize,
    pub cols: usize,
    pub ld: usize,
    pub row_major: bool,
    pub batches: usize,
    pub offset: usize,
}

impl Matrix {
    pub fn new(dtype: cudaDataType_t, rows: usize, cols: usize) -> Self {
        Matrix { dtype, rows, cols, ld: rows, row_major: false, batches: 1, offset: 0 }
    }

    pub fn at(&self, batch: usize, row: usize, col: usize) -> usize {
        batch * self.offset + if self.row_major { row * self.ld + col } else { row + col * self.ld }
    }

    pub fn elements(&self) -> usize {
        self.at(self.batches - 1, self.rows - 1, self.cols - 1) + 1
    }

    pub fn layout(&self) -> lt::cublasLtMatrixLayout_t {
        let mut layout = null_mut();
        let (rows, cols) = (self.rows as u64, self.cols as u64);
        assert_eq!(
            blas!(cublasLtMatrixLayoutCreate(&mut layout, self.dtype, rows, cols, self.ld as i64)),
            SUCCESS
        );
        use lt::cublasLtMatrixLayoutAttribute_t::*;
        let order = self.row_major as i32;
        let (batches, offset) = (self.batches as i32, self.offset as i64);
        for (attribute, value, bytes) in [
            (CUBLASLT_MATRIX_LAYOUT_ORDER, (&raw const order).cast::<c_void>(), 4),
            (CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, (&raw const batches).cast(), 4),
            (CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, (&raw const offset).cast(), 8),
        ] {
            assert_eq!(blas!(cublasLtMatrixLayoutSetAttribute(layout, attribute, value, bytes)), SUCCESS);
        }
        layout
    }
}

pub fn bytes_of(dtype: cudaDataType_t, values: &[f64]) -> Vec<u8> {
    let one = |v: &f64| match dtype {
        CUDA_R_32F => (*v as f32).to_le_bytes().to_vec(),
        CUDA_R_16F => f16::from_f64(*v).to_le_bytes().to_vec(),
        _ => bf16::from_f64(*v).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(one).collect()
}

pub fn values_of(dtype: cudaDataType_t, bytes: &[u8]) -> Vec<f64> {
    let pair = |b: &[u8]| [b[0], b[1]];
    match dtype {
        CUDA_R_32F => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        CUDA_R_16F => bytes.chunks(2).map(|b| f16::from_le_bytes(pair(b)).into()).collect(),
        _ => bytes.chunks(2).map(|b| bf16::from_le_bytes(pair(b)).into()).collect(),
    }
}

pub fn size(dtype: cudaDataType_t) -> usize {
    if dtype == CUDA_R_32F { 4 } else { 2 }
}

/// Whole numbers from -3 to 3 without a pattern.
pub fn integers(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed * 0x9e37_79b9_7f4a_7c15 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % 7) as f64 - 3.0
    };
    (0..count).map(|_| next()).collect()
}

/// One product: the matrices and what is asked for.
#[derive(Clone, Debug)]
pub struct Product {
    pub a: Matrix,
    pub b: Matrix,
    pub c: Matrix,
    pub d: Matrix,
    pub transpose: [bool; 2],
    pub compute: lt::cublasComputeType_t,
    pub epilogue: lt::cublasLtEpilogue_t,
    pub beta: f32,
    pub in_place: bool,
    pub workspace: usize,
    pub alignment: u32,
    pub reductions: u32,
    /// What the descriptor says of alpha and beta, and where they are.
    pub pointer_mode: i32,
    pub on_device: bool,
}

use lt::cublasComputeType_t::*;
use lt::cublasLtEpilogue_t::*;

impl Product {
    /// op(A) of m x k times op(B) of k x n.
    pub fn new(
        [m, n, k]: [usize; 3],
        transpose: [bool; 2],
        inputs: cudaDataType_t,
        output: cudaDataType_t,
    ) -> Self {
        let stored = |rows, cols, turned| if turned { (cols, rows) } else { (rows, cols) };
        let ((a_rows, a_cols), (b_rows, b_cols)) = (stored(m, k, transpose[0]), stored(k, n, transpose[1]));
        Product {
            a: Matrix::new(inputs, a_rows, a_cols),
            b: Matrix::new(inputs, b_rows, b_cols),
            c: Matrix::new(output, m, n),
            d: Matrix::new(output, m, n),
            transpose,
            compute: CUBLAS_COMPUTE_32F,
            epilogue: CUBLASLT_EPILOGUE_DEFAULT,
            beta: 0.0,
            in_place: false,
            workspace: WORKSPACE_BYTES,
            alignment: 256,
            reductions: 7,
            pointer_mode: 0,
            on_device: false,
        }
    }

    pub fn desc(&self, bias: u64) -> lt::cublasLtMatmulDesc_t {
        let mut desc = null_mut();
        assert_eq!(blas!(cublasLtMatmulDescCreate(&mut desc, self.compute, CUDA_R_32F)), SUCCESS);
        use lt::cublasLtMatmulDescAttributes_t::*;
        let transpose = self.transpose.map(i32::from);
        for (attribute, value, bytes) in [
            (CUBLASLT_MATMUL_DESC_POINTER_MODE, (&raw const self.pointer_mode).cast::<c_void>(), 4),
            (CUBLASLT_MATMUL_DESC_TRANSA, (&raw const transpose[0]).cast(), 4),
            (CUBLASLT_MATMUL_DESC_TRANSB, (&raw const transpose[1]).cast(), 4),
            (CUBLASLT_MATMUL_DESC_EPILOGUE, (&raw const self.epilogue).cast(), 4),
            (CUBLASLT_MATMUL_DESC_BIAS_POINTER, (&raw const bias).cast(), 8),
        ] {
            assert_eq!(blas!(cublasLtMatmulDescSetAttribute(desc, attribute, value, bytes)), SUCCESS);
        }
        desc
    }

    pub fn layouts(&self) -> [lt::cublasLtMatrixLayout_t; 4] {
        [self.a, self.b, self.c, self.d].map(|matrix| matrix.layout())
    }

    /// What the library would run it with.
    pub fn algorithms(&self, bias: u64) -> Result<Vec<lt::cublasLtMatmulHeuristicResult_t>, cublasStatus_t> {
        let mut preference = null_mut();
        assert_eq!(blas!(cublasLtMatmulPreferenceCreate(&mut preference)), SUCCESS);
        use lt::cublasLtMatmulPreferenceAttributes_t::*;
        let attribute = CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let workspace = (&raw const self.workspace).cast();
        assert_eq!(blas!(cublasLtMatmulPreferenceSetAttribute(preference, attribute, workspace, 8)), SUCCESS);
        let reductions = (&raw const self.reductions).cast();
        let attribute = CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
        assert_eq!(
            blas!(cublasLtMatmulPreferenceSetAttribute(preference, attribute, reductions, 4)),
            SUCCESS
        );
        for attribute in [
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            let value = (&raw const self.alignment).cast();
            assert_eq!(blas!(cublasLtMatmulPreferenceSetAttribute(preference, attribute, value, 4)), SUCCESS);
        }
        let (desc, [a, b, c, d]) = (self.desc(bias), self.layouts());
        // SAFETY: a result is numbers, for which zeros are values.
        let mut results: [lt::cublasLtMatmulHeuristicResult_t; 8] = unsafe { mem::zeroed() };
        let mut found = 0;
        let (handle, first) = (handle(), results.as_mut_ptr());
        match blas!(cublasLtMatmulAlgoGetHeuristic(
            handle, desc, a, b, c, d, preference, 8, first, &mut found
        )) {
            SUCCESS => Ok(results[..found as usize].to_vec()),
            wrong => Err(wrong),
        }
    }

    /// Queues it on the addresses of A, B, C, D and the bias.
    pub fn multiply(
        &self,
        [a, b, c, d, bias]: [u64; 5],
        algorithm: Option<&lt::cublasLtMatmulAlgo_t>,
        stream: cudarc::driver::sys::CUstream,
    ) -> cublasStatus_t {
        let workspace = allocate(WORKSPACE_BYTES);
        let scalars = [2.0, self.beta];
        let [alpha, beta] = if self.on_device {
            let first = upload(&scalars);
            [first, first + 4].map(|address| address as *const c_void)
        } else {
            [0, 1].map(|i| (&raw const scalars[i]).cast())
        };
        let layouts = self.layouts();
        blas!(cublasLtMatmul(
            handle(),
            self.desc(bias),
            alpha,
            a as *const _,
            layouts[0],
            b as *const _,
            layouts[1],
            beta,
            c as *const _,
            layouts[2],
            d as *mut _,
            layouts[3],
            algorithm.map_or(null(), |algorithm| algorithm),
            workspace as *mut _,
            self.workspace,
            stream as _,
        ))
    }

    /// The values of A, B, C and the bias.
    pub fn inputs(&self) -> [Vec<f64>; 4] {
        let bias = self.d.rows.max(self.d.cols);
        [(self.a.elements(), 1), (self.b.elements(), 2), (self.c.elements(), 3), (bias, 4)]
            .map(|(n, seed)| integers(seed, n))
    }

    /// All of D's memory after the product, and of the bias.
    pub fn run(&self, algorithm: Option<&lt::cublasLtMatmulAlgo_t>) -> Result<[Vec<f64>; 2], cublasStatus_t> {
        let [a, b, c, bias] = self.inputs();
        let place = |dtype, values: &[f64]| upload(&bytes_of(dtype, values));
        let bias_address = place(self.d.dtype, &bias);
        let c_address = place(self.c.dtype, &c);
        let d_address =
            if self.in_place { c_address } else { place(self.d.dtype, &vec![-77.0; self.d.elements()]) };
        let addresses =
            [place(self.a.dtype, &a), place(self.b.dtype, &b), c_address, d_address, bias_address];
        match self.multiply(addresses, algorithm, stream(NON_BLOCKING)) {
            SUCCESS => {}
            wrong => return Err(wrong),
        }
        let read =
            |address, count| values_of(self.d.dtype, &download::<u8>(address, count * size(self.d.dtype)));
        Ok([read(d_address, self.d.elements()), read(bias_address, bias.len())])
    }

    /// The same by the definition.
    pub fn expected(&self) -> [Vec<f64>; 2] {
        let [a, b, c, mut bias] = self.inputs();
        let mut d = if self.in_place { c.clone() } else { vec![-77.0; self.d.elements()] };
        let (m, n) = (self.d.rows, self.d.cols);
        let k = if self.transpose[0] { self.a.rows } else { self.a.cols };
        for batch in 0..self.d.batches {
            let left =
                |i, l| a[if self.transpose[0] { self.a.at(batch, l, i) } else { self.a.at(batch, i, l) }];
            let right =
                |l, j| b[if self.transpose[1] { self.b.at(batch, j, l) } else { self.b.at(batch, l, j) }];
            for j in 0..n {
                for i in 0..m {
                    let sum: f64 = (0..k).map(|l| left(i, l) * right(l, j)).sum();
                    let mut value = 2.0 * sum + f64::from(self.beta) * c[self.c.at(batch, i, j)];
                    if self.epilogue as u32 & CUBLASLT_EPILOGUE_BIAS as u32 != 0 {
                        value += bias[i];
                    }
                    if self.epilogue as u32 & CUBLASLT_EPILOGUE_RELU as u32 != 0 {
                        value = value.max(0.0);
                    }
                    d[self.d.at(batch, i, j)] = value;
                }
            }
            match self.epilogue {
                CUBLASLT_EPILOGUE_BGRADA => (0..m).for_each(|i| bias[i] = (0..k).map(|l| left(i, l)).sum()),
                CUBLASLT_EPILOGUE_BGRADB => (0..n).for_each(|j| bias[j] = (0..k).map(|l| right(l, j)).sum()),
                _ => {}
            }
        }
        [d, bias].map(|values| values_of(self.d.dtype, &bytes_of(self.d.dtype, &values)))
    }

    /// It gives what the definition says with each algorithm, and with the library's own choice.
    pub fn check(&self) {
        let algorithms = self.algorithms(256).unwrap();
        for algorithm in algorithms.iter().map(|found| Some(&found.algo)).chain([None]) {
            assert_eq!(self.run(algorithm).unwrap(), self.expected(), "{self:?}");
        }
    }
}

pub fn handle() -> lt::cublasLtHandle_t {
    let mut handle = null_mut();
    assert_eq!(blas!(cublasLtCreate(&mut handle)), SUCCESS);
    handle
}
