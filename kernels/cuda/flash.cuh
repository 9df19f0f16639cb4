// The inner loop of FlashAttention-2's forward pass: a tile of queries goes over a run of keys and values.
//
// Compiled with HEAD_WIDTH (values of a head, padded to a multiple of 32), QUERY_TILES (16-row tiles of queries per
// warp), KEYS (keys per tile) and SLOTS (tiles in the ring).
//
// A block is 4 warps. A warp holds QUERY_TILES x 16 rows of queries, of scores and of the result, so no row is shared
// between warps and softmax needs the four lanes of a row alone. Keys and values come through a ring of SLOTS tiles in
// shared memory, in the order k0 v0 k1 v1 ...: before tile i is used, the copy of tile i + SLOTS - 1 starts, into the
// slot that tile i - 1 has left. The barrier that makes tile i visible also says that all warps have left tile i - 1:
// one barrier per tile.
#pragma once
#include "mma.cuh"
#include "softmax.cuh"

constexpr u32 THREADS = 128;
constexpr u32 WARP_QUERIES = 16 * QUERY_TILES;
constexpr u32 QUERIES = THREADS / 32 * WARP_QUERIES;
// Narrow queries stay in registers; wide ones are read from shared memory for each tile of keys.
constexpr bool KEEP_QUERIES = HEAD_WIDTH <= 64;
// Steps of the product of queries and keys side by side in the code. Queries in registers need all of them; from shared
// memory, all take some registers more than a thread has on sm_120.
#if __CUDA_ARCH__ >= 1200
constexpr u32 SCORE_STEPS = KEEP_QUERIES ? HEAD_WIDTH / 16 : 2;
#else
constexpr u32 SCORE_STEPS = HEAD_WIDTH / 16;
#endif

// What a warp has of its queries.
struct Attended {
  u32 q[KEEP_QUERIES ? HEAD_WIDTH / 16 : 1][QUERY_TILES][4];
  float out[QUERY_TILES][HEAD_WIDTH / 8][4];
  RunningSoftmax rows[QUERY_TILES];
};

// The keys 0..row[m][r] of a run are what row g + 8 r of the warp's tile m sees. `least` and `most` are the smallest
// and the largest of them in the warp.
struct Limits {
  u32 row[QUERY_TILES][2];
  u32 least, most;
};

// A run of keys and values in global memory: `count` rows, `stride` values apart.
struct Run {
  const bf16 *keys, *values;
  u64 stride;
  u32 count, head_dim;
};

DEV void start_attending(Attended& a) {
#pragma unroll
  for (u32 m = 0; m < QUERY_TILES; m++) a.rows[m] = no_scores();
  zero(a.out);
}

// Starts the copy of tile `i` of the run's keys (i even) or values (odd), if there is one; ends a group either way.
DEV void copy_to_ring(bf16* ring, const Run& run, u32 i) {
  const u32 first = i / 2 * KEYS;
  if (first < run.count)
    copy_tile<KEYS, HEAD_WIDTH, THREADS>(ring + i % SLOTS * (KEYS * HEAD_WIDTH),
                                    (i % 2 ? run.values : run.keys) + first * run.stride, run.stride,
                                    run.count - first, run.head_dim);
  cp_async_commit();
}

// s = q k^T for one tile of keys.
DEV void score(float (&s)[QUERY_TILES][KEYS / 8][4], const Attended& a, bf16* queries, bf16* keys) {
  zero(s);
#pragma unroll SCORE_STEPS
  for (u32 k = 0; k < HEAD_WIDTH / 16; k++) {
    u32 q[QUERY_TILES][4];
#pragma unroll
    for (u32 m = 0; m < QUERY_TILES; m++) {
      if (KEEP_QUERIES) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) q[m][i] = a.q[k][m][i];
      } else {
        load_a<HEAD_WIDTH>(q[m], queries, m * 16, k * 16);
      }
    }
#pragma unroll
    for (u32 n = 0; n < KEYS / 16; n++) {
      u32 b[4];
      load_b<HEAD_WIDTH>(b, keys, n * 16, k * 16);
#pragma unroll
      for (u32 m = 0; m < QUERY_TILES; m++) {
        mma_bf16(s[m][2 * n], q[m], b[0], b[1]);
        mma_bf16(s[m][2 * n + 1], q[m], b[2], b[3]);
      }
    }
  }
}

// Sets the scores of keys that a row does not see to minus infinity; the tile's first key is `first`.
DEV void mask(float (&s)[QUERY_TILES][KEYS / 8][4], const Limits& limits, u32 first) {
  const u32 t = fresh_thread_index() % 4 * 2;
#pragma unroll
  for (u32 m = 0; m < QUERY_TILES; m++)
#pragma unroll
    for (u32 n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (u32 i = 0; i < 4; i++)
        if (first + n * 8 + t + i % 2 >= limits.row[m][i / 2]) s[m][n][i] = minus_infinity();
}

// Takes the run in. `queries` are the warp's own rows, whose copy may still be under way in an open group; `first_time`
// says so. `scale` is that of the scores times log2 e. All threads of the block come here; nothing is in the ring.
DEV void attend(Attended& a, bf16* queries, bf16* ring, const Run& run, const Limits& limits, float scale,
                bool first_time) {
#pragma unroll
  for (u32 i = 0; i < SLOTS - 1; i++) copy_to_ring(ring, run, i);
  for (u32 first = 0, i = 0; first < run.count; first += KEYS, i += 2) {
    const bool sees = first < limits.most;
    u32 p[QUERY_TILES][KEYS / 16][4];
    cp_async_wait<SLOTS - 2>();
    __syncthreads();
    copy_to_ring(ring, run, i + SLOTS - 1);
    if (KEEP_QUERIES && first_time && i == 0) {
#pragma unroll
      for (u32 k = 0; k < HEAD_WIDTH / 16; k++)
#pragma unroll
        for (u32 m = 0; m < QUERY_TILES; m++) load_a<HEAD_WIDTH>(a.q[k][m], queries, m * 16, k * 16);
    }
    if (sees) {
      float s[QUERY_TILES][KEYS / 8][4];
      score(s, a, queries, ring + i % SLOTS * (KEYS * HEAD_WIDTH));
      if (first + KEYS > limits.least) mask(s, limits, first);
#pragma unroll
      for (u32 m = 0; m < QUERY_TILES; m++) {
        float shrink[2];
        add_scores(a.rows[m], s[m], scale, shrink);
#pragma unroll
        for (u32 n = 0; n < HEAD_WIDTH / 8; n++)
#pragma unroll
          for (u32 j = 0; j < 4; j++) a.out[m][n][j] *= shrink[j / 2];
#pragma unroll
        for (u32 k = 0; k < KEYS / 16; k++) pack_a(p[m][k], s[m][2 * k], s[m][2 * k + 1]);
      }
    }
    cp_async_wait<SLOTS - 2>();
    __syncthreads();
    copy_to_ring(ring, run, i + SLOTS);
    if (sees) accumulate<HEAD_WIDTH>(a.out, p, ring + (i + 1) % SLOTS * (KEYS * HEAD_WIDTH), 0);
  }
}

// Writes the result of the warp's rows, of which `rows` exist, divided by their sums: to `out`, where rows lie `stride`
// values apart, and, unless null, ln(sum of exp) to `lse`, `lse_stride` apart. A row that has seen no key gives NaN.
// `queries` are the warp's own rows of shared memory, no longer needed.
DEV void finish(Attended& a, bf16* out, u64 stride, float* lse, u64 lse_stride, u32 rows, u32 head_dim, float scale,
                bf16* queries) {
  const u32 lane = fresh_thread_index() % 32;
#pragma unroll
  for (u32 m = 0; m < QUERY_TILES; m++) {
    if (m * 16 >= rows) break;
    float inverse[2];
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
      const float sum = row_sum(a.rows[m].sum[r]);
      const u32 row = m * 16 + r * 8 + lane / 4;
      inverse[r] = 1.0f / sum;
      if (lse && lane % 4 == 0 && row < rows) lse[row * lse_stride] = fmaf(a.rows[m].max[r] * scale, LN_2, logf(sum));
    }
    store_rows<HEAD_WIDTH>(out + m * 16 * stride, stride, rows - m * 16, head_dim, a.out[m], inverse,
                      queries + m * 16 * HEAD_WIDTH);
  }
}
