// A kernel for each wrapper of mbarrier objects, of the TMA engine and of wide reductions; see wrappers.cu. From sm_90
// on.
//
// Mapping   One block.
// Memory    Tiles of shared memory are the dynamic part, aligned to 1024 bytes.
// Hazards   None that the wrapper under test does not have.
// Source    The comments of ptx.cuh.
#include "ptx.cuh"

constexpr int THREADS = 128;

// Rounds in which warps 0 and 1 hand 64 values to warps 2 and 3, each thread arriving for itself.
KERNEL(THREADS, conformance_mbarrier, const u32* in /* (8, 64) */, u32* out /* (8, 64) */) {
  SMEM_ARRAY(u64, barriers, 2);
  SMEM_ARRAY(u32, slots, 64);
  u64 *full = barriers, *empty = barriers + 1;
  const u32 thread = threadIdx.x;
  if (thread == 0) mbarrier_init(full, 64), mbarrier_init(empty, 64);
  __syncthreads();
  for (u32 round = 0; round < 8; round++) {
    if (thread < 64) {
      mbarrier_wait(empty, (round ^ 1) & 1);
      slots[thread] = in[round * 64 + thread];
      mbarrier_arrive(full);
    } else {
      mbarrier_wait(full, round & 1);
      out[round * 64 + thread - 64] = slots[127 - thread];
      mbarrier_arrive(empty);
    }
  }
}

// The tile at (x, y) of a tensor, as it lies in shared memory.
KERNEL(THREADS, conformance_tma_load_2d, TENSOR_MAP(map), const u32* in /* x, y, bytes */, u32* out /* (bytes / 4) */) {
  DYN_SMEM(tile);
  SMEM_ARRAY(u64, barrier, 1);
  const u32 bytes = in[2];
  if (threadIdx.x == 0) mbarrier_init(barrier, 1), fence_mbarrier_init();
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect(barrier, bytes);
    tma_load_2d(tile, &map, barrier, (i32)in[0], (i32)in[1]);
  }
  mbarrier_wait(barrier, 0);
  for (u32 i = threadIdx.x; i < bytes / 4; i += THREADS) out[i] = ((const u32*)tile)[i];
}

// Stores two tiles one behind the other, each of `bytes` bytes and at its own place, from the same shared memory.
KERNEL(THREADS, conformance_tma_store_2d, TENSOR_MAP(map), const u32* in /* bytes, (2, x, y), (2, bytes / 4) */) {
  DYN_SMEM(tile);
  const u32 bytes = in[0];
  for (u32 turn = 0; turn < 2; turn++) {
    const u32* words = in + 5 + turn * (bytes / 4);
    for (u32 i = threadIdx.x; i < bytes / 4; i += THREADS) ((u32*)tile)[i] = words[i];
    fence_async_proxy();
    __syncthreads();
    if (threadIdx.x == 0) {
      tma_store_2d(&map, tile, (i32)in[1 + 2 * turn], (i32)in[2 + 2 * turn]);
      tma_store_commit();
      tma_store_wait_read<0>();
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) tma_store_wait<0>();
}

// Eight rounds in which each thread adds four floats to one of 32 quadruples; places first, then values.
KERNEL(THREADS, conformance_reduce_add_4, const u32* in /* (8, 128) and (8, 128, 4) */, u32* out /* (32, 4) */) {
  const u32 thread = threadIdx.x;
  out[thread] = 0;
  __syncthreads();
  for (u32 round = 0; round < 8; round++) {
    const u32 at = round * THREADS + thread;
    float values[4];
    for (u32 i = 0; i < 4; i++) values[i] = __uint_as_float(in[8 * THREADS + at * 4 + i]);
    reduce_add_4((float*)out + in[at] * 4, values);
  }
}
