// Sums: of tensors of one shape, of rows and a row that repeats, and of a gradient onto a sum of another type.
//
// Mapping   Same shape: one grid-stride loop over vectors of 16 bytes (elementwise.cuh). Repeating: the grid's x covers
//           the columns and its y the rows; a thread keeps its vector of b in registers and walks down the rows.
// Tile      fwd_onto: {ELEMENTWISE_THREADS * IN_FLIGHT} vectors at a time.
//           fwd_repeating: {ELEMENTWISE_THREADS} vectors across, every gridDim.y-th row.
// Memory    sum and addend are read once and sum is written once: 6 bytes per element in bf16, or 10 for bf16 onto f32,
//           whose vectors have four values. Four vectors of each are on their way per thread. What is left of a last
//           vector, rows that 16 bytes do not divide and views that are not aligned go one value at a time.
//           Registers by NVRTC 12.9 on sm_90a: at most 64, nothing spilled.
// Hazards   None: the thread that reads a value of sum rewrites it.
// Source    Elementary.
#include "elementwise.cuh"

template <class S, class T>
DEV void accumulate(S* sum, const T* b, i64 n) {
  map(sum, sum, b, n, [](float s, float v) { return s + v; });
}

template <class T, int N>
DEV void add_repeating(T* sum, const T* b, i64 rows, u32 width) {
  typedef Vector<T, N> V;
  const u32 vectors = width / N;
  for (i64 v = thread_x(); v < vectors; v += threads_x()) {
    const V addend = ((const V*)b)[v];
    V* column = (V*)sum + v;
    V s[IN_FLIGHT];
    batched<IN_FLIGHT>(
        blockIdx.y, gridDim.y, rows, [&](int k, i64 row) { s[k] = column[row * vectors]; },
        [&](int k, i64 row) {
#pragma unroll
          for (int i = 0; i < N; i++) store(s[k].at[i], load(s[k].at[i]) + load(addend.at[i]));
          column[row * vectors] = s[k];
        });
  }
}

#define ENTRIES(T, dtype)                                                                                      \
  KERNEL(ELEMENTWISE_THREADS, add_fwd_onto_##dtype##_f32, T* sum /* (n) */, const float* b /* (n) */, i64 n) { \
    accumulate(sum, b, n);                                                                                     \
  }                                                                                                            \
  KERNEL(ELEMENTWISE_THREADS, add_fwd_onto_##dtype##_bf16, T* sum /* (n) */, const bf16* b /* (n) */, i64 n) { \
    accumulate(sum, b, n);                                                                                     \
  }                                                                                                            \
  KERNEL(ELEMENTWISE_THREADS, add_fwd_repeating_##dtype, T* sum /* (rows, width) */, const T* b /* (width) */, \
         i64 rows, u32 width) {                                                                                \
    if (aligned<T>(width, sum, b)) add_repeating<T, WIDEST<T>>(sum, b, rows, width);                           \
    else add_repeating<T, 1>(sum, b, rows, width);                                                             \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
