// Kernels that use Hopper's engines the way a fast kernel does, and the same with mistakes: hopper.rs says which of
// them the simulator has to find. PLANT chooses one; 0 is none.
//
// Mapping   pipelined_gemm: a block of three warpgroups makes a tile of 128 x 128 of c. One thread of warpgroup 0
//           feeds a ring of STAGES stages by TMA; warpgroups 1 and 2 multiply 64 rows each.
// Memory    A stage is 128 x 64 of a and of b, in two halves of 64 rows each, swizzled by the TMA and read so by wgmma.
// Hazards   A stage is written again only after all eight warps have waited for the products that read it: the wait of
//           one warp says nothing of the three others of its warpgroup.
// Source    The producer and consumer ring is common practice on this hardware.
#include "vector.cuh"

#define EARLY_RELEASE 1
#define NO_FULL_WAIT 2
#define NO_EMPTY_WAIT 3
#define NO_PROXY_FENCE 4
#define NO_WGMMA_FENCE 5
#define NO_WGMMA_WAIT 6
#define LESS_BYTES 7

constexpr int STAGES = 3;
constexpr int TILE = 128, DEPTH = 64;
constexpr u32 HALF = 64 * DEPTH * 2;  // bytes of 64 rows
constexpr u32 STAGE = 4 * HALF;

// c = a b^T; both maps have tiles of 64 x 64.
KERNEL_AT_LEAST(384, 1, pipelined_gemm, TENSOR_MAP(a), TENSOR_MAP(b), float* c /* (m, n) */, u32 m, u32 n, u32 k) {
  DYN_SMEM(stages);
  SMEM_ARRAY(u64, full, STAGES);
  SMEM_ARRAY(u64, empty, STAGES);
  const u32 group = threadIdx.x / 128, steps = (k + DEPTH - 1) / DEPTH;
  const u32 row = blockIdx.y * TILE, column = blockIdx.x * TILE;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) mbarrier_init(&full[s], 1), mbarrier_init(&empty[s], 8);
    fence_mbarrier_init();
  }
  __syncthreads();
  if (group == 0) {
    setmaxnreg_dec<40>();
    if (threadIdx.x != 0) return;
    for (u32 step = 0; step < steps; step++) {
      const u32 s = step % STAGES, turn = step / STAGES % 2;
      unsigned char* stage = stages + s * STAGE;
      if (PLANT != NO_EMPTY_WAIT) mbarrier_wait(&empty[s], turn ^ 1);
      mbarrier_arrive_expect(&full[s], PLANT == LESS_BYTES ? STAGE - HALF : STAGE);
      for (u32 half = 0; half < 2; half++) {
        tma_load_2d(stage + half * HALF, &a, &full[s], step * DEPTH, row + half * 64);
        tma_load_2d(stage + (2 + half) * HALF, &b, &full[s], step * DEPTH, column + half * 64);
      }
    }
    return;
  }
  setmaxnreg_inc<232>();
  float d[TILE / 2];
#pragma unroll
  for (int i = 0; i < TILE / 2; i++) d[i] = 0;
  for (u32 step = 0; step < steps; step++) {
    const u32 s = step % STAGES, turn = step / STAGES % 2;
    const unsigned char* stage = stages + s * STAGE;
    if (PLANT != NO_FULL_WAIT) mbarrier_wait(&full[s], turn);
    const u64 left = wgmma_descriptor(stage + (group - 1) * HALF), right = wgmma_descriptor(stage + 2 * HALF);
    if (PLANT != NO_WGMMA_FENCE) wgmma_fence(d);
#pragma unroll
    for (u32 i = 0; i < DEPTH / 16; i++) wgmma_bf16(d, left + 2 * i, right + 2 * i, true);
    wgmma_commit();
    if (PLANT == EARLY_RELEASE && threadIdx.x % 32 == 0) mbarrier_arrive(&empty[s]);
    if (PLANT != NO_WGMMA_WAIT) wgmma_wait<0>(d);
    if (PLANT != EARLY_RELEASE && threadIdx.x % 32 == 0) mbarrier_arrive(&empty[s]);
  }
  const u32 warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
#pragma unroll
  for (u32 i = 0; i < TILE / 2; i++) {
    const u64 y = row + (group - 1) * 64 + warp * 16 + lane / 4 + i / 2 % 2 * 8;
    const u32 x = column + i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (y < m && x < n) c[y * n + x] = d[i];
  }
}

// c = a b^T for 64 x 64 of each, which threads write to shared memory.
KERNEL_AT_LEAST(128, 1, written_by_threads, const bf16* a /* (64, 64) */, const bf16* b /* (64, 64) */,
                float* c /* (64, 64) */) {
  DYN_SMEM(tiles);
  typedef Vector<bf16, 8> V;
  for (u32 i = threadIdx.x; i < 512; i += 128) {
    const u32 row = i / 8, place = row * 8 + (i % 8 ^ row % 8);
    ((V*)tiles)[place] = ((const V*)a)[i];
    ((V*)(tiles + HALF))[place] = ((const V*)b)[i];
  }
  if (PLANT != NO_PROXY_FENCE) fence_async_proxy();
  __syncthreads();
  float d[32];
  const u64 left = wgmma_descriptor(tiles), right = wgmma_descriptor(tiles + HALF);
  wgmma_fence(d);
#pragma unroll
  for (u32 i = 0; i < 4; i++) wgmma_bf16(d, left + 2 * i, right + 2 * i, i > 0);
  wgmma_commit();
  wgmma_wait<0>(d);
  const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (u32 i = 0; i < 32; i++)
    c[(warp * 16 + lane / 4 + i / 2 % 2 * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
}
