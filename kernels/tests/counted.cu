// Kernels whose accesses can be counted by hand, for tests/counters.rs: one warp each, unless it says otherwise. The
// counts of a line are in its comment, as the table has them. `in` and `out` have 4096 values.
#include "ptx.cuh"
#include "vector.cuh"

typedef Vector<u32, 4> Four;
typedef Vector<u32, 2> Two;

// ---- sectors of global memory ----

KERNEL(1024, neighbours, u32* out, const u32* in) {
  u32 value = in[threadIdx.x];  // space=global access=read width=4 requests=1 bytes=128 sectors=4 sectors_least=4
  out[threadIdx.x] = value;  // space=global access=write width=4 requests=1 sectors=4 sectors_least=4
}
KERNEL(1024, one_off, u32* out, const u32* in) {
  u32 value = in[threadIdx.x + 1];  // space=global access=read width=4 requests=1 sectors=5 sectors_least=4
  out[threadIdx.x] = value;
}
KERNEL(1024, far_apart, u32* out, const u32* in) {
  u32 value = in[32 * threadIdx.x];  // space=global access=read width=4 requests=1 bytes=128 sectors=32 sectors_least=4
  out[threadIdx.x] = value;
}
KERNEL(1024, all_the_same, u32* out, const u32* in) {
  u32 value = in[7];  // space=global access=read width=4 requests=1 bytes=4 sectors=1 sectors_least=1
  out[threadIdx.x] = value;
}
KERNEL(1024, halves, u32* out, const u32* in) {
  u16 value = ((const u16*)in)[threadIdx.x];  // space=global access=read width=2 requests=1 bytes=64 sectors=2 sectors_least=2
  out[threadIdx.x] = value;
}
KERNEL(1024, wide, u32* out, const u32* in) {
  Four value = ((const Four*)in)[threadIdx.x];  // space=global access=read width=16 requests=1 bytes=512 sectors=16 sectors_least=16
  ((Four*)out)[threadIdx.x] = value;  // space=global access=write width=16 requests=1 sectors=16 sectors_least=16
}
// Eight rounds, in the last of which only half a warp takes part.
KERNEL(1024, rounds, u32* out, const u32* in) {
  u32 sum = 0;
  for (u32 i = threadIdx.x; i < 240; i += 32)
    sum += in[i];  // space=global access=read width=4 requests=8 bytes=960 sectors=30 sectors_least=30
  out[threadIdx.x] = sum;
}
// Each lane by itself, so lanes meet at different times; and two blocks of two warps.
KERNEL(1024, many_warps, u32* out, const u32* in) {
  u32 sum = 0;
  for (u32 i = 0; i < 4; i++) {
    sum += in[i * 128 + blockIdx.x * 64 + threadIdx.x];  // space=global access=read width=4 requests=16 sectors=64 sectors_least=64
    __syncthreads();
  }
  out[blockIdx.x * 64 + threadIdx.x] = sum;  // space=global access=write width=4 requests=4 sectors=16 sectors_least=16
}

// ---- banks of shared memory ----

KERNEL(1024, banks_in_a_row, u32* out, const u32* in) {
  SMEM_ARRAY(u32, tile, 1024);
  tile[threadIdx.x] = in[threadIdx.x];  // space=shared access=write width=4 requests=1 passes=1 passes_least=1 ways=1
  __syncwarp();
  out[threadIdx.x] = tile[31 - threadIdx.x];  // space=shared access=read width=4 requests=1 passes=1 passes_least=1 ways=1
}
KERNEL(1024, one_bank, u32* out, const u32* in) {
  SMEM_ARRAY(u32, tile, 1024);
  tile[32 * threadIdx.x] = in[threadIdx.x];  // space=shared access=write width=4 requests=1 bytes=128 passes=32 passes_least=1 ways=32
  __syncwarp();
  out[threadIdx.x] = tile[0];  // space=shared access=read width=4 requests=1 bytes=4 passes=1 passes_least=1 ways=1
}
KERNEL(1024, padded, u32* out, const u32* in) {
  SMEM_ARRAY(u32, tile, 32 * 33);
  tile[33 * threadIdx.x] = in[threadIdx.x];  // space=shared access=write width=4 requests=1 passes=1 passes_least=1 ways=1
  __syncwarp();
  out[threadIdx.x] = tile[33 * (threadIdx.x / 2)];  // space=shared access=read width=4 requests=1 bytes=64 passes=1 passes_least=1 ways=1
}
KERNEL(1024, two_ways, u32* out, const u32* in) {
  SMEM_ARRAY(u32, tile, 1024);
  tile[2 * threadIdx.x] = in[threadIdx.x];  // space=shared access=write width=4 requests=1 passes=2 passes_least=1 ways=2
  __syncwarp();
  out[threadIdx.x] = tile[2 * threadIdx.x];
}
KERNEL(1024, halves_of_banks, u32* out, const u32* in) {
  SMEM_ARRAY(u16, tile, 64);
  tile[threadIdx.x] = (u16)in[threadIdx.x];  // space=shared access=write width=2 requests=1 passes=1 passes_least=1 ways=1
  __syncwarp();
  out[threadIdx.x] = tile[threadIdx.x ^ 1];
}
KERNEL(1024, wide_banks, u32* out, const u32* in) {
  SMEM_ARRAY(Four, tile, 256);
  tile[threadIdx.x] = ((const Four*)in)[threadIdx.x];  // space=shared access=write width=16 requests=1 passes=4 passes_least=4 ways=1
  __syncwarp();
  Four far = tile[8 * (threadIdx.x % 8) + threadIdx.x / 8];  // space=shared access=read width=16 requests=1 passes=32 passes_least=4 ways=8
  ((Four*)out)[threadIdx.x] = far;
}
KERNEL(1024, pairs, u32* out, const u32* in) {
  SMEM_ARRAY(Two, tile, 64);
  tile[threadIdx.x] = ((const Two*)in)[threadIdx.x];  // space=shared access=write width=8 requests=1 passes=2 passes_least=2 ways=1
  __syncwarp();
  Two apart = tile[2 * threadIdx.x];  // space=shared access=read width=8 requests=1 bytes=256 passes=4 passes_least=2 ways=2
  ((Two*)out)[threadIdx.x] = apart;
}

// A tile of 32 rows of 128 bytes; lane l reads chunk 0 of row l: the same banks for all, unless rows are swizzled.
template <bool SWIZZLED>
DEV void load_matrices(u32* out, const u32* in, u32 (&r)[4], unsigned char* tile) {
  for (u32 row = 0; row < 32; row++) {
    u32 at = row * 128 + threadIdx.x * 4;
    *(u32*)(tile + (SWIZZLED ? at ^ (row % 8) << 4 : at)) = in[row * 32 + threadIdx.x];
  }
  __syncwarp();
}
KERNEL(1024, matrices, u32* out, const u32* in) {
  SMEM_ARRAY(unsigned char, tile, 32 * 128);
  u32 r[4];
  load_matrices<false>(out, in, r, tile);
  ldmatrix_x4(r, tile + threadIdx.x * 128);  // space=shared access=read width=16 requests=1 bytes=512 passes=32 passes_least=4 ways=8
  out[threadIdx.x] = r[0] + r[3];
}
KERNEL(1024, swizzled_matrices, u32* out, const u32* in) {
  SMEM_ARRAY(unsigned char, tile, 32 * 128);
  u32 r[4];
  load_matrices<true>(out, in, r, tile);
  ldmatrix_x4(r, tile + threadIdx.x * 128 + (threadIdx.x % 8 << 4));  // space=shared access=read width=16 requests=1 passes=4 passes_least=4 ways=1
  out[threadIdx.x] = r[0] + r[3];
}

// ---- buffers and instructions ----

KERNEL(1024, read_twice, u32* out, const u32* in) {
  u32 sum = 0;
  for (u32 i = 0; i < 2; i++) {
    sum += in[threadIdx.x];
    __syncthreads();
  }
  out[threadIdx.x] = sum;
}
KERNEL(1024, instructions, u32* out, const u32* in) {
  SMEM_ARRAY(Four, tile, 32);
  cp_async_16(&tile[threadIdx.x], in + 4 * threadIdx.x);  // instruction=cp.async threads=32
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();  // instruction=barrier threads=32
  u32 a[4];
  ldmatrix_x4_trans(a, &tile[threadIdx.x]);  // instruction=ldmatrix.trans threads=32
  float d[4] = {};
  for (u32 k = 0; k < 3; k++)
    mma_bf16(d, a, a[0], a[1]);  // instruction=mma threads=96
  float sum = ex2(d[0]);  // instruction=ex2 threads=32
  sum += __shfl_xor_sync(~0u, sum, 1);  // instruction=shuffle threads=32
  __syncwarp();  // instruction=__syncwarp threads=32
  out[threadIdx.x] = (u32)sum;
}
KERNEL(1024, copies, u32* out, const u32* in) {
  SMEM_ARRAY(Four, tile, 32);
  cp_async_16(&tile[threadIdx.x], in + 8 * threadIdx.x);  // space=global access=read width=16 requests=1 sectors=32 sectors_least=16
  cp_async_commit();
  cp_async_wait<0>();
  ((Four*)out)[threadIdx.x] = tile[threadIdx.x];  // space=shared access=read width=16 requests=1 passes=4 passes_least=4 ways=1
}
