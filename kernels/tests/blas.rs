//! The simulated cuBLASLt against products written out in f64. The values are small integers, so that sums are exact
//! in any order and results are compared for equality.
#![allow(clippy::unwrap_used)]

mod raw_cuda;

use cudarc::cublaslt::sys::{self as lt, cublasStatus_t};
use cudarc::driver::sys::CUresult;
use half::{bf16, f16};
use lt::cudaDataType_t::{self, *};
use raw_cuda::simulated::simulated;
use raw_cuda::*;
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::{env, mem};

const LATE: &[(&str, &str)] = &[("NEVA_SIM", "late")];
const EARLY: &[(&str, &str)] = &[("NEVA_SIM", "early")];

const SUCCESS: cublasStatus_t = cublasStatus_t::CUBLAS_STATUS_SUCCESS;
const INVALID: cublasStatus_t = cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE;
const UNSUPPORTED: cublasStatus_t = cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED;
const WORKSPACE_BYTES: usize = 1 << 20;

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
struct Matrix {
    dtype: cudaDataType_t,
    rows: usize,
    cols: usize,
    ld: usize,
    row_major: bool,
    batches: usize,
    offset: usize,
}

impl Matrix {
    fn new(dtype: cudaDataType_t, rows: usize, cols: usize) -> Self {
        Matrix { dtype, rows, cols, ld: rows, row_major: false, batches: 1, offset: 0 }
    }

    fn at(&self, batch: usize, row: usize, col: usize) -> usize {
        batch * self.offset + if self.row_major { row * self.ld + col } else { row + col * self.ld }
    }

    fn elements(&self) -> usize {
        self.at(self.batches - 1, self.rows - 1, self.cols - 1) + 1
    }

    fn layout(&self) -> lt::cublasLtMatrixLayout_t {
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

fn bytes_of(dtype: cudaDataType_t, values: &[f64]) -> Vec<u8> {
    let one = |v: &f64| match dtype {
        CUDA_R_32F => (*v as f32).to_le_bytes().to_vec(),
        CUDA_R_16F => f16::from_f64(*v).to_le_bytes().to_vec(),
        _ => bf16::from_f64(*v).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(one).collect()
}

fn values_of(dtype: cudaDataType_t, bytes: &[u8]) -> Vec<f64> {
    let pair = |b: &[u8]| [b[0], b[1]];
    match dtype {
        CUDA_R_32F => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        CUDA_R_16F => bytes.chunks(2).map(|b| f16::from_le_bytes(pair(b)).into()).collect(),
        _ => bytes.chunks(2).map(|b| bf16::from_le_bytes(pair(b)).into()).collect(),
    }
}

fn size(dtype: cudaDataType_t) -> usize {
    if dtype == CUDA_R_32F { 4 } else { 2 }
}

/// Whole numbers from -3 to 3 without a pattern.
fn integers(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed * 0x9e37_79b9_7f4a_7c15 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % 7) as f64 - 3.0
    };
    (0..count).map(|_| next()).collect()
}

/// One product: the matrices and what is asked for.
#[derive(Clone, Debug)]
struct Product {
    a: Matrix,
    b: Matrix,
    c: Matrix,
    d: Matrix,
    transpose: [bool; 2],
    compute: lt::cublasComputeType_t,
    epilogue: lt::cublasLtEpilogue_t,
    beta: f32,
    in_place: bool,
    workspace: usize,
    alignment: u32,
    reductions: u32,
}

use lt::cublasComputeType_t::*;
use lt::cublasLtEpilogue_t::*;

impl Product {
    /// op(A) of m x k times op(B) of k x n.
    fn new(
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
        }
    }

    fn desc(&self, bias: u64) -> lt::cublasLtMatmulDesc_t {
        let mut desc = null_mut();
        assert_eq!(blas!(cublasLtMatmulDescCreate(&mut desc, self.compute, CUDA_R_32F)), SUCCESS);
        use lt::cublasLtMatmulDescAttributes_t::*;
        let transpose = self.transpose.map(i32::from);
        for (attribute, value, bytes) in [
            (CUBLASLT_MATMUL_DESC_TRANSA, (&raw const transpose[0]).cast::<c_void>(), 4),
            (CUBLASLT_MATMUL_DESC_TRANSB, (&raw const transpose[1]).cast(), 4),
            (CUBLASLT_MATMUL_DESC_EPILOGUE, (&raw const self.epilogue).cast(), 4),
            (CUBLASLT_MATMUL_DESC_BIAS_POINTER, (&raw const bias).cast(), 8),
        ] {
            assert_eq!(blas!(cublasLtMatmulDescSetAttribute(desc, attribute, value, bytes)), SUCCESS);
        }
        desc
    }

    fn layouts(&self) -> [lt::cublasLtMatrixLayout_t; 4] {
        [self.a, self.b, self.c, self.d].map(|matrix| matrix.layout())
    }

    /// What the library would run it with.
    fn algorithms(&self, bias: u64) -> Result<Vec<lt::cublasLtMatmulHeuristicResult_t>, cublasStatus_t> {
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
    fn multiply(
        &self,
        [a, b, c, d, bias]: [u64; 5],
        algorithm: Option<&lt::cublasLtMatmulAlgo_t>,
        stream: cudarc::driver::sys::CUstream,
    ) -> cublasStatus_t {
        let (alpha, workspace) = (2.0f32, allocate(WORKSPACE_BYTES));
        let layouts = self.layouts();
        blas!(cublasLtMatmul(
            handle(),
            self.desc(bias),
            (&raw const alpha).cast(),
            a as *const _,
            layouts[0],
            b as *const _,
            layouts[1],
            (&raw const self.beta).cast(),
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
    fn inputs(&self) -> [Vec<f64>; 4] {
        let bias = self.d.rows.max(self.d.cols);
        [(self.a.elements(), 1), (self.b.elements(), 2), (self.c.elements(), 3), (bias, 4)]
            .map(|(n, seed)| integers(seed, n))
    }

    /// All of D's memory after the product, and of the bias.
    fn run(&self, algorithm: Option<&lt::cublasLtMatmulAlgo_t>) -> Result<[Vec<f64>; 2], cublasStatus_t> {
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
    fn expected(&self) -> [Vec<f64>; 2] {
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
    fn check(&self) {
        let algorithms = self.algorithms(256).unwrap();
        for algorithm in algorithms.iter().map(|found| Some(&found.algo)).chain([None]) {
            assert_eq!(self.run(algorithm).unwrap(), self.expected(), "{self:?}");
        }
    }
}

fn handle() -> lt::cublasLtHandle_t {
    let mut handle = null_mut();
    assert_eq!(blas!(cublasLtCreate(&mut handle)), SUCCESS);
    handle
}

const KINDS: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];
const TYPES: [(cudaDataType_t, cudaDataType_t); 5] = [
    (CUDA_R_32F, CUDA_R_32F),
    (CUDA_R_16BF, CUDA_R_16BF),
    (CUDA_R_16BF, CUDA_R_32F),
    (CUDA_R_16F, CUDA_R_16F),
    (CUDA_R_16F, CUDA_R_32F),
];

#[test]
fn products_of_every_kind_and_type() {
    simulated(&[LATE, EARLY], || {
        open();
        for kind in KINDS {
            for (inputs, output) in TYPES {
                Product::new([8, 24, 40], kind, inputs, output).check();
                let mut padded = Product::new([7, 5, 33], kind, inputs, output);
                for (pad, matrix) in
                    [&mut padded.a, &mut padded.b, &mut padded.c, &mut padded.d].into_iter().enumerate()
                {
                    matrix.ld += pad + 1;
                    matrix.batches = 3;
                    matrix.offset = matrix.ld * matrix.cols + 2 * pad;
                }
                padded.beta = 3.0;
                padded.check();
                (padded.in_place, padded.c) = (true, padded.d);
                padded.check();
            }
        }
    });
}

#[test]
fn row_major_is_the_transposed_column_major() {
    simulated(&[LATE], || {
        open();
        for kind in KINDS {
            let mut product = Product::new([6, 10, 16], kind, CUDA_R_16BF, CUDA_R_32F);
            for matrix in [&mut product.a, &mut product.b, &mut product.c, &mut product.d] {
                (matrix.row_major, matrix.ld) = (true, matrix.cols + 3);
            }
            product.beta = 1.0;
            product.check();
        }
    });
}

#[test]
fn epilogues() {
    simulated(&[LATE], || {
        open();
        for (inputs, output) in TYPES {
            for epilogue in [
                CUBLASLT_EPILOGUE_BIAS,
                CUBLASLT_EPILOGUE_RELU,
                CUBLASLT_EPILOGUE_RELU_BIAS,
                CUBLASLT_EPILOGUE_BGRADA,
                CUBLASLT_EPILOGUE_BGRADB,
            ] {
                for kind in KINDS {
                    let mut product = Product::new([8, 16, 24], kind, inputs, output);
                    (product.epilogue, product.beta) = (epilogue, 1.0);
                    product.check();
                }
            }
        }
        // GELU is the form with tanh: at 2 it is 1.9545977 (with erf 1.9544997).
        let mut gelu = Product::new([1, 1, 1], [false, false], CUDA_R_32F, CUDA_R_32F);
        let [d, one] = [allocate(4), upload(&[1.0f32])];
        for (epilogue, expected) in
            [(CUBLASLT_EPILOGUE_GELU, 1.954_597_7), (CUBLASLT_EPILOGUE_GELU_BIAS, 2.996_362_6)]
        {
            gelu.epilogue = epilogue;
            assert_eq!(gelu.multiply([one, one, one, d, one], None, stream(NON_BLOCKING)), SUCCESS);
            let got = download::<f32>(d, 1)[0];
            assert!((got - expected).abs() < 1e-6, "{got}");
        }
    });
}

#[test]
fn tf32_only_where_it_is_asked_for() {
    simulated(&[LATE], || {
        open();
        let mut product = Product::new([1, 1, 1], [false, false], CUDA_R_32F, CUDA_R_32F);
        let (fine, one, d) = (1.0 + f32::EPSILON, upload(&[1.0f32]), allocate(4));
        for (compute, expected) in [(CUBLAS_COMPUTE_32F, fine), (CUBLAS_COMPUTE_32F_FAST_TF32, 1.0)] {
            product.compute = compute;
            assert_eq!(
                product.multiply([upload(&[fine]), one, d, d, 0], None, stream(NON_BLOCKING)),
                SUCCESS
            );
            assert_eq!(download::<f32>(d, 1), [2.0 * expected]);
        }
    });
}

#[test]
fn algorithms_differ_in_what_they_need_and_in_the_last_bit() {
    simulated(&[LATE], || {
        open();
        let mut product = Product::new([16, 16, 256], [true, false], CUDA_R_32F, CUDA_R_32F);
        let all = product.algorithms(0).unwrap();
        assert_eq!(all.iter().map(|found| found.workspaceSize).collect::<Vec<_>>(), [1024, 0, 0]);
        let thirds: Vec<f32> = integers(9, 16 * 256).iter().map(|v| *v as f32 / 3.0).collect();
        let inputs = upload(&thirds);
        let results = all.iter().map(|found| {
            let d = allocate(1024);
            let addresses = [inputs, upload(&thirds), d, d, 0];
            assert_eq!(product.multiply(addresses, Some(&found.algo), stream(NON_BLOCKING)), SUCCESS);
            download::<f32>(d, 256)
        });
        let results: Vec<_> = results.collect();
        for (first, second) in [(0, 1), (0, 2), (1, 2)] {
            assert_ne!(results[first], results[second]);
            assert!(results[first].iter().zip(&results[second]).all(|(x, y)| (x - y).abs() < 1e-3));
        }
        for (reductions, expected) in [(2, 3), (1, 2), (0, 2)] {
            product.reductions = reductions;
            assert_eq!(product.algorithms(0).unwrap().len(), expected, "mask {reductions}");
        }
        product.reductions = 7;
        product.workspace = 1023;
        assert_eq!(product.algorithms(0).unwrap().len(), 2);
        assert_eq!(product.run(Some(&all[0].algo)).unwrap_err(), INVALID, "too little workspace");
        product.alignment = 8;
        assert_eq!(product.algorithms(0).unwrap().len(), 1);
        product.alignment = 256;
        product.a.ld += 1;
        assert_eq!(product.algorithms(0).unwrap().len(), 1, "columns that are not aligned");
        assert_eq!(product.run(Some(&all[1].algo)).unwrap_err(), UNSUPPORTED);
        let mut other = all[1].algo;
        other.data[0] += 1;
        assert_eq!(product.run(Some(&other)).unwrap_err(), UNSUPPORTED, "no algorithm at all");
    });
}

#[test]
fn descriptors_that_do_not_fit_are_refused() {
    simulated(&[LATE], || {
        open();
        let sound = Product::new([8, 16, 24], [false, false], CUDA_R_16BF, CUDA_R_16BF);
        let refused = |change: fn(&mut Product)| {
            let mut product = sound.clone();
            change(&mut product);
            let status = product.algorithms(0).unwrap_err();
            assert_eq!(product.run(None).unwrap_err(), status);
            status
        };
        assert_eq!(refused(|p| p.a.ld = 7), INVALID);
        assert_eq!(refused(|p| p.transpose[0] = true), INVALID);
        assert_eq!(refused(|p| p.b.rows = 23), INVALID);
        assert_eq!(refused(|p| (p.d.rows, p.d.cols) = (16, 8)), INVALID);
        assert_eq!(refused(|p| p.b.batches = 2), INVALID);
        assert_eq!(refused(|p| p.c.dtype = CUDA_R_32F), UNSUPPORTED);
        assert_eq!(refused(|p| p.b.dtype = CUDA_R_32F), UNSUPPORTED);
        assert_eq!(refused(|p| p.compute = CUBLAS_COMPUTE_32F_FAST_TF32), UNSUPPORTED);
        assert_eq!(refused(|p| p.compute = CUBLAS_COMPUTE_16F), UNSUPPORTED);
        assert_eq!(refused(|p| p.epilogue = CUBLASLT_EPILOGUE_GELU_AUX), UNSUPPORTED);
        assert_eq!(
            refused(|p| {
                for matrix in [&mut p.a, &mut p.b, &mut p.c, &mut p.d] {
                    (matrix.batches, matrix.offset) = (2, 64);
                }
            }),
            INVALID,
            "the results overlap"
        );
    });
}

#[test]
fn addresses_that_do_not_fit_are_refused() {
    simulated(&[LATE], || {
        open();
        let mut product = Product::new([8, 16, 24], [false, false], CUDA_R_16BF, CUDA_R_16BF);
        let [a, b, c, d] = [allocate(1024), allocate(1024), allocate(1024), allocate(1024)];
        let with = |product: &Product, addresses| product.multiply(addresses, None, stream(NON_BLOCKING));
        assert_eq!(with(&product, [a, b, c, d, 0]), SUCCESS);
        assert_eq!(with(&product, [a + 2, b, c, d, 0]), SUCCESS, "the library finds an algorithm for it");
        assert_eq!(with(&product, [a + 1, b, c, d, 0]), UNSUPPORTED);
        let wide = product.algorithms(0).unwrap()[0];
        assert_eq!(product.multiply([a + 2, b, c, d, 0], Some(&wide.algo), stream(NON_BLOCKING)), INVALID);
        assert_eq!(with(&product, [a, b, c, a, 0]), INVALID, "D is A");
        assert_eq!(with(&product, [a, b, 0, d, 0]), SUCCESS, "C is not read");
        product.beta = 1.0;
        assert_eq!(with(&product, [a, b, 0, d, 0]), INVALID);
        assert_eq!(with(&product, [a, b, d + 16, d, 0]), INVALID, "C overlaps D");
        product.c.ld += 1;
        assert_eq!(with(&product, [a, b, d, d, 0]), INVALID, "C is D and lies otherwise");
        product.c.ld -= 1;
        product.epilogue = CUBLASLT_EPILOGUE_BIAS;
        assert_eq!(with(&product, [a, b, c, d, 0]), INVALID, "no bias");
    });
}

/// What a card would do with it: compute something else.
#[test]
fn a_wrong_leading_dimension_gives_a_wrong_product() {
    simulated(&[LATE], || {
        open();
        let sound = Product::new([8, 8, 8], [false, false], CUDA_R_32F, CUDA_R_32F);
        let mut wrong = sound.clone();
        wrong.a.ld = 9;
        let [a, b, _, _] = wrong.inputs();
        let (a, b, d) = (upload(&bytes_of(CUDA_R_32F, &a)), upload(&bytes_of(CUDA_R_32F, &b)), allocate(256));
        let run = |product: &Product| {
            assert_eq!(product.multiply([a, b, d, d, 0], None, stream(NON_BLOCKING)), SUCCESS);
            download::<f32>(d, 64)
        };
        assert_ne!(run(&sound), run(&wrong));
    });
}

#[test]
fn memory_that_is_not_there_is_a_fault() {
    simulated(&[LATE, EARLY], || {
        open();
        let product = Product::new([8, 8, 8], [false, false], CUDA_R_32F, CUDA_R_32F);
        let (short, b, d) = (allocate(255), allocate(256), allocate(256));
        assert_eq!(product.multiply([short, b, d, d, 0], None, stream(NON_BLOCKING)), SUCCESS);
        assert_eq!(cuda!(cuCtxSynchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    });
}

#[test]
fn products_run_in_stream_order_and_in_graphs() {
    simulated(&[LATE, EARLY], || {
        open();
        let product = Product::new([1, 1, 1], [false, false], CUDA_R_32F, CUDA_R_32F);
        let (stream, one, input, d) =
            (stream(NON_BLOCKING), upload(&[1.0f32]), upload(&[3.0f32]), upload(&[0.0f32]));
        assert_eq!(product.multiply([input, one, d, d, 0], None, stream), SUCCESS);
        assert_eq!(cuda!(cuMemsetD32Async(input, 5.0f32.to_bits(), 1, stream)), OK);
        let before = if env::var("NEVA_SIM").unwrap() == "late" { 0.0 } else { 6.0 };
        let mut seen = [0.0f32];
        assert_eq!(cuda!(cuMemcpyDtoH_v2(seen.as_mut_ptr().cast(), d, 4)), OK);
        assert_eq!(seen, [before]);
        assert_eq!(download::<f32>(d, 1), [6.0]);

        use cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let (mut graph, mut executable) = (null_mut(), null_mut());
        assert_eq!(cuda!(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED)), OK);
        assert_eq!(product.multiply([input, one, d, d, 0], None, stream), SUCCESS);
        assert_eq!(cuda!(cuStreamEndCapture(stream, &mut graph)), OK);
        assert_eq!(cuda!(cuGraphInstantiateWithFlags(&mut executable, graph, 0)), OK);
        assert_eq!(download::<f32>(d, 1), [6.0], "recording runs nothing");
        assert_eq!(cuda!(cuGraphLaunch(executable, stream)), OK);
        assert_eq!(download::<f32>(d, 1), [10.0]);
    });
}
