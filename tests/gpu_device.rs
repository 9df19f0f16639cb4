//! A GPU as a device, on the simulated one: copies through pinned memory, matrix products and the algorithms that are
//! kept for them, times, settings, and what goes wrong.
#![allow(clippy::unwrap_used)]

mod simulated;

use kernels::gemm::{Gemm, Kind};
use kernels::op::Needs;
use kernels::{Buffer, DType, Device, Error, Role, Spec, run};
use simulated::{IN_CHILD, child, simulated, simulator, text};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// A slot of the ring that copies go through.
const SLOT: usize = 4 << 20;

fn bytes(n: usize, seed: usize) -> Vec<u32> {
    (0..n.div_ceil(4)).map(|i| (i * 2_654_435_761 + seed) as u32).collect()
}

fn raw(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

#[test]
fn copies_of_any_size_arrive_whole() {
    simulated(&[&[], &[("NEVA_SIM", "early")]], || {
        let gpu = Device::gpu_poisoned(0).unwrap();
        // One value; a slot but for a line; a slot; a little more; more than the ring holds; a line again.
        for n in [4, SLOT - 64, SLOT, SLOT + 12, 5 * SLOT + 4, 64] {
            let values = bytes(n, n);
            let mut buffer = Buffer::from_slice(&gpu, [values.len()], &values, Role::Weight).unwrap();
            assert!(buffer.to_vec::<u32>().unwrap() == values, "{n} bytes");
            let (head, tail) = values.split_at(values.len() / 3);
            buffer.copy_from_parts(&[&raw(tail), &raw(head)]).unwrap();
            assert!(buffer.to_vec::<u32>().unwrap() == [tail, head].concat(), "{n} bytes in two parts");
        }
    });
}

#[test]
fn uploads_that_nobody_waits_for_keep_their_bytes() {
    // Under `late`, copies are done at the last moment: a slot filled anew before that would give them the new bytes.
    simulated(&[&[("NEVA_SIM", "late")], &[("NEVA_SIM", "early")]], || {
        let gpu = Device::gpu(0).unwrap();
        let mut staged = bytes(SLOT / 2 + 4096, 0);
        let buffers: Vec<Buffer> = (0..24)
            .map(|i| {
                staged.iter_mut().for_each(|v| *v = v.wrapping_add(1));
                let n = if i % 3 == 0 { 5 } else { staged.len() };
                Buffer::from_slice(&gpu, [n], &staged[..n], Role::Activation).unwrap()
            })
            .collect();
        let first = bytes(SLOT / 2 + 4096, 0);
        for (i, buffer) in buffers.iter().enumerate() {
            let got = buffer.to_vec::<u32>().unwrap();
            let added = i as u32 + 1;
            assert!(got.iter().zip(&first).all(|(v, first)| *v == first.wrapping_add(added)), "upload {i}");
        }
    });
}

#[test]
fn buffers_move_between_devices() {
    simulated(&[&[]], || {
        let (gpu, cpu) = (Device::gpu(0).unwrap(), Device::cpu());
        let values = bytes(256, 3);
        let there = Buffer::from_slice(&cpu, [8, 8], &values, Role::Weight).unwrap().to_device(&gpu).unwrap();
        assert!(there.device().same(&gpu) && there.as_host().is_none());
        assert_eq!((there.dims(), there.role()), (&[8, 8][..], Role::Weight));
        let back = there.to_device(&cpu).unwrap();
        assert_eq!(back.as_host().unwrap(), raw(&values));
        assert_eq!(gpu.live_bytes(Role::Weight), 0);
    });
}

/// `a b^T` of values that f32 holds exactly and TF32 does not, on this device.
fn product(device: &Device, rows: usize, n: usize, k: usize) -> Vec<f32> {
    let values = |n: usize, step: f32| -> Vec<f32> { (0..n).map(|i| 1.0 + (i % 97) as f32 * step).collect() };
    let on = |dims: [usize; 2], step| {
        Buffer::from_slice(device, dims, &values(dims[0] * dims[1], step), Role::Activation).unwrap()
    };
    let ins = vec![on([rows, k], 1.0 / 4096.0), on([n, k], 1.0 / 8192.0)];
    run::forward(&Gemm::new(Kind::NT), ins, Needs::default()).unwrap().outs[0].to_vec().unwrap()
}

/// The largest difference between the products of the GPU and the CPU, relative.
fn rounding() -> f32 {
    let (gpu, cpu) = (product(&Device::gpu(0).unwrap(), 8, 16, 32), product(&Device::cpu(), 8, 16, 32));
    gpu.iter().zip(&cpu).map(|(g, c)| (g - c).abs() / c.abs()).fold(0.0, f32::max)
}

#[test]
fn products_of_f32_keep_their_factors_whole() {
    simulated(&[&[], &[("NEVA_TF32", "0")]], || assert!(rounding() < 1e-6, "{}", rounding()));
}

#[test]
fn products_of_f32_round_their_factors_when_asked() {
    let tf32 = [("NEVA_TF32", "1")];
    simulated(&[&tf32], || assert!((1e-5..1e-2).contains(&rounding()), "{}", rounding()));
}

/// The files of kept algorithms.
fn algorithms(cache: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(Path::new(cache).join("blas")).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn a_choice_of_algorithm_is_kept_and_a_damaged_one_made_anew() {
    const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/kept-algorithms");
    simulated(&[&[("NEVA_CACHE_DIR", CACHE)]], || {
        let _ = fs::remove_dir_all(CACHE);
        let fresh = || product(&Device::gpu(0).unwrap(), 40, 24, 512);
        let first = fresh();
        let files = algorithms(CACHE);
        assert_eq!(files.len(), 1, "{files:?}");
        let kept = fs::read_to_string(&files[0]).unwrap();
        let (line, rest) = kept.split_once('\n').unwrap();
        assert!(line.contains("TN by columns, 24 x 40 x 512 of f32 into f32, 1 of them"), "{line}");
        let (sizes, words) = rest.split_once('\n').unwrap();
        assert_eq!((sizes, words.lines().count()), ("24 40 512 1", 8));

        let written = fs::metadata(&files[0]).unwrap().modified().unwrap();
        assert_eq!(fresh(), first, "a later process adds in the same order");
        assert_eq!(fs::metadata(&files[0]).unwrap().modified().unwrap(), written, "it was chosen again");

        let nonsense = "ffffffffffffffff\n".repeat(8);
        for damaged in [&kept[..kept.len() / 2], "", &format!("{line}\n{sizes}\n{nonsense}")] {
            fs::write(&files[0], damaged).unwrap();
            assert_eq!(fresh().len(), first.len());
            let again = fs::read_to_string(&files[0]).unwrap();
            assert!(
                again.starts_with(line) && again.len() == kept.len() && !again.contains(&nonsense),
                "{again}"
            );
        }
    });
}

#[test]
fn nearly_equal_sizes_share_an_algorithm_and_others_have_their_own() {
    const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/shared-algorithms");
    simulated(&[&[("NEVA_CACHE_DIR", CACHE)]], || {
        let _ = fs::remove_dir_all(CACHE);
        // Odd widths: the library has one algorithm for them, good for any size.
        let odd = |rows| product(&Device::gpu(0).unwrap(), rows, 23, 511);
        for (rows, files) in [(40, 1), (38, 1), (40, 1), (64, 2)] {
            assert_eq!(odd(rows).len(), rows * 23);
            assert_eq!(algorithms(CACHE).len(), files, "after {rows} rows");
        }
        // The split sum, here made the choice, is good for the size that it was chosen for and no other.
        let even = |rows| product(&Device::gpu(0).unwrap(), rows, 24, 512);
        even(40);
        let file =
            algorithms(CACHE).into_iter().find(|f| fs::read_to_string(f).unwrap().contains("24 40 512 1"));
        let (file, split) = (file.unwrap(), format!("{:016x}\n{:016x}\n", 16u64 << 32 | 1, 24 * 40 * 4));
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        fs::write(&file, lines[..3].concat() + &split + &lines[5..].concat()).unwrap();
        let (split, before) = (fs::read_to_string(&file).unwrap(), algorithms(CACHE).len());
        let (few, many) = (even(38), even(40));
        assert_eq!(algorithms(CACHE).len(), before + 1, "38 rows have a file of their own");
        assert_eq!((even(38), even(40)), (few, many), "neither changes the other's choice");
        assert_eq!((fs::read_to_string(&file).unwrap(), algorithms(CACHE).len()), (split, before + 1));
    });
}

#[test]
fn without_the_library_a_product_says_where_it_was_searched() {
    if env::var_os(IN_CHILD).is_some() {
        let gpu = Device::gpu(0).unwrap();
        let a = || Buffer::zeros(&gpu, Spec::new(DType::F32, [4, 4]), Role::Activation).unwrap();
        match run::forward(&Gemm::new(Kind::NN), vec![a(), a()], Needs::default()) {
            Err(e @ Error::NoBlas { .. }) => println!("message: {e}"),
            other => println!("the library is installed here: {:?}", other.map(|ran| ran.outs)),
        }
        println!("{}", if gpu.ready().is_err() { "not ready" } else { "ready" });
        return;
    }
    let Some(simulator) = simulator() else { return };
    let bare = Path::new(env!("CARGO_TARGET_TMPDIR")).join("driver-only");
    fs::create_dir_all(&bare).unwrap();
    for library in ["libcuda.so", "libnvrtc.so"] {
        fs::copy(simulator.directory().join(library), bare.join(library)).unwrap();
    }
    let output = text(&child(&[("NEVA_CUDA_DIR", bare.to_str().unwrap())], Some(simulator)));
    let expected = format!("message: no cuBLASLt: searched {}, ", bare.display());
    assert!(
        output.contains(&expected) && output.contains("not ready")
            || output.contains("the library is installed here"),
        "{output}"
    );
}

#[test]
fn a_trace_has_the_times_of_the_device() {
    simulated(&[&[], &[("NEVA_SIM", "early")]], || {
        let gpu = Device::gpu(0).unwrap();
        product(&gpu, 64, 64, 256); // so that what is timed below is not the choice of an algorithm
        gpu.start_trace();
        product(&gpu, 64, 64, 256);
        let trace = gpu.take_trace().unwrap();
        assert_eq!(trace.iter().map(|e| e.op).collect::<Vec<_>>(), ["gemm"]);
        assert!(!trace[0].time.is_zero() && trace[0].time.as_secs() < 10, "{:?}", trace[0].time);
        assert!(gpu.take_trace().unwrap().is_empty());
    });
}

#[test]
fn a_setting_that_is_neither_yes_nor_no_is_refused() {
    for (name, value) in [("NEVA_SYNC", "2"), ("NEVA_TF32", "yes")] {
        simulated(&[&[(name, value)]], || {
            let error = Device::gpu(0).unwrap_err().to_string();
            let expected = ["NEVA_SYNC: expected 0 or 1, got 2", "NEVA_TF32: expected 0 or 1, got yes"];
            assert!(expected.contains(&&*error), "{error}");
        });
    }
}

#[test]
fn a_product_that_faults_is_named_when_each_op_is_waited_for() {
    simulated(&[&[("NEVA_SYNC", "1"), ("NEVA_SIM_FAULT", "launch:1")]], || {
        let gpu = Device::gpu(0).unwrap();
        let a = || Buffer::zeros(&gpu, Spec::new(DType::F32, [3, 3]), Role::Activation).unwrap();
        let error = run::forward(&Gemm::new(Kind::NN), vec![a(), a()], Needs::default()).unwrap_err();
        assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
        assert!(error.to_string().starts_with("gemm: CUDA driver: unspecified launch failure"), "{error}");
    });
}

#[test]
fn room_that_is_free_in_pieces_is_found() {
    simulated(&[&[("NEVA_SIM", "memory=4096")]], || {
        let gpu = Device::gpu(0).unwrap();
        let mut held: Vec<Buffer> =
            (0..4).map(|_| gpu.alloc(Spec::new(DType::F32, [256]), Role::Weight).unwrap()).collect();
        let error = gpu.alloc(Spec::new(DType::F32, [1]), Role::Weight).unwrap_err().to_string();
        assert_eq!(error, "out of memory on cuda:0: asked for 4 bytes, 0 of 4096 are free");
        held.truncate(1);
        gpu.alloc(Spec::new(DType::F32, [768]), Role::Weight).unwrap();
    });
}
