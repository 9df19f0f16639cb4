//! Launches, functions and graphs on the simulated driver.
#![allow(clippy::unwrap_used, clippy::macro_metavars_in_unsafe)] // cuda! makes any call

mod raw_cuda;

use cudarc::driver::sys::{self, CUresult};
use raw_cuda::simulated::{child, simulated, simulator, text};
use raw_cuda::*;
use std::env;
use std::ffi::c_void;
use std::ptr::null_mut;

const LATE: &[(&str, &str)] = &[("NEVA_SIM", "late")];
const EARLY: &[(&str, &str)] = &[("NEVA_SIM", "early")];

const SOURCE: &std::ffi::CStr = cr#"
#include "ptx.cuh"
KERNEL(32, add, u32* out, u32 value) { if (threadIdx.x == 0) *out += value; }
KERNEL(32, through_shared, u32* out, u32 value) {
  DYN_SMEM(bytes);
  u32* words = reinterpret_cast<u32*>(bytes);
  words[value / 4 - 1] = 5;
  if (threadIdx.x == 0) *out = words[value / 4 - 1];
}
KERNEL(32, static_shared, u32* out, u32 value) {
  SMEM_ARRAY(u32, words, 10 << 10);
  words[threadIdx.x] = value;
  out[0] = words[threadIdx.x];
}
"#;

#[test]
fn arguments_are_copied_at_the_launch_and_code_outlives_its_module() {
    simulated(&[LATE, EARLY], || {
        open();
        let (stream, out, module) = (stream(NON_BLOCKING), upload(&[1u32]), module(SOURCE));
        let add = function(module, c"add");
        for value in [10, 100] {
            assert_eq!(launch(add, 0, stream, out, value), OK);
        }
        assert_eq!(cuda!(cuModuleUnload(module)), OK);
        assert_eq!(launch(add, 0, stream, out, 1), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(download::<u32>(out, 1), [111]);
    });
}

#[test]
fn dynamic_shared_memory_beyond_48_kib_has_to_be_asked_for() {
    use sys::CUfunction_attribute::*;
    simulated(&[LATE], || {
        open();
        let (stream, out) = (stream(NON_BLOCKING), upload(&[0u32]));
        let through_shared = function(module(SOURCE), c"through_shared");
        let (most, invalid) = (227 << 10, CUresult::CUDA_ERROR_INVALID_VALUE);
        let attribute = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let mut value = 0;
        assert_eq!(cuda!(cuFuncGetAttribute(&mut value, attribute, through_shared)), OK);
        assert_eq!(value, 48 << 10);
        assert_eq!(launch(through_shared, most, stream, out, most), invalid);
        assert_eq!(cuda!(cuFuncSetAttribute(through_shared, attribute, most as i32 + 1)), invalid);
        assert_eq!(cuda!(cuFuncSetAttribute(through_shared, attribute, most as i32)), OK);
        assert_eq!(launch(through_shared, most, stream, out, most), OK);
        assert_eq!(launch(through_shared, most + 1, stream, out, most), invalid);
        assert_eq!(download::<u32>(out, 1), [5]);
        for (threads, shared, expected) in
            [(32, 0, 32), (32, most as usize, 1), (32, 100 << 10, 2), (64, 0, 0)]
        {
            let mut blocks = -1;
            let result = cuda!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut blocks,
                through_shared,
                threads,
                shared
            ));
            assert_eq!((result, blocks), (OK, expected), "{threads} threads, {shared} bytes");
        }
        assert_eq!(
            cuda!(cuFuncGetAttribute(&mut value, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, through_shared)),
            OK
        );
        assert_eq!(value, 32);
    });
}

/// On a card the launch is refused: there the compiler has said how much is static.
#[test]
fn static_and_dynamic_shared_memory_count_together() {
    simulated(&[LATE], || {
        open();
        let (stream, out) = (stream(NON_BLOCKING), upload(&[0u32]));
        let static_shared = function(module(SOURCE), c"static_shared");
        assert_eq!(launch(static_shared, 8 << 10, stream, out, 3), OK);
        assert_eq!(download::<u32>(out, 1), [3]);
        assert_eq!(launch(static_shared, (8 << 10) + 1, stream, out, 4), OK);
        assert_eq!(synchronize(stream), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    });
}

/// Launches `add` with one attribute.
fn launch_with(
    add: sys::CUfunction,
    stream: sys::CUstream,
    mut out: u64,
    id: sys::CUlaunchAttributeID,
    value: sys::CUlaunchAttributeValue,
) -> CUresult {
    let mut attribute = sys::CUlaunchAttribute { id, pad: [0; 4], value };
    let config = sys::CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: stream,
        attrs: &mut attribute,
        numAttrs: 1,
    };
    let mut value = 1u32;
    let mut arguments: [*mut c_void; 2] = [(&raw mut out).cast(), (&raw mut value).cast()];
    cuda!(cuLaunchKernelEx(&config, add, arguments.as_mut_ptr(), null_mut()))
}

#[test]
fn launch_attributes_are_honoured_or_refused() {
    use sys::CUlaunchAttributeID::*;
    simulated(&[LATE], || {
        open();
        let (stream, out) = (stream(NON_BLOCKING), upload(&[0u32]));
        let add = function(module(SOURCE), c"add");
        let flag = sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 };
        let cluster = |x| sys::CUlaunchAttributeValue {
            clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y: 1, z: 1 },
        };
        let id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        assert_eq!(launch_with(add, stream, out, id, flag), OK);
        let id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        assert_eq!(launch_with(add, stream, out, id, cluster(1)), OK);
        assert_eq!(launch_with(add, stream, out, id, cluster(0)), CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE);
        assert_eq!(launch_with(add, stream, out, id, cluster(2)), CUresult::CUDA_ERROR_NOT_SUPPORTED);
        let id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
        assert_eq!(launch_with(add, stream, out, id, flag), CUresult::CUDA_ERROR_NOT_SUPPORTED);
        assert_eq!(download::<u32>(out, 1), [2]);
    });
}

#[test]
fn a_planned_fault_comes_back_with_the_wait_and_stays() {
    if env::var_os(simulated::IN_CHILD).is_some() {
        open();
        let (stream, out) = (stream(NON_BLOCKING), upload(&[0u32]));
        let add = function(module(SOURCE), c"add");
        let failed = CUresult::CUDA_ERROR_LAUNCH_FAILED;
        for _ in 0..3 {
            assert_eq!(launch(add, 0, stream, out, 1), OK);
        }
        assert_eq!(synchronize(stream), failed);
        assert_eq!(launch(add, 0, stream, out, 1), failed);
        return;
    }
    let Some(simulator) = simulator() else { return };
    let output = child(&[("NEVA_SIM_FAULT", "launch:2")], Some(simulator));
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(text(&output).matches("kernel add: NEVA_SIM_FAULT lets it fail").count(), 1);
}

// ---- graphs ----

fn begin(stream: sys::CUstream, mode: sys::CUstreamCaptureMode) {
    assert_eq!(cuda!(cuStreamBeginCapture_v2(stream, mode)), OK);
}

fn end(stream: sys::CUstream) -> Result<sys::CUgraph, CUresult> {
    let mut graph = null_mut();
    match cuda!(cuStreamEndCapture(stream, &mut graph)) {
        OK => Ok(graph),
        wrong => Err(wrong),
    }
}

fn instantiate(graph: sys::CUgraph) -> sys::CUgraphExec {
    let mut executable = null_mut();
    assert_eq!(cuda!(cuGraphInstantiateWithFlags(&mut executable, graph, 0)), OK);
    executable
}

#[test]
fn a_graph_does_again_what_was_recorded() {
    simulated(&[LATE, EARLY], || {
        open();
        let (stream, slot, input, out) = (stream(NON_BLOCKING), pinned(4), allocate(4), upload(&[0u32]));
        let add = function(module(SOURCE), c"add");
        begin(stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL);
        let mut scratch = 0;
        assert_eq!(cuda!(cuMemAllocAsync(&mut scratch, 4, stream)), OK);
        assert_eq!(copy_to_device(input, slot, stream), OK);
        assert_eq!(cuda!(cuMemcpyDtoDAsync_v2(scratch, input, 4, stream)), OK);
        assert_eq!(launch(add, 0, stream, scratch, 1), OK);
        assert_eq!(cuda!(cuMemcpyDtoDAsync_v2(out, scratch, 4, stream)), OK);
        assert_eq!(cuda!(cuMemFreeAsync(scratch, stream)), OK);
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        assert_eq!(cuda!(cuStreamIsCapturing(stream, &mut status)), OK);
        assert_eq!(status, sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
        let graph = end(stream).unwrap();
        let executable = instantiate(graph);
        assert_eq!(cuda!(cuGraphDestroy(graph)), OK);
        assert_eq!(download::<u32>(out, 1), [0], "recording runs nothing");
        for value in [41u32, 99] {
            slot.copy_from_slice(&value.to_le_bytes());
            assert_eq!(cuda!(cuGraphLaunch(executable, stream)), OK);
            assert_eq!(download::<u32>(out, 1), [value + 1]);
        }
        assert_eq!(cuda!(cuGraphLaunch(executable, stream)), OK);
        assert_eq!(cuda!(cuGraphExecDestroy(executable)), OK);
        assert_eq!(synchronize(stream), OK, "what was launched still runs");
        assert_eq!(cuda!(cuGraphLaunch(executable, stream)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    });
}

/// The node of a graph has an address; nobody has taken a copy of what was there.
#[test]
fn a_graph_reads_pageable_memory_at_each_launch() {
    simulated(&[LATE], || {
        open();
        let (stream, device, mut host) = (stream(NON_BLOCKING), allocate(1), vec![1u8]);
        begin(stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED);
        assert_eq!(copy_to_device(device, &host, stream), OK);
        let executable = instantiate(end(stream).unwrap());
        for value in [5, 6] {
            host.fill(value);
            assert_eq!(cuda!(cuGraphLaunch(executable, stream)), OK);
            assert_eq!(download::<u8>(device, 1), [value]);
        }
    });
}

#[test]
fn waiting_spoils_a_capture() {
    use sys::CUstreamCaptureMode::*;
    simulated(&[LATE], || {
        open();
        let (stream, unsupported) = (stream(NON_BLOCKING), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        let spoilt = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        begin(stream, CU_STREAM_CAPTURE_MODE_RELAXED);
        assert_eq!(synchronize(stream), unsupported);
        assert_eq!(cuda!(cuMemsetD8Async(allocate(1), 0, 1, stream)), spoilt);
        assert_eq!(end(stream), Err(spoilt));
        assert_eq!(synchronize(stream), OK, "the stream itself is sound again");

        begin(stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
        assert_eq!(cuda!(cuMemAlloc_v2(&mut 0, 16)), unsupported);
        assert_eq!(end(stream), Err(spoilt));

        let mut event = null_mut();
        assert_eq!(cuda!(cuEventCreate(&mut event, 0)), OK);
        begin(stream, CU_STREAM_CAPTURE_MODE_RELAXED);
        assert_eq!(cuda!(cuMemFree_v2(allocate(16))), OK, "relaxed: nothing waits for this stream");
        assert_eq!(cuda!(cuEventRecord(event, stream)), OK);
        assert_eq!(cuda!(cuEventQuery(event)), CUresult::CUDA_ERROR_CAPTURED_EVENT);
        assert_eq!(end(stream), Err(spoilt));
        assert_eq!(end(stream), Err(CUresult::CUDA_ERROR_ILLEGAL_STATE), "no capture is left");
    });
}
