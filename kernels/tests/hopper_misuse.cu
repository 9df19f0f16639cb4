// Misuse of Hopper's engines, one kind in each kernel; hopper.rs says what the simulator has to say of it.
//
// Mapping   One block of 128 threads, with three tiles of 64 x 64 bf16 values as dynamic shared memory.
// Memory    The map has such tiles; `out` takes a word per thread.
// Hazards   These.
// Source    The rules of each instruction in the PTX ISA manual.
#include "ptx.cuh"

constexpr u32 TILE = 64 * 64 * 2;  // bytes

KERNEL(128, used_before_init, TENSOR_MAP(map), u32* out /* (128) */) {
  SMEM_ARRAY(u64, barrier, 1);
  mbarrier_arrive(barrier);
}
KERNEL(128, initialised_twice, TENSOR_MAP(map), u32* out /* (128) */) {
  SMEM_ARRAY(u64, barrier, 1);
  mbarrier_init(barrier, 128);
}
KERNEL(128, too_many_arrivals, TENSOR_MAP(map), u32* out /* (128) */) {
  SMEM_ARRAY(u64, barrier, 1);
  if (threadIdx.x == 0) mbarrier_init(barrier, 2), mbarrier_arrive_expect(barrier, 64);
  __syncthreads();
  if (threadIdx.x < 3) mbarrier_arrive(barrier);
}
KERNEL(128, overwritten, TENSOR_MAP(map), u32* out /* (128) */) {
  SMEM_ARRAY(u64, barrier, 1);
  if (threadIdx.x == 0) mbarrier_init(barrier, 128), *barrier = 0;
  __syncthreads();
  mbarrier_arrive(barrier);
}
KERNEL(128, never_complete, TENSOR_MAP(map), u32* out /* (128) */) {
  SMEM_ARRAY(u64, barrier, 1);
  if (threadIdx.x == 0) mbarrier_init(barrier, 129);
  __syncthreads();
  mbarrier_arrive(barrier);
  mbarrier_wait(barrier, 0);
}
KERNEL(128, not_fenced, TENSOR_MAP(map), u32* out /* (128) */) {
  DYN_SMEM(tile);
  SMEM_ARRAY(u64, barrier, 1);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    mbarrier_arrive_expect(barrier, TILE);
    tma_load_2d(tile, &map, barrier, 0, 0);
  }
}
KERNEL(128, not_waited_for, TENSOR_MAP(map), u32* out /* (128) */) {
  DYN_SMEM(tile);
  SMEM_ARRAY(u64, barrier, 1);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1), fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, TILE);
    tma_load_2d(tile, &map, barrier, 0, 0);
  }
}
KERNEL(128, not_aligned, TENSOR_MAP(map), u32* out /* (128) */) {
  DYN_SMEM(tile);
  SMEM_ARRAY(u64, barrier, 1);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1), fence_mbarrier_init();
    tma_load_2d(tile + 64, &map, barrier, 0, 0);
  }
}
KERNEL(128, beyond_shared, TENSOR_MAP(map), u32* out /* (128) */) {
  DYN_SMEM(tile);
  SMEM_ARRAY(u64, barrier, 1);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1), fence_mbarrier_init();
    tma_load_2d(tile + 3 * TILE, &map, barrier, 0, 0);
  }
}
KERNEL(128, no_map, TENSOR_MAP(map), u32* out /* (128) */) {
  DYN_SMEM(tile);
  SMEM_ARRAY(u64, barrier, 1);
  TensorMap blank = {};
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1), fence_mbarrier_init();
    tma_load_2d(tile, &blank, barrier, 0, 0);
  }
}
KERNEL(128, store_not_read, TENSOR_MAP(map), u32* out /* (128) */) {
  DYN_SMEM(tile);
  if (threadIdx.x == 0) tma_store_2d(&map, tile, 0, 0), tma_store_commit();
}
KERNEL(128, rewritten_too_soon, TENSOR_MAP(map), u32* out /* (128) */) {
  DYN_SMEM(tile);
  for (u32 i = threadIdx.x; i < TILE / 4; i += 128) ((u32*)tile)[i] = 0x3f803f80u;
  fence_async_proxy();
  __syncthreads();
  if (threadIdx.x == 0) tma_store_2d(&map, tile, 0, 0), tma_store_commit();
  __syncthreads();
  for (u32 i = threadIdx.x; i < TILE / 4; i += 128) ((u32*)tile)[i] = 0;
  __syncthreads();
  if (threadIdx.x == 0) tma_store_wait<0>();
}
KERNEL(128, half_a_warpgroup, TENSOR_MAP(map), u32* out /* (128) */) {
  DYN_SMEM(tile);
  float d[32] = {};
  wgmma_fence(d);
  if (threadIdx.x < 64) wgmma_bf16(d, wgmma_descriptor(tile), wgmma_descriptor(tile), true);
  wgmma_commit();
  wgmma_wait<0>(d);
  out[threadIdx.x] = (u32)d[0];
}
KERNEL(128, different_operands, TENSOR_MAP(map), u32* out /* (128) */) {
  DYN_SMEM(tile);
  float d[32] = {};
  wgmma_fence(d);
  wgmma_bf16(d, wgmma_descriptor(tile), wgmma_descriptor(tile + threadIdx.x / 64 * TILE), true);
  wgmma_commit();
  wgmma_wait<0>(d);
  out[threadIdx.x] = (u32)d[0];
}
KERNEL(128, askew, TENSOR_MAP(map), u32* out /* (128) */) {
  DYN_SMEM(tile);
  float d[32] = {};
  wgmma_fence(d);
  wgmma_bf16(d, wgmma_descriptor(tile + 128), wgmma_descriptor(tile), true);
  wgmma_commit();
  wgmma_wait<0>(d);
  out[threadIdx.x] = (u32)d[0];
}
KERNEL(128, operand_beyond_shared, TENSOR_MAP(map), u32* out /* (128) */) {
  DYN_SMEM(tile);
  float d[64] = {};
  wgmma_fence(d);
  wgmma_bf16(d, wgmma_descriptor(tile), wgmma_descriptor(tile + 2 * TILE), true);
  wgmma_commit();
  wgmma_wait<0>(d);
  out[threadIdx.x] = (u32)d[0];
}
