// Sum over rows, and its backward, a row written to all rows.
//
// Mapping   Forward: a block takes a tile of 32 vectors of 16 bytes across and `chunk` rows down. Warp w of 16 adds rows
//           w, w + 16, ... of the chunk, each lane the columns of its vector; then the sums of the warps are added
//           in order. The grid's x strides over the tiles; its y covers the chunks, each a row of the result, which
//           gpu.rs sums again if there is more than one. Backward: the grid's x strides over the columns, a
//           thread keeps its vector and writes it to every gridDim.y-th row.
// Tile      fwd: 32 vectors across, {WARPS} rows at a time.
//           bwd: {ELEMENTWISE_THREADS} vectors across, every gridDim.y-th row.
// Memory    Forward reads each value once, four rows of a lane on their way, and writes 1/256 of that. Widths that
//           16 bytes do not divide, and views, take the same code with vectors of one value. Shared memory: 18 KB.
//           Registers by NVRTC 12.9 on sm_90a: at most 62, nothing spilled.
//           Backward only writes.
// Hazards   The order of the sum depends on the shape alone: no atomics, the same bits every run. A warp's sums lie
//           column by column, with gaps that spread them over the banks both as they are written (a lane per vector)
//           and as they are read (a thread per column).
// Source    Elementary.
#include "elementwise.cuh"

constexpr int THREADS = 512, WARPS = THREADS / 32;

// Floats between the i-th columns of a warp's vectors and the next: lanes l of columns i lie at i * stride + l, and
// 32 threads that read N columns of 32 / N vectors meet 32 banks.
template <int N>
constexpr int STRIDE = 32 + 32 / N;

template <class T, int N>
DEV void column_sum(const T* x, float* y, i64 rows, u32 width, u32 chunk, float* shared) {
  typedef Vector<T, N> V;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, vectors = width / N;
  const i64 first = (i64)blockIdx.y * chunk, end = min(first + chunk, rows);
  for (u32 tile = blockIdx.x; tile * 32 < vectors; tile += gridDim.x) {
    const u32 v = tile * 32 + lane;
    float sum[N] = {};
    if (v < vectors) {
      V values[IN_FLIGHT];
      batched<IN_FLIGHT>(
          first + warp, WARPS, end, [&](int k, i64 row) { values[k] = ((const V*)x)[row * vectors + v]; },
          [&](int k, i64) {
#pragma unroll
            for (int i = 0; i < N; i++) sum[i] += load(values[k].at[i]);
          });
    }
    if (tile != blockIdx.x) __syncthreads();  // the sums of the tile before have been read
#pragma unroll
    for (int i = 0; i < N; i++) shared[(warp * N + i) * STRIDE<N> + lane] = sum[i];
    __syncthreads();
    const u32 column = tile * 32 * N + threadIdx.x;
    if (threadIdx.x < 32 * N && column < width) {
      float total = 0;
#pragma unroll
      for (int w = 0; w < WARPS; w++) total += shared[(w * N + threadIdx.x % N) * STRIDE<N> + threadIdx.x / N];
      y[(i64)blockIdx.y * width + column] = total;
    }
  }
}

template <class T, int N>
DEV void broadcast(const float* dy, T* dx, i64 rows, u32 width) {
  typedef Vector<T, N> V;
  const u32 vectors = width / N;
  for (i64 v = thread_x(); v < vectors; v += threads_x()) {
    const Floats<N> sums = load_floats<N>(dy + v * N);
    V out;
#pragma unroll
    for (int i = 0; i < N; i++) store(out.at[i], sums.at[i]);
    for (i64 row = blockIdx.y; row < rows; row += gridDim.y) ((V*)dx)[row * vectors + v] = out;
  }
}

#define ENTRIES(T, dtype)                                                                                         \
  KERNEL(THREADS, column_sum_fwd_##dtype, const T* x /* (rows, width) */, float* y /* (gridDim.y, width) */,      \
         i64 rows, u32 width, u32 chunk) {                                                                        \
    SMEM_ARRAY(float, shared, WARPS* WIDEST<T>* STRIDE<WIDEST<T>>);                                               \
    if (aligned<T>(width, x)) column_sum<T, WIDEST<T>>(x, y, rows, width, chunk, shared);                         \
    else column_sum<T, 1>(x, y, rows, width, chunk, shared);                                                      \
  }                                                                                                               \
  KERNEL(ELEMENTWISE_THREADS, column_sum_bwd_##dtype, const float* dy /* (width) */, T* dx /* (rows, width) */,   \
         i64 rows, u32 width) {                                                                                   \
    if (aligned<T>(width, dx) && on_16_bytes(dy)) broadcast<T, WIDEST<T>>(dy, dx, rows, width);                   \
    else broadcast<T, 1>(dy, dx, rows, width);                                                                    \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
