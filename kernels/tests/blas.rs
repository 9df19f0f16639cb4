//! The simulated cuBLASLt: what products give, and what is refused.
#![allow(clippy::unwrap_used, clippy::macro_metavars_in_unsafe)] // cuda! makes any call

mod product;
mod raw_cuda;

use cudarc::cublaslt::sys::cublasComputeType_t::*;
use cudarc::cublaslt::sys::cublasLtEpilogue_t::*;
use cudarc::cublaslt::sys::cudaDataType_t::{self, *};
use cudarc::driver::sys::CUresult;
use product::*;
use raw_cuda::simulated::simulated;
use raw_cuda::*;
use std::env;
use std::ptr::null_mut;

const LATE: &[(&str, &str)] = &[("NEVA_SIM", "late")];
const EARLY: &[(&str, &str)] = &[("NEVA_SIM", "early")];

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
fn scalars_lie_where_the_pointer_mode_says() {
    simulated(&[LATE, EARLY], || {
        open();
        let mut product = Product::new([8, 8, 16], [false, true], CUDA_R_16BF, CUDA_R_32F);
        product.beta = 3.0;
        for (pointer_mode, on_device) in [(0, false), (0, true), (1, false), (1, true)] {
            (product.pointer_mode, product.on_device) = (pointer_mode, on_device);
            if (pointer_mode == 1) == on_device {
                product.check();
            } else {
                assert_eq!(product.run(None).unwrap_err(), INVALID);
            }
        }
        product.pointer_mode = 2;
        assert_eq!(product.run(None).unwrap_err(), UNSUPPORTED);
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
