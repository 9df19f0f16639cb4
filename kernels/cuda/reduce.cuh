// Sums and maxima over a warp and over a block, in an order that depends on the number of threads alone.
#pragma once
#include "ptx.cuh"

constexpr int MAX_WARPS = 32;

// The sum over the 32 lanes, in every lane, of float or double. Butterfly: all lanes add the same pairs, so all get
// the same bits.
template <class F>
DEV F warp_sum(F value) {
#pragma unroll
  for (int bit = 16; bit > 0; bit /= 2) value += __shfl_xor_sync(~0u, value, bit);
  return value;
}

// The largest over the 32 lanes, in every lane; NaN is passed over.
DEV float warp_max(float value) {
#pragma unroll
  for (int bit = 16; bit > 0; bit /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, bit));
  return value;
}

// The sum over the block, in every thread. blockDim.x is a multiple of 32, and blocks are one-dimensional.
//
// `sums` (MAX_WARPS) is shared memory. One barrier: a caller in a loop alternates between two arrays, so that no
// warp overwrites what another still reads; the barrier of the next call lies between a read and the next write.
template <class F>
DEV F block_sum(F value, F* sums) {
  const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  value = warp_sum(value);
  if (lane == 0) sums[warp] = value;
  __syncthreads();
  return warp_sum(lane < blockDim.x / 32 ? sums[lane] : F(0));
}

// Two sums at once.
struct Pair {
  float a, b;
};

// block_sum of both for the price of one barrier; `sums` is 2 * MAX_WARPS, and again a caller in a loop has two of it.
DEV Pair block_sum(Pair value, float* sums) {
  const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  value.a = warp_sum(value.a), value.b = warp_sum(value.b);
  if (lane == 0) sums[warp] = value.a, sums[MAX_WARPS + warp] = value.b;
  __syncthreads();
  return {warp_sum(lane < warps ? sums[lane] : 0.0f), warp_sum(lane < warps ? sums[MAX_WARPS + lane] : 0.0f)};
}
