// RMSNorm, forward and backward (the equations are in mod.rs).
//
// Mapping   One block per row at a time; thread t takes the 16-byte vectors t, t + blockDim.x, ... of the row, so
//           neighbouring threads read neighbouring vectors. Forward has a block for each row. Backward has a few
//           blocks per multiprocessor that walk over the rows with a stride and keep their share of dw in
//           registers; each ends by writing one row of `partial`, and bwd_w adds these rows up.
// Memory    A row's first 256 * KEEP vectors (8192 bf16, 4096 f32 values) stay in registers, so x and dy are read
//           once; what lies beyond is read a second time, from L2. w comes from L2 for all rows but the first.
//           Rows that are not 16-byte aligned (odd widths, views) take the same code with vectors of one value.
//           Shared memory: 256 bytes for the block sums. Registers by NVRTC 12.9: forward 40 (sm_90a) and 48
//           (sm_80), backward 106 and 117, nothing spilled.
// Hazards   Sums are in f32 in a fixed order: no atomics, the same bits every run. block_sum needs its two arrays
//           (see reduce.cuh). Past the kept columns, dw accumulates in `partial` itself: only its own thread
//           touches a column of a block's row, so this needs no synchronisation.
// Source    Zhang and Sennrich 2019, equation 4. Persistent blocks with partial sums for dw are common practice.
#include "reduce.cuh"
#include "vector.cuh"

constexpr int THREADS = 256;
constexpr int KEEP = 4;  // vectors of a row that one thread keeps in registers

template <class T, int N>
DEV float sum_of_squares(const Vector<T, N>& x) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N; i++) sum += load(x.at[i]) * load(x.at[i]);
  return sum;
}

template <class T, int N>
DEV Vector<T, N> normalised(const Vector<T, N>& x, const Vector<T, N>& w, float rstd) {
  Vector<T, N> y;
#pragma unroll
  for (int i = 0; i < N; i++) store(y.at[i], load(x.at[i]) * rstd * load(w.at[i]));
  return y;
}

template <class T, int N>
DEV void forward(const T* x, const T* w, T* y, float* rstd, i64 rows, u32 width, float eps, float* sums) {
  typedef Vector<T, N> V;
  const u32 vectors = width / N, first_reread = KEEP * blockDim.x + threadIdx.x;
  const V* ws = (const V*)w;
  u32 turn = 0;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x, turn ^= MAX_WARPS) {
    const V* xs = (const V*)(x + row * width);
    V* ys = (V*)(y + row * width);
    V kept[KEEP];
    float squares = 0;
#pragma unroll
    for (int k = 0; k < KEEP; k++) {
      const u32 v = k * blockDim.x + threadIdx.x;
      if (v < vectors) kept[k] = xs[v], squares += sum_of_squares(kept[k]);
    }
    for (u32 v = first_reread; v < vectors; v += blockDim.x) squares += sum_of_squares(xs[v]);
    const float r = 1.0f / sqrtf(block_sum(squares, sums + turn) / width + eps);
    if (rstd && threadIdx.x == 0) rstd[row] = r;
#pragma unroll
    for (int k = 0; k < KEEP; k++) {
      const u32 v = k * blockDim.x + threadIdx.x;
      if (v < vectors) ys[v] = normalised(kept[k], ws[v], r);
    }
    for (u32 v = first_reread; v < vectors; v += blockDim.x) ys[v] = normalised(xs[v], ws[v], r);
  }
}

// The sum of dy * w * x over one vector: mean(g * xhat) without rstd / width.
template <class T, int N>
DEV float dot(const Vector<T, N>& x, const Vector<T, N>& dy, const Vector<T, N>& w) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N; i++) sum += load(dy.at[i]) * load(w.at[i]) * load(x.at[i]);
  return sum;
}

template <class T, int N>
DEV Vector<T, N> gradient(const Vector<T, N>& x, const Vector<T, N>& dy, const Vector<T, N>& w, float rstd, float mean) {
  Vector<T, N> dx;
#pragma unroll
  for (int i = 0; i < N; i++)
    store(dx.at[i], rstd * (load(dy.at[i]) * load(w.at[i]) - load(x.at[i]) * rstd * mean));
  return dx;
}

// Adds one row's dy * xhat to the sums of N columns.
template <class T, int N>
DEV void add_weight_gradient(float (&sum)[N], const Vector<T, N>& x, const Vector<T, N>& dy, float rstd) {
#pragma unroll
  for (int i = 0; i < N; i++) sum[i] += load(dy.at[i]) * (load(x.at[i]) * rstd);
}

template <class T, int N>
DEV void backward(const T* x, const T* w, const float* rstd, const T* dy, T* dx, float* partial, i64 rows, u32 width,
                  float* sums) {
  typedef Vector<T, N> V;
  const u32 vectors = width / N, first_reread = KEEP * blockDim.x + threadIdx.x;
  const V* ws = (const V*)w;
  float dw[KEEP][N] = {};
  // This block's row of partial sums, as one array of N per vector.
  float(*columns)[N] = (float(*)[N])(partial + (u64)blockIdx.x * width);
  if (partial)
    for (u32 v = first_reread; v < vectors; v += blockDim.x)
      for (int i = 0; i < N; i++) columns[v][i] = 0;
  u32 turn = 0;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x, turn ^= MAX_WARPS) {
    const V *xs = (const V*)(x + row * width), *dys = (const V*)(dy + row * width);
    const float r = rstd[row];
    V kept_x[KEEP], kept_dy[KEEP];
#pragma unroll
    for (int k = 0; k < KEEP; k++) {
      const u32 v = k * blockDim.x + threadIdx.x;
      if (v < vectors) kept_x[k] = xs[v], kept_dy[k] = dys[v];
    }
    if (partial) {
#pragma unroll
      for (int k = 0; k < KEEP; k++)
        if (k * blockDim.x + threadIdx.x < vectors) add_weight_gradient(dw[k], kept_x[k], kept_dy[k], r);
      for (u32 v = first_reread; v < vectors; v += blockDim.x) add_weight_gradient(columns[v], xs[v], dys[v], r);
    }
    if (dx) {
      V* dxs = (V*)(dx + row * width);
      float product = 0;
#pragma unroll
      for (int k = 0; k < KEEP; k++) {
        const u32 v = k * blockDim.x + threadIdx.x;
        if (v < vectors) product += dot(kept_x[k], kept_dy[k], ws[v]);
      }
      for (u32 v = first_reread; v < vectors; v += blockDim.x) product += dot(xs[v], dys[v], ws[v]);
      const float mean = block_sum(product, sums + turn) * r / width;
#pragma unroll
      for (int k = 0; k < KEEP; k++) {
        const u32 v = k * blockDim.x + threadIdx.x;
        if (v < vectors) dxs[v] = gradient(kept_x[k], kept_dy[k], ws[v], r, mean);
      }
      for (u32 v = first_reread; v < vectors; v += blockDim.x) dxs[v] = gradient(xs[v], dys[v], ws[v], r, mean);
    }
  }
  if (!partial) return;
#pragma unroll
  for (int k = 0; k < KEEP; k++) {
    const u32 v = k * blockDim.x + threadIdx.x;
    if (v >= vectors) continue;
#pragma unroll
    for (int i = 0; i < N; i++) columns[v][i] = dw[k][i];
  }
}

#define ENTRIES(T, dtype)                                                                               \
  KERNEL(THREADS, rms_norm_fwd_##dtype, const T* x /* (rows, width) */, const T* w /* (width) */,       \
         T* y /* (rows, width) */, float* rstd /* (rows) or null */, i64 rows, u32 width, float eps) {  \
    SMEM_ARRAY(float, sums, 2 * MAX_WARPS);                                                             \
    if (aligned<T>(width, x, w, y)) forward<T, WIDEST<T>>(x, w, y, rstd, rows, width, eps, sums);       \
    else forward<T, 1>(x, w, y, rstd, rows, width, eps, sums);                                          \
  }                                                                                                     \
  KERNEL(THREADS, rms_norm_bwd_##dtype, const T* x /* (rows, width) */, const T* w /* (width) */,       \
         const float* rstd /* (rows) */, const T* dy /* (rows, width) */,                               \
         T* dx /* (rows, width) or null */, float* partial /* (gridDim.x, width) or null */, i64 rows,  \
         u32 width) {                                                                                   \
    SMEM_ARRAY(float, sums, 2 * MAX_WARPS);                                                             \
    if (aligned<T>(width, x, w, dy, dx))                                                                \
      backward<T, WIDEST<T>>(x, w, rstd, dy, dx, partial, rows, width, sums);                           \
    else backward<T, 1>(x, w, rstd, dy, dx, partial, rows, width, sums);                                \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)

// dw = the sum of the rows of `partial`. A warp reads 32 neighbouring columns of one row; the 8 warps of a block
// take every eighth row, and the first warp adds their sums in order.
KERNEL(THREADS, rms_norm_bwd_w_f32, const float* partial /* (rows, width) */, float* dw /* (width) */, u32 rows,
       u32 width) {
  constexpr u32 WARPS = THREADS / 32;
  SMEM_ARRAY(float, sums, THREADS);
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
  float sum = 0;
  if (column < width)
    for (u32 row = warp; row < rows; row += WARPS) sum += partial[(u64)row * width + column];
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp > 0 || column >= width) return;
  for (u32 w = 1; w < WARPS; w++) sum += sums[w * 32 + lane];
  dw[column] = sum;
}
