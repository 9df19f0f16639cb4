//! The GPU path on the simulated GPU: device, memory, program cache, launches and kernels, as on a card.
#![allow(clippy::unwrap_used)]

mod simulated;

use kernels::check::device::{self, Outcome};
use kernels::check::parity::{self, Sink};
use kernels::check::{Case, Input};
use kernels::op::{Cost, Forward, Made, Needs, Op, Run, Shapes};
use kernels::rms_norm::RmsNorm;
use kernels::{Buffer, DType, Device, Error, Role, Spec, run};
use simulated::{IN_CHILD, child, simulated, simulator, text};
use std::path::{Path, PathBuf};
use std::{env, fs};

fn rms_norm(name: &str, rows: usize, width: usize) -> Case {
    Case::check(name, RmsNorm { eps: 1e-5 }, [Input::normal([rows, width]), Input::normal([width])])
}

#[test]
fn a_row_view_that_is_not_aligned_takes_the_scalar_path() {
    simulated(&[&[]], || {
        let (gpu, cpu) = (Device::gpu(0).unwrap(), Device::cpu());
        let on = |device: &Device| {
            // The second row of 72-byte rows starts 8 bytes off a 16-byte boundary; the width alone would allow 16.
            let values: Vec<f32> = (0..64).map(|i| (i as f32 - 20.0) / 7.0).collect();
            let table = Buffer::from_slice(device, [32, 2], &values, Role::Weight).unwrap();
            let x = table.rows(1..25).reshaped([4, 12]);
            let w = Buffer::from_slice(device, [12], &values[..12], Role::Weight).unwrap();
            let ran = run::forward(&RmsNorm { eps: 1e-5 }, vec![x, w], Needs::default()).unwrap();
            ran.outs[0].to_vec::<f32>().unwrap()
        };
        for (a, b) in on(&gpu).iter().zip(on(&cpu)) {
            assert!((a - b).abs() <= 4.0 * f32::EPSILON * b.abs(), "{a} and {b}");
        }
    });
}

#[test]
fn buffers_copy_fill_and_free_on_the_device() {
    simulated(&[&[]], || {
        let gpu = Device::gpu(0).unwrap();
        let mut a = Buffer::from_slice(&gpu, [3, 2], &[1u32, 2, 3, 4, 5, 6], Role::Weight).unwrap();
        assert_eq!(a.rows(1..3).to_vec::<u32>().unwrap(), [3, 4, 5, 6]);
        let copy = a.rows(1..2).copy(Role::Activation).unwrap();
        a.fill_zero().unwrap();
        assert_eq!(copy.to_vec::<u32>().unwrap(), [3, 4]);
        assert_eq!(a.to_vec::<u32>().unwrap(), [0; 6]);
        assert_eq!((gpu.live_bytes(Role::Weight), gpu.live_bytes(Role::Activation)), (24, 8));
        let empty = Buffer::zeros(&gpu, Spec::new(DType::F32, [0, 4]), Role::Weight).unwrap();
        assert_eq!(empty.to_vec::<f32>().unwrap(), []);
        drop((a, copy, empty));
        assert_eq!(gpu.live_bytes(Role::Weight), 0);
        let poisoned =
            Device::gpu_poisoned(0).unwrap().alloc(Spec::new(DType::F32, [2]), Role::Weight).unwrap();
        assert!(poisoned.to_vec::<f32>().unwrap().iter().all(|v| v.is_nan()));
    });
}

#[test]
fn no_rows_make_zero_gradients() {
    simulated(&[&[]], || {
        let gpu = Device::gpu_poisoned(0).unwrap();
        let got = parity::run(&rms_norm("", 0, 8), &gpu, DType::F32, Sink::Acc).unwrap();
        assert_eq!(got.outs[0], []);
        assert_eq!(got.grads[1].as_ref().unwrap(), &[0.0; 8]);
    });
}

#[test]
fn memory_that_runs_out_says_how_much_was_free() {
    simulated(&[&[("NEVA_SIM", "memory=1000")]], || {
        let gpu = Device::gpu(0).unwrap();
        let held = gpu.alloc(Spec::new(DType::F32, [100]), Role::Weight).unwrap();
        let error = gpu.alloc(Spec::new(DType::F32, [200]), Role::Weight).unwrap_err();
        assert_eq!(error.to_string(), "out of memory on cuda:0: asked for 800 bytes, 600 of 1000 are free");
        drop(held);
        gpu.alloc(Spec::new(DType::F32, [200]), Role::Weight).unwrap();
    });
}

/// The identity, on the CPU alone.
#[derive(Debug)]
struct OnlyOnCpu;

impl Op for OnlyOnCpu {
    fn name(&self) -> &'static str {
        "only_on_cpu"
    }

    fn infer(&self, ins: &[Spec]) -> kernels::Result<Shapes> {
        Ok(Shapes::new(ins))
    }

    fn forward(&self, io: &mut Forward) -> kernels::Result<Made> {
        let mut y = io.output(0)?;
        kernels::on_cpu!(io.device(), self.name(), y.dtype(), T => {
            y.slice_mut::<T>().copy_from_slice(io.input(0).slice())
        });
        Ok(Made::outs([y]))
    }

    fn differentiable(&self, _input: usize) -> bool {
        false
    }

    fn cost(&self, _ins: &[Spec], _run: Run) -> Cost {
        Cost::default()
    }
}

#[test]
fn an_op_without_a_kernel_says_so() {
    simulated(&[&[]], || {
        let gpu = Device::gpu(0).unwrap();
        let x = Buffer::zeros(&gpu, Spec::new(DType::F32, [4]), Role::Activation).unwrap();
        let error = run::forward(&OnlyOnCpu, vec![x], Needs::default()).unwrap_err();
        assert_eq!(error.to_string(), "only_on_cpu: not implemented on this device (cuda:0)");
        let case = Case::check("identity", OnlyOnCpu, [Input::normal([4])]);
        assert!(matches!(device::check(&case, &gpu, DType::F32), Outcome::NotImplemented(_)));
    });
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    simulated(&[&[]], || {
        let error = Device::gpu(1).unwrap_err().to_string();
        assert_eq!(
            error,
            "open cuda:1: find the device: CUDA driver: invalid device ordinal (CUDA_ERROR_INVALID_DEVICE)"
        );
    });
}

#[test]
fn compiled_kernels_are_cached_and_damaged_ones_made_anew() {
    const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/damaged-cache");
    simulated(&[&[("NEVA_CACHE_DIR", CACHE)]], || {
        let _ = fs::remove_dir_all(CACHE);
        let run = || {
            let gpu = Device::gpu(0).unwrap();
            parity::run(&rms_norm("", 2, 8), &gpu, DType::F32, Sink::Acc).unwrap();
            // Backward uses a second program, column_sum.
            let files =
                fs::read_dir(Path::new(CACHE).join("kernels")).unwrap().map(|file| file.unwrap().path());
            let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("rms_norm");
            let files: Vec<_> = files.filter(name).collect();
            assert_eq!(files.len(), 1, "{files:?}");
            files[0].clone()
        };
        let file = run();
        let whole = fs::read(&file).unwrap();
        let written = fs::metadata(&file).unwrap().modified().unwrap();
        run();
        assert_eq!(
            fs::metadata(&file).unwrap().modified().unwrap(),
            written,
            "a second device compiled again"
        );
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        run();
        assert_eq!(fs::read(&file).unwrap().len(), whole.len(), "half a file was not replaced");
        // Real machine code for a card, as a wrong cache might hold: refused by the driver, so made anew.
        let mut sass = whole.clone();
        sass[18..20].copy_from_slice(&190u16.to_le_bytes());
        fs::write(&file, &sass).unwrap();
        run();
        assert_ne!(fs::read(&file).unwrap(), sass, "code for another machine was not replaced");
    });
}

#[test]
fn a_cache_that_cannot_be_written_is_no_error() {
    simulated(&[&[("NEVA_CACHE_DIR", "/dev/null")]], || {
        let gpu = Device::gpu(0).unwrap();
        parity::run(&rms_norm("", 2, 8), &gpu, DType::F32, Sink::Acc).unwrap();
    });
}

#[test]
fn wrong_settings_of_the_simulator_are_named() {
    simulated(&[&[("NEVA_SIM", "schedule=fastest")]], || {
        assert!(matches!(Device::gpu(0).unwrap_err(), Error::Driver { .. }));
    });
}

#[test]
fn without_code_or_a_compiler_the_error_names_every_place() {
    if env::var_os(IN_CHILD).is_some() {
        match parity::run(&rms_norm("", 2, 8), &Device::gpu(0).unwrap(), DType::F32, Sink::Acc) {
            Err(e @ Error::NoCode { .. }) => println!("message: {e}"),
            other => println!("NVRTC is installed here: {}", other.is_ok()),
        }
        return;
    }
    let Some(simulator) = simulator() else { return };
    // A machine with the driver alone, whose GPU takes none of the code in this binary.
    let driver_only = Path::new(env!("CARGO_TARGET_TMPDIR")).join("driver-only");
    let _ = fs::remove_dir_all(&driver_only);
    fs::create_dir_all(&driver_only).unwrap();
    fs::copy(simulator.directory().join("libcuda.so"), driver_only.join("libcuda.so")).unwrap();
    let directory = driver_only.to_str().unwrap();
    let nothing = [("PATH", ""), ("HOME", "/nonexistent"), ("VIRTUAL_ENV", ""), ("CUDA_HOME", "")];
    let output = text(&child(&[&nothing[..], &[("NEVA_CUDA_DIR", directory)]].concat(), None));
    let message = output.lines().find(|line| line.contains("message: "));
    match message {
        None => assert!(output.contains("NVRTC is installed here: true"), "{output}"),
        Some(message) => {
            let begins = "kernel rms_norm_1: no code for compute capability 9.0: ";
            assert!(message.contains(begins), "{message}");
            for place in [
                "prebuilt for sm_90a",
                &format!("no NVRTC: searched {directory}, "),
                "prebuilt for compute_80",
            ] {
                assert!(message.contains(place), "{place}: {message}");
            }
        }
    }
}

#[test]
fn without_a_driver_the_error_lists_where_it_was_searched() {
    if env::var_os(IN_CHILD).is_some() {
        match Device::gpu(0) {
            Err(e @ Error::NoCuda { .. }) => println!("message: {e}"),
            other => println!("a driver is installed here: {other:?}"),
        }
        return;
    }
    let output = text(&child(&[("NEVA_CUDA_DIR", "/nonexistent")], None));
    assert!(!output.contains("panicked"), "{output}");
    assert!(
        output.contains("message: no CUDA driver: searched /nonexistent, /nonexistent/lib64, ")
            || output.contains("a driver is installed here"),
        "{output}"
    );
}
