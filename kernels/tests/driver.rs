//! The simulated driver keeps the driver's promises and no others: what a program may not rely on shows, late or early.
#![allow(clippy::unwrap_used, clippy::macro_metavars_in_unsafe)] // cuda! makes any call

mod raw_cuda;

use cudarc::driver::sys::{self, CUresult};
use raw_cuda::simulated::simulated;
use raw_cuda::*;
use std::ptr::{null, null_mut};
use std::{env, thread};

const LATE: &[(&str, &str)] = &[("NEVA_SIM", "late")];
const EARLY: &[(&str, &str)] = &[("NEVA_SIM", "early")];

fn late() -> bool {
    env::var("NEVA_SIM").unwrap() == "late"
}

fn event() -> sys::CUevent {
    let mut event = null_mut();
    assert_eq!(cuda!(cuEventCreate(&mut event, 0)), OK);
    event
}

/// The planted bug first: a slot of pinned memory that is filled again before the copy from it is known to be over.
#[test]
fn pinned_memory_is_read_when_the_copy_runs() {
    simulated(&[LATE, EARLY], || {
        open();
        let (stream, slot, device) = (stream(NON_BLOCKING), pinned(16), allocate(16));
        slot.fill(1);
        assert_eq!(copy_to_device(device, slot, stream), OK);
        slot.fill(2);
        assert_eq!(download::<u8>(device, 16), [if late() { 2 } else { 1 }; 16]);
        let copied = event();
        slot.fill(3);
        assert_eq!(copy_to_device(device, slot, stream), OK);
        assert_eq!(cuda!(cuEventRecord(copied, stream)), OK);
        assert_eq!(cuda!(cuEventSynchronize(copied)), OK);
        slot.fill(4);
        assert_eq!(download::<u8>(device, 16), [3; 16]);
    });
}

#[test]
fn pageable_memory_is_read_at_the_call_and_written_before_it_returns() {
    simulated(&[LATE, EARLY], || {
        open();
        let (stream, device) = (stream(NON_BLOCKING), allocate(16));
        let mut host = vec![1; 16];
        assert_eq!(copy_to_device(device, &host, stream), OK);
        host.fill(2);
        drop(host);
        let mut back = [0; 16];
        assert_eq!(copy_to_host(&mut back, device, stream), OK);
        assert_eq!(back, [1; 16]);
    });
}

#[test]
fn a_copy_to_pinned_memory_is_not_there_before_the_wait() {
    simulated(&[LATE, EARLY], || {
        open();
        let (stream, slot, device) = (stream(NON_BLOCKING), pinned(16), upload(&[7u8; 16]));
        slot.fill(0);
        assert_eq!(copy_to_host(slot, device, stream), OK);
        assert_eq!(slot[0], if late() { 0 } else { 7 });
        assert_eq!(synchronize(stream), OK);
        assert_eq!(slot, [7; 16]);
    });
}

#[test]
fn pinned_memory_freed_under_a_copy_is_a_fault() {
    simulated(&[LATE], || {
        open();
        let (stream, slot, device) = (stream(NON_BLOCKING), pinned(16), allocate(16));
        assert_eq!(copy_to_device(device, slot, stream), OK);
        assert_eq!(cuda!(cuMemFreeHost(slot.as_mut_ptr().cast())), OK);
        assert_eq!(synchronize(stream), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(synchronize(stream), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "and for good");
    });
}

/// Without the event, the reader's stream runs first under one of the two.
#[test]
fn only_an_event_orders_two_streams() {
    simulated(&[LATE, EARLY], || {
        open();
        for ordered in [false, true] {
            let (writer, reader, from, to) =
                (stream(NON_BLOCKING), stream(NON_BLOCKING), upload(&[1u8]), upload(&[0u8]));
            assert_eq!(cuda!(cuMemsetD8Async(from, 2, 1, writer)), OK);
            if ordered {
                let written = event();
                assert_eq!(cuda!(cuEventRecord(written, writer)), OK);
                assert_eq!(cuda!(cuStreamWaitEvent(reader, written, 0)), OK);
            }
            assert_eq!(cuda!(cuMemcpyDtoDAsync_v2(to, from, 1, reader)), OK);
            assert_eq!(synchronize(reader), OK);
            let stale = late() && !ordered;
            assert_eq!(download::<u8>(to, 1), [if stale { 1 } else { 2 }], "ordered: {ordered}");
        }
    });
}

/// A blocking copy runs in the legacy stream, which knows nothing of the streams that do not block.
#[test]
fn a_blocking_copy_waits_for_blocking_streams_alone() {
    simulated(&[LATE], || {
        open();
        for (flags, seen) in [(0, 2), (NON_BLOCKING, 1)] {
            let (stream, device, mut host) = (stream(flags), upload(&[1u8]), [0u8]);
            assert_eq!(cuda!(cuMemsetD8Async(device, 2, 1, stream)), OK);
            assert_eq!(cuda!(cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), device, 1)), OK);
            assert_eq!(host, [seen]);
        }
    });
}

/// The other way round: a fill without a stream runs in the legacy stream.
#[test]
fn blocking_streams_alone_wait_for_the_legacy_stream() {
    simulated(&[LATE], || {
        open();
        for (flags, seen) in [(0, 2), (NON_BLOCKING, 1)] {
            let (stream, from, to) = (stream(flags), upload(&[1u8]), upload(&[0u8]));
            assert_eq!(cuda!(cuMemsetD8_v2(from, 2, 1)), OK);
            assert_eq!(cuda!(cuMemcpyDtoDAsync_v2(to, from, 1, stream)), OK);
            assert_eq!(synchronize(stream), OK);
            assert_eq!(download::<u8>(to, 1), [seen]);
        }
    });
}

#[test]
fn asking_again_and_again_comes_to_an_end() {
    simulated(&[LATE], || {
        open();
        let (stream, device) = (stream(NON_BLOCKING), allocate(16));
        let (start, end, mut milliseconds) = (event(), event(), -1.0);
        assert_eq!(cuda!(cuEventQuery(end)), OK, "never recorded");
        assert_eq!(cuda!(cuEventRecord(start, stream)), OK);
        assert_eq!(cuda!(cuMemsetD8Async(device, 2, 16, stream)), OK);
        assert_eq!(cuda!(cuEventRecord(end, stream)), OK);
        let not_ready = CUresult::CUDA_ERROR_NOT_READY;
        assert_eq!(cuda!(cuStreamQuery(stream)), not_ready);
        assert_eq!(cuda!(cuEventElapsedTime_v2(&mut milliseconds, start, end)), not_ready);
        let mut asked = 1;
        while cuda!(cuEventQuery(end)) == not_ready {
            asked += 1;
        }
        assert_eq!(asked, 3, "two pieces of work were left");
        assert_eq!(cuda!(cuEventElapsedTime_v2(&mut milliseconds, start, end)), OK);
        assert!(milliseconds >= 0.0);
        let mut untimed = null_mut();
        assert_eq!(cuda!(cuEventCreate(&mut untimed, 2)), OK);
        assert_eq!(cuda!(cuEventRecord(untimed, stream)), OK);
        let invalid = CUresult::CUDA_ERROR_INVALID_HANDLE;
        assert_eq!(cuda!(cuEventElapsedTime_v2(&mut milliseconds, untimed, end)), invalid);
        assert_eq!(cuda!(cuEventDestroy_v2(end)), OK);
        assert_eq!(cuda!(cuEventQuery(end)), invalid);
        assert_eq!(cuda!(cuStreamDestroy_v2(stream)), OK);
        assert_eq!(synchronize(stream), invalid);
    });
}

fn pool() -> sys::CUmemoryPool {
    let mut pool = null_mut();
    assert_eq!(cuda!(cuDeviceGetDefaultMemPool(&mut pool, 0)), OK);
    pool
}

fn pool_bytes(attribute: sys::CUmemPool_attribute) -> u64 {
    let mut value = 0u64;
    assert_eq!(cuda!(cuMemPoolGetAttribute(pool(), attribute, (&raw mut value).cast())), OK);
    value
}

#[test]
fn freed_memory_is_there_again_in_stream_order() {
    use sys::CUmemPool_attribute::*;
    simulated(&[&[("NEVA_SIM", "late,memory=1000000")], &[("NEVA_SIM", "early,memory=1000000")]], || {
        open();
        let stream = stream(NON_BLOCKING);
        let (mut first, mut second) = (0, 0);
        assert_eq!(cuda!(cuMemAllocAsync(&mut first, 0, stream)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(cuda!(cuMemAllocAsync(&mut first, 600_000, stream)), OK);
        let full = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        assert_eq!(cuda!(cuMemAllocAsync(&mut second, 600_000, stream)), full);
        assert_eq!(cuda!(cuMemAlloc_v2(&mut second, 600_000)), full);
        assert_eq!(cuda!(cuMemFreeAsync(first, stream)), OK);
        assert_eq!(cuda!(cuMemFreeAsync(first, stream)), CUresult::CUDA_ERROR_INVALID_VALUE, "twice");
        assert_eq!(cuda!(cuMemAllocAsync(&mut second, 600_000, stream)), OK);
        assert_eq!(pool_bytes(CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 600_000);
        assert_eq!(pool_bytes(CU_MEMPOOL_ATTR_USED_MEM_HIGH), 600_000);
        assert_eq!(cuda!(cuMemFreeAsync(second, stream)), OK);
        assert_eq!(pool_bytes(CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
        assert_eq!(synchronize(stream), OK);
        assert_eq!(cuda!(cuMemFree_v2(allocate(900_000))), OK, "nothing is left over");
    });
}

#[test]
fn the_pool_keeps_what_its_threshold_says() {
    use sys::CUmemPool_attribute::*;
    simulated(&[LATE], || {
        open();
        let (stream, step) = (stream(NON_BLOCKING), 32 << 20);
        for (threshold, kept) in [(0, 0), (u64::MAX, step)] {
            let mut value = threshold;
            let attribute = CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            assert_eq!(cuda!(cuMemPoolSetAttribute(pool(), attribute, (&raw mut value).cast())), OK);
            let mut pointer = 0;
            assert_eq!(cuda!(cuMemAllocAsync(&mut pointer, 1000, stream)), OK);
            assert_eq!(pool_bytes(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), step);
            assert_eq!(cuda!(cuMemFreeAsync(pointer, stream)), OK);
            assert_eq!(synchronize(stream), OK);
            assert_eq!(pool_bytes(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), kept);
            let (mut free, mut total) = (0, 0);
            assert_eq!(cuda!(cuMemGetInfo_v2(&mut free, &mut total)), OK);
            assert_eq!((total - free) as u64, kept);
        }
        assert_eq!(cuda!(cuMemPoolTrimTo(pool(), 0)), OK);
        assert_eq!(pool_bytes(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 0);
        assert_eq!(pool_bytes(CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH), step);
    });
}

#[test]
fn device_memory_freed_under_a_copy_is_a_fault() {
    simulated(&[LATE, EARLY], || {
        open();
        let stream = stream(NON_BLOCKING);
        let (mut freed, kept) = (0, allocate(16));
        assert_eq!(cuda!(cuMemAllocAsync(&mut freed, 16, stream)), OK);
        assert_eq!(cuda!(cuMemcpyDtoDAsync_v2(kept, freed, 17, stream)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(cuda!(cuMemFreeAsync(freed, stream)), OK);
        let copied = cuda!(cuMemcpyDtoDAsync_v2(kept, freed, 16, stream));
        if late() {
            assert_eq!(copied, OK);
            assert_eq!(synchronize(stream), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        } else {
            assert_eq!(copied, CUresult::CUDA_ERROR_INVALID_VALUE);
        }
    });
}

#[test]
fn copies_of_nothing_and_onto_themselves() {
    simulated(&[LATE], || {
        open();
        let (stream, device) = (stream(NON_BLOCKING), upload(&[1u8, 2, 3, 4]));
        assert_eq!(cuda!(cuMemcpyDtoDAsync_v2(device + 2, device, 2, stream)), OK);
        assert_eq!(
            cuda!(cuMemcpyDtoDAsync_v2(device + 1, device, 2, stream)),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(copy_to_device(0, &[], stream), OK);
        assert_eq!(copy_to_device(device + 3, &[0, 0], stream), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(cuda!(cuMemsetD32Async(device + 2, 0, 1, stream)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(download::<u8>(device, 4), [1, 2, 1, 2]);
    });
}

#[test]
fn a_planned_allocation_finds_no_room() {
    simulated(&[&[("NEVA_SIM_FAULT", "alloc:2")]], || {
        open();
        let mut pointer = 0;
        for expected in [OK, CUresult::CUDA_ERROR_OUT_OF_MEMORY, OK] {
            assert_eq!(cuda!(cuMemAlloc_v2(&mut pointer, 16)), expected);
        }
    });
}

#[test]
fn a_plan_that_makes_no_sense_is_refused() {
    let plans = ["launch", "launch:", "launch:0", "launch:x", "alloc:-1", "copy:3", "alloc:1,,"];
    let environments = plans.map(|plan| [("NEVA_SIM_FAULT", plan)]);
    let environments: Vec<&[(&str, &str)]> = environments.iter().map(|e| &e[..]).collect();
    simulated(&environments, || {
        find_libraries();
        assert_eq!(cuda!(cuInit(0)), CUresult::CUDA_ERROR_INVALID_VALUE);
    });
}

#[test]
fn a_thread_without_the_context_is_told() {
    simulated(&[LATE], || {
        open();
        let elsewhere = thread::spawn(|| cuda!(cuMemAlloc_v2(&mut 0, 16))).join().unwrap();
        assert_eq!(elsewhere, CUresult::CUDA_ERROR_INVALID_CONTEXT);
    });
}

#[test]
fn errors_have_the_drivers_names() {
    use CUresult::*;
    simulated(&[LATE], || {
        open();
        for code in [
            CUDA_SUCCESS,
            CUDA_ERROR_INVALID_VALUE,
            CUDA_ERROR_OUT_OF_MEMORY,
            CUDA_ERROR_NOT_INITIALIZED,
            CUDA_ERROR_INVALID_DEVICE,
            CUDA_ERROR_INVALID_IMAGE,
            CUDA_ERROR_INVALID_CONTEXT,
            CUDA_ERROR_NO_BINARY_FOR_GPU,
            CUDA_ERROR_JIT_COMPILER_NOT_FOUND,
            CUDA_ERROR_SHARED_OBJECT_INIT_FAILED,
            CUDA_ERROR_INVALID_HANDLE,
            CUDA_ERROR_ILLEGAL_STATE,
            CUDA_ERROR_NOT_FOUND,
            CUDA_ERROR_NOT_READY,
            CUDA_ERROR_ILLEGAL_ADDRESS,
            CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
            CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
            CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
            CUDA_ERROR_LAUNCH_FAILED,
            CUDA_ERROR_NOT_SUPPORTED,
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
            CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
            CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
            CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
            CUDA_ERROR_CAPTURED_EVENT,
            CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,
            CUDA_ERROR_INVALID_CLUSTER_SIZE,
        ] {
            let mut text = null();
            assert_eq!(cuda!(cuGetErrorName(code, &mut text)), OK, "{code:?}");
            // SAFETY: the driver gave a string of its own.
            assert_eq!(unsafe { std::ffi::CStr::from_ptr(text) }.to_str().unwrap(), format!("{code:?}"));
            assert_eq!(cuda!(cuGetErrorString(code, &mut text)), OK, "{code:?}");
        }
    });
}

#[test]
fn the_device_is_described() {
    use sys::CUdevice_attribute::*;
    simulated(&[LATE], || {
        open();
        for (attribute, expected) in [
            (CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32),
            (CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9),
            (CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 227 << 10),
            (CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1),
        ] {
            let mut value = 0;
            assert_eq!(cuda!(cuDeviceGetAttribute(&mut value, attribute, 0)), OK);
            assert_eq!(value, expected, "{attribute:?}");
        }
        let mut bytes = 0;
        assert_eq!(cuda!(cuDeviceTotalMem_v2(&mut bytes, 0)), OK);
        assert_eq!(bytes, 8 << 30);
        assert_eq!(cuda!(cuDeviceTotalMem_v2(&mut bytes, 1)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    });
}

/// A map over 64 rows of 128 bf16 values in tiles of 8 x 64, after `change` has had its way with it.
fn encode(change: fn(&mut [u64; 2], &mut [u64; 1], &mut [u32; 2], &mut u64)) -> CUresult {
    use sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    use sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
    use sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE;
    use sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE;
    use sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B;
    let (mut dims, mut strides, mut tile, mut address) = ([128, 64], [256], [64, 8], allocate(64 * 256));
    change(&mut dims, &mut strides, &mut tile, &mut address);
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    cuda!(cuTensorMapEncodeTiled(
        &mut map,
        CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        2,
        address as *mut _,
        dims.as_ptr(),
        strides.as_ptr(),
        tile.as_ptr(),
        [1, 1].as_ptr(),
        CU_TENSOR_MAP_INTERLEAVE_NONE,
        CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_NONE,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    ))
}

#[test]
fn tensor_maps_keep_to_the_rules() {
    simulated(&[LATE], || {
        open();
        assert_eq!(encode(|_, _, _, _| {}), OK);
        let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
        assert_eq!(encode(|_, _, _, address| *address += 2), invalid, "address");
        assert_eq!(encode(|_, strides, _, _| strides[0] = 264), invalid, "stride not divisible by 16");
        assert_eq!(encode(|_, strides, _, _| strides[0] = 240), invalid, "stride below a row");
        assert_eq!(encode(|_, _, tile, _| tile[1] = 257), invalid, "tile too high");
        assert_eq!(encode(|_, _, tile, _| tile[0] = 72), invalid, "tile wider than the swizzle");
        assert_eq!(encode(|_, _, tile, _| tile[0] = 4), invalid, "tile narrower than 16 bytes");
        assert_eq!(encode(|dims, _, _, _| dims[1] = 0), invalid, "no rows");
    });
}

#[test]
fn images_are_refused_in_the_drivers_own_words() {
    simulated(&[LATE], || {
        open();
        let mut sass = [0u8; 64];
        sass[..4].copy_from_slice(b"\x7fELF");
        sass[18] = 190;
        let mut module = null_mut();
        let mut load = |image: &[u8]| cuda!(cuModuleLoadData(&mut module, image.as_ptr().cast()));
        assert_eq!(load(&sass), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        assert_eq!(load(b"// PTX\n.version 8.0\n\0"), CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND);
        assert_eq!(load(&[0; 64]), CUresult::CUDA_ERROR_INVALID_IMAGE);
        // A truncated object of this machine: the loader's words come back in the log.
        let mut own = std::fs::read("/proc/self/exe").unwrap();
        own.truncate(64);
        own[40..48].fill(0); // no sections
        own[60..62].fill(0);
        let mut log = [0u8; 256];
        use sys::CUjit_option::*;
        let mut options = [CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast(), log.len() as *mut _];
        let image = own.as_ptr().cast();
        let result =
            cuda!(cuModuleLoadDataEx(&mut module, image, 2, options.as_mut_ptr(), values.as_mut_ptr()));
        assert_eq!(result, CUresult::CUDA_ERROR_SHARED_OBJECT_INIT_FAILED);
        let written = values[1] as usize;
        assert!(written > 0 && log[..written].iter().all(|&b| b != 0) && log[written] == 0);
    });
}
