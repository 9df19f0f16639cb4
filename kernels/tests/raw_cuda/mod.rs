//! The driver and cuBLASLt one call at a time, as cudarc's lowest level has them, for tests of the simulator itself.
//! Bodies run in a child process on the simulated GPU.
#![allow(clippy::unwrap_used, dead_code)] // each test file uses some of it
#![allow(clippy::macro_metavars_in_unsafe)] // the macro makes any call

#[path = "../../../tests/simulated/mod.rs"]
pub mod simulated;

use cudarc::driver::sys::{CUdeviceptr, CUfunction, CUmodule, CUresult, CUstream};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};
use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use std::ffi::{CStr, c_void};
use std::path::PathBuf;
use std::ptr::null_mut;
use std::{env, mem};

/// `cuda!(cuMemAlloc_v2(&mut p, 4))`: the call's result.
#[macro_export]
macro_rules! cuda {
    ($($call:tt)*) => {{
        // SAFETY: the only driver here is the simulator, which checks handles and device addresses; host pointers are
        // those of live variables of the caller.
        unsafe { cudarc::driver::sys::$($call)* }
    }};
}

pub const OK: CUresult = CUresult::CUDA_SUCCESS;

/// Streams that the legacy stream does not wait for.
pub const NON_BLOCKING: u32 = 1;

/// Opens the simulator's libraries.
pub fn find_libraries() {
    let directory = PathBuf::from(env::var_os("NEVA_CUDA_DIR").unwrap());
    for name in ["libcuda.so", "libnvrtc.so", "libcublasLt.so"] {
        // SAFETY: the simulator's libraries have no initialisers that need anything.
        let library = unsafe { Library::open(Some(directory.join(name)), RTLD_LAZY | RTLD_LOCAL) }.unwrap();
        mem::forget(library); // cudarc finds it by its name from now on
    }
}

/// Opens the libraries and makes the device's context current.
pub fn open() {
    find_libraries();
    assert_eq!(cuda!(cuInit(0)), OK);
    let mut context = null_mut();
    assert_eq!(cuda!(cuDevicePrimaryCtxRetain(&mut context, 0)), OK);
    assert_eq!(cuda!(cuCtxSetCurrent(context)), OK);
}

pub fn stream(flags: u32) -> CUstream {
    let mut stream = null_mut();
    assert_eq!(cuda!(cuStreamCreate(&mut stream, flags)), OK);
    stream
}

pub fn synchronize(stream: CUstream) -> CUresult {
    cuda!(cuStreamSynchronize(stream))
}

/// Device memory of `bytes` bytes, outside the pool.
pub fn allocate(bytes: usize) -> CUdeviceptr {
    let mut pointer = 0;
    assert_eq!(cuda!(cuMemAlloc_v2(&mut pointer, bytes)), OK);
    pointer
}

/// Device memory that holds `values`.
pub fn upload<T: bytemuck::Pod>(values: &[T]) -> CUdeviceptr {
    let bytes = mem::size_of_val(values);
    let pointer = allocate(bytes);
    assert_eq!(cuda!(cuMemcpyHtoD_v2(pointer, values.as_ptr().cast(), bytes)), OK);
    pointer
}

/// What device memory holds once everything is done.
pub fn download<T: bytemuck::Pod>(pointer: CUdeviceptr, count: usize) -> Vec<T> {
    assert_eq!(cuda!(cuCtxSynchronize()), OK);
    let mut values = vec![T::zeroed(); count];
    assert_eq!(
        cuda!(cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), pointer, mem::size_of_val(&values[..]))),
        OK
    );
    values
}

/// Pinned host memory of `count` bytes.
pub fn pinned(count: usize) -> &'static mut [u8] {
    let mut memory = null_mut();
    assert_eq!(cuda!(cuMemHostAlloc(&mut memory, count, 0)), OK);
    // SAFETY: the driver has just given these bytes, and they are written by it.
    unsafe { std::slice::from_raw_parts_mut(memory.cast(), count) }
}

pub fn copy_to_device(to: CUdeviceptr, from: &[u8], stream: CUstream) -> CUresult {
    cuda!(cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), stream))
}

pub fn copy_to_host(to: &mut [u8], from: CUdeviceptr, stream: CUstream) -> CUresult {
    cuda!(cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), stream))
}

/// Compiles and loads CUDA C++.
pub fn module(source: &CStr) -> CUmodule {
    let program = nvrtc::create_program(source, Some(c"test.cu")).unwrap();
    // SAFETY: the program was just created.
    unsafe { nvrtc::compile_program(program, &["--gpu-architecture=sm_90a"]) }.unwrap();
    let mut bytes = 0;
    // SAFETY: as above; one number is written.
    unsafe { nvrtc_sys::nvrtcGetCUBINSize(program, &mut bytes) }.result().unwrap();
    let mut image = vec![0u8; bytes];
    // SAFETY: as above; as many bytes are written as there are.
    unsafe { nvrtc_sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()) }.result().unwrap();
    let mut module = null_mut();
    assert_eq!(cuda!(cuModuleLoadData(&mut module, image.as_ptr().cast())), OK);
    module
}

pub fn function(module: CUmodule, name: &CStr) -> CUfunction {
    let mut function = null_mut();
    assert_eq!(cuda!(cuModuleGetFunction(&mut function, module, name.as_ptr())), OK);
    function
}

/// Launches one block of 32 threads with a pointer and a number.
pub fn launch(
    function: CUfunction,
    shared: u32,
    stream: CUstream,
    mut out: CUdeviceptr,
    mut value: u32,
) -> CUresult {
    let mut arguments: [*mut c_void; 2] = [(&raw mut out).cast(), (&raw mut value).cast()];
    let result = cuda!(cuLaunchKernel(
        function,
        1,
        1,
        1,
        32,
        1,
        1,
        shared,
        stream,
        arguments.as_mut_ptr(),
        null_mut()
    ));
    (out, value) = (0, 0); // the driver has taken copies
    let _ = (out, value);
    result
}
