// What attention's backward needs of each query and head: delta = <dout, out>, beside lse.
//
// Mapping   A group of `lanes` lanes (a power of two up to 32) takes the products of one (token, head); a block has
//           256 / lanes of them, in the order in which they lie in memory.
// Tile      bwd_rows: {THREADS} / lanes pairs of token and head.
// Memory    dout and out are read once, 16 bytes per lane, contiguously over a warp; lse once. The pairs are written
//           (heads, tokens), since backward reads those of one head for neighbouring tokens: 8 bytes for every
//           4 head_dim (bf16) that are read. Bound by memory bandwidth.
// Hazards   All lanes take part in the shuffles, those beyond the last group with zeros. Sums in a fixed order.
// Source    Dao 2023, algorithm 2, line 4.
#include "packed.cuh"
#include "vector.cuh"

constexpr u32 THREADS = 256;

template <class T>
DEV void rows_of_scores(const T* out, const T* dout, const float* lse, RowOfScores* rows, u32 tokens, u32 heads,
                        u32 head_dim, u32 lanes, float lse_scale) {
  constexpr u32 N = WIDEST<T>;
  typedef Vector<T, N> V;
  const u64 item = ((u64)blockIdx.x * THREADS + threadIdx.x) / lanes;
  const u32 lane = threadIdx.x % lanes;
  const bool exists = item < (u64)tokens * heads;
  float delta = 0;
  if (exists)
    for (u32 v = lane; v < head_dim / N; v += lanes) {
      const V a = ((const V*)(out + item * head_dim))[v], b = ((const V*)(dout + item * head_dim))[v];
#pragma unroll
      for (u32 e = 0; e < N; e++) delta = fmaf(load(a.at[e]), load(b.at[e]), delta);
    }
  for (u32 bit = lanes / 2; bit > 0; bit /= 2) delta += __shfl_xor_sync(~0u, delta, bit);
  if (exists && lane == 0) rows[item % heads * tokens + item / heads] = {lse[item] * lse_scale, delta};
}

#define ENTRY(T, dtype)                                                                                              \
  KERNEL(THREADS, attention_bwd_rows_##dtype, const T* out /* (tokens, heads head_dim) */,                            \
         const T* dout /* like out */,                                                                                \
         const float* lse /* (tokens, heads) */, RowOfScores* rows /* (heads, tokens) */, u32 tokens, u32 heads,      \
         u32 head_dim, u32 lanes, float lse_scale) {                                                                  \
    rows_of_scores<T>(out, dout, lse, rows, tokens, heads, head_dim, lanes, lse_scale);                               \
  }
ENTRY(float, f32)
ENTRY(bf16, bf16)
