// Results of mma in global memory, in the order in which a warp holds them.
//
// A fragment is one result (16 x 8) of a warp: 128 floats, four of each lane, and the only one to know which element a
// float is, is the lane that wrote it. Kept so, a sum that several blocks make moves 512 contiguous bytes per access,
// where rows in their own order would be touched eight at a time, 32 bytes of each. From sm_90 on a lane's four values
// lie together, since one reduction then takes all four; before, where a reduction takes one, each of the four lies
// beside those of the other lanes.
#pragma once
#include "vector.cuh"

constexpr u32 FRAGMENT = 128;  // floats

#if __CUDA_ARCH__ >= 900
constexpr u32 LANE_STEP = 4, VALUE_STEP = 1;
#else
constexpr u32 LANE_STEP = 1, VALUE_STEP = 32;
#endif

// The fragment becomes d.
DEV void store_fragment(float* fragment, const float (&d)[4]) {
  float* mine = fragment + threadIdx.x % 32 * LANE_STEP;
  if constexpr (VALUE_STEP == 1) *(Vector<float, 4>*)mine = {{d[0], d[1], d[2], d[3]}};
  else
#pragma unroll
    for (u32 i = 0; i < 4; i++) mine[i * VALUE_STEP] = d[i];
}

// Adds d to it, value by value, whoever else does.
DEV void add_to_fragment(float* fragment, const float (&d)[4]) {
  float* mine = fragment + threadIdx.x % 32 * LANE_STEP;
#if __CUDA_ARCH__ >= 900
  reduce_add_4(mine, d);
#else
#pragma unroll
  for (u32 i = 0; i < 4; i++) atomicAdd(mine + i * VALUE_STEP, d[i]);
#endif
}

// d becomes the fragment.
DEV void load_fragment(float (&d)[4], const float* fragment) {
  const float* mine = fragment + threadIdx.x % 32 * LANE_STEP;
  if constexpr (VALUE_STEP == 1) {
    const Vector<float, 4> values = *(const Vector<float, 4>*)mine;
#pragma unroll
    for (u32 i = 0; i < 4; i++) d[i] = values.at[i];
  } else {
#pragma unroll
    for (u32 i = 0; i < 4; i++) d[i] = mine[i * VALUE_STEP];
  }
}
