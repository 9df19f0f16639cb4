// Softmax over scores that come tile by tile, for a warp that holds them as results of mma.
#pragma once
#include "ptx.cuh"

constexpr float LOG2_E = 1.44269504088896341f, LN_2 = 0.69314718055994531f;

DEV float minus_infinity() { return __uint_as_float(0xff800000u); }

// The largest of the four lanes that share a row of an mma result, in all four.
DEV float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}

// Their sum, in all four, of the same bits.
DEV float row_sum(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}

// What is known of a lane's two rows (g and g + 8 of 16) after some tiles: the largest score, and the lane's own share
// of the sum of 2^(scale (score - largest)).
struct RunningSoftmax {
  float max[2], sum[2];
};

DEV RunningSoftmax no_scores() {
  return {{minus_infinity(), minus_infinity()}, {0.0f, 0.0f}};
}

// Takes in a tile of 16 x 8 N scores and turns them into 2^(scale (score - largest)). What was summed with older
// largest scores is to be multiplied by `shrink`. A score of minus infinity counts nothing. `scale` is positive.
//
// The largest score is scaled once per row, so that each element costs one fused multiply-add and one ex2.
template <u32 N>
DEV void add_scores(RunningSoftmax& rows, float (&s)[N][4], float scale, float (&shrink)[2]) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float largest = rows.max[r];
#pragma unroll
    for (u32 n = 0; n < N; n++) largest = fmaxf(largest, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
    largest = row_max(largest);
    // Of a row that has seen nothing yet: infinity minus infinity is to be avoided.
    const float base = largest == minus_infinity() ? 0.0f : largest * scale;
    shrink[r] = ex2(fmaf(rows.max[r], scale, -base));
    rows.max[r] = largest;
    float sum = 0;
#pragma unroll
    for (u32 n = 0; n < N; n++) {
      s[n][2 * r] = ex2(fmaf(s[n][2 * r], scale, -base));
      s[n][2 * r + 1] = ex2(fmaf(s[n][2 * r + 1], scale, -base));
      sum += s[n][2 * r] + s[n][2 * r + 1];
    }
    rows.sum[r] = fmaf(rows.sum[r], shrink[r], sum);
  }
}
