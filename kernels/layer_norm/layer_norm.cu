// LayerNorm, forward and backward (the equations are in mod.rs).
//
// Mapping   As rms_norm.cu: one block per row at a time, vectors of 16 bytes; backward with persistent blocks that keep
//           their shares of dw and db in registers and end by writing a row of each `partial`, of which column_sum
//           makes dw and db.
// Tile      fwd: 1 row.
//           bwd: every gridDim.x-th row.
// Memory    x, and in backward dy too, are read once: a row's first 256 * KEEP vectors (up to 8192 bf16, 4096 f32 values)
//           stay in registers for the mean, the variance and the result; what lies beyond is read again for each, from
//           L2. w and b come from L2. Rows that are not 16-byte aligned (odd widths, views) take the same code with vectors
//           of one value. Shared memory: 256 bytes forward, 512 backward. Registers
//           by NVRTC 12.9 in bf16 on sm_90a for KEEP = 1, 2, 4: forward 32, 40, 48, backward 72, 104, 158, nothing
//           spilled.
//           A vector of eight columns of `partial` takes two accesses of 16 bytes, and lanes are 32 bytes apart: each
//           access touches twice the sectors that it fills, both the same, so HBM sees them once. Halves exchanged
//           between lanes would mend that for four shuffles a vector; but of 8192 rows of 4096 it is some 3 % of the bytes.
// Hazards   The variance is the mean square of the centred row: E[x^2] - E[x]^2 would cancel. Sums are in f32 in a
//           fixed order: no atomics, the same bits every run. block_sum needs its two arrays (see reduce.cuh); forward
//           sums twice per row, so its two are that of the mean and that of the variance.
// Source    Ba, Kiros and Hinton 2016, section 3; `offset` is 1 for NeMo's layernorm1p, whose weight means 1 + w.
#include "rows.cuh"

template <class T, int N, class F>
DEV float sum_over(Vector<T, N> x, F f) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N; i++) sum += f(load(x.at[i]));
  return sum;
}

// What a row is normed with.
struct Stats {
  float mean, rstd;
};

DEV float normalised(float x, Stats s) { return (x - s.mean) * s.rstd; }

template <class T, int N>
DEV Vector<T, N> scaled(Vector<T, N> x, Vector<T, N> w, float offset, Vector<T, N> b, Stats s) {
  Vector<T, N> y;
#pragma unroll
  for (int i = 0; i < N; i++)
    store(y.at[i], normalised(load(x.at[i]), s) * (offset + load(w.at[i])) + load(b.at[i]));
  return y;
}

template <class T, int N>
DEV void forward(const T* x, const T* w, const T* b, T* y, float* means, float* rstds, i64 rows, u32 width, float eps,
                 float offset, float* sums) {
  typedef Vector<T, N> V;
  const u32 vectors = width / N;
  const V *ws = (const V*)w, *bs = (const V*)b;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    const V* xs = (const V*)(x + row * width);
    V* ys = (V*)(y + row * width);
    V kept[KEEP];
    float sum = 0, squares = 0;
    const auto value = [](float x) { return x; };
    each_kept(vectors, [&](int k, u32 v) { kept[k] = xs[v], sum += sum_over(kept[k], value); });
    each_beyond(vectors, [&](u32 v) { sum += sum_over(xs[v], value); });
    const float mean = block_sum(sum, sums) / width;
    const auto square = [&](float x) { return (x - mean) * (x - mean); };
    each_kept(vectors, [&](int k, u32) { squares += sum_over(kept[k], square); });
    each_beyond(vectors, [&](u32 v) { squares += sum_over(xs[v], square); });
    const Stats s = {mean, 1.0f / sqrtf(block_sum(squares, sums + MAX_WARPS) / width + eps)};
    if (means && threadIdx.x == 0) means[row] = s.mean, rstds[row] = s.rstd;
    each_kept(vectors, [&](int k, u32 v) { ys[v] = scaled(kept[k], ws[v], offset, bs[v], s); });
    each_beyond(vectors, [&](u32 v) { ys[v] = scaled(xs[v], ws[v], offset, bs[v], s); });
  }
}

// The sums over one vector of g and of g * xhat, with g = dy * (offset + w).
template <class T, int N>
DEV Pair gradient_sums(Vector<T, N> x, Vector<T, N> dy, Vector<T, N> w, float offset, Stats s) {
  Pair sums = {0, 0};
#pragma unroll
  for (int i = 0; i < N; i++) {
    const float g = load(dy.at[i]) * (offset + load(w.at[i]));
    sums.a += g, sums.b += g * normalised(load(x.at[i]), s);
  }
  return sums;
}

// dx of one vector; `mean` holds the means of g and of g * xhat.
template <class T, int N>
DEV Vector<T, N> gradient(Vector<T, N> x, Vector<T, N> dy, Vector<T, N> w, float offset, Stats s,
                          Pair mean) {
  Vector<T, N> dx;
#pragma unroll
  for (int i = 0; i < N; i++) {
    const float g = load(dy.at[i]) * (offset + load(w.at[i]));
    store(dx.at[i], s.rstd * (g - mean.a - normalised(load(x.at[i]), s) * mean.b));
  }
  return dx;
}

// Adds one row's dy * xhat and dy to the sums of N columns.
template <class T, int N>
DEV void add_weight_gradient(Floats<N>& dw, Vector<T, N> x, Vector<T, N> dy, Stats s) {
#pragma unroll
  for (int i = 0; i < N; i++) dw.at[i] += load(dy.at[i]) * normalised(load(x.at[i]), s);
}
template <class T, int N>
DEV void add_bias_gradient(Floats<N>& db, Vector<T, N> dy) {
#pragma unroll
  for (int i = 0; i < N; i++) db.at[i] += load(dy.at[i]);
}

template <class T, int N>
DEV void backward(const T* x, const T* w, const float* means, const float* rstds, const T* dy, T* dx, float* partial_w,
                  float* partial_b, i64 rows, u32 width, float offset, float* sums) {
  typedef Vector<T, N> V;
  const u32 vectors = width / N;
  const V* ws = (const V*)w;
  Floats<N> dw[KEEP] = {}, db[KEEP] = {};
  float *w_columns = columns_of(partial_w, width), *b_columns = columns_of(partial_b, width);
  zero_beyond<N>(w_columns, vectors);
  zero_beyond<N>(b_columns, vectors);
  u32 turn = 0;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 2 * MAX_WARPS) {
    const V *xs = (const V*)(x + row * width), *dys = (const V*)(dy + row * width);
    const Stats s = {means[row], rstds[row]};
    V kept_x[KEEP], kept_dy[KEEP];
    each_kept(vectors, [&](int k, u32 v) { kept_x[k] = xs[v], kept_dy[k] = dys[v]; });
    if (partial_w) {
      each_kept(vectors, [&](int k, u32) { add_weight_gradient(dw[k], kept_x[k], kept_dy[k], s); });
      add_beyond<N>(w_columns, vectors, [&](Floats<N>& sum, u32 v) { add_weight_gradient(sum, xs[v], dys[v], s); });
    }
    if (partial_b) {
      each_kept(vectors, [&](int k, u32) { add_bias_gradient(db[k], kept_dy[k]); });
      add_beyond<N>(b_columns, vectors, [&](Floats<N>& sum, u32 v) { add_bias_gradient(sum, dys[v]); });
    }
    if (dx) {
      V* dxs = (V*)(dx + row * width);
      Pair sum = {0, 0};
      const auto add = [&](Pair part) { sum.a += part.a, sum.b += part.b; };
      each_kept(vectors, [&](int k, u32 v) { add(gradient_sums(kept_x[k], kept_dy[k], ws[v], offset, s)); });
      each_beyond(vectors, [&](u32 v) { add(gradient_sums(xs[v], dys[v], ws[v], offset, s)); });
      sum = block_sum(sum, sums + turn);
      const Pair mean = {sum.a / width, sum.b / width};
      each_kept(vectors, [&](int k, u32 v) { dxs[v] = gradient(kept_x[k], kept_dy[k], ws[v], offset, s, mean); });
      each_beyond(vectors, [&](u32 v) { dxs[v] = gradient(xs[v], dys[v], ws[v], offset, s, mean); });
    }
  }
  write_kept(w_columns, dw, vectors);
  write_kept(b_columns, db, vectors);
}

#define ENTRIES(T, dtype)                                                                                           \
  KERNEL(NORM_THREADS, layer_norm_fwd_##dtype, const T* x /* (rows, width) */, const T* w /* (width) */,            \
         const T* b /* (width) */, T* y /* (rows, width) */, float* mean /* (rows) or null */,                      \
         float* rstd /* (rows), null as mean is */, i64 rows, u32 width, float eps, float offset) {                 \
    SMEM_ARRAY(float, sums, 2 * MAX_WARPS);                                                                         \
    if (aligned<T>(width, x, w, b, y))                                                                              \
      forward<T, WIDEST<T>>(x, w, b, y, mean, rstd, rows, width, eps, offset, sums);                                \
    else forward<T, 1>(x, w, b, y, mean, rstd, rows, width, eps, offset, sums);                                     \
  }                                                                                                                 \
  KERNEL_AT_LEAST(NORM_THREADS, KEEP < 4 ? 2 : 1, layer_norm_bwd_##dtype, const T* x /* (rows, width) */,                       \
                  const T* w /* (width) */,                                                                         \
         const float* mean /* (rows) */, const float* rstd /* (rows) */, const T* dy /* (rows, width) */,           \
         T* dx /* (rows, width) or null */, float* partial_w /* (gridDim.x, width) or null */,                      \
         float* partial_b /* (gridDim.x, width) or null */, i64 rows, u32 width, float offset) {                    \
    SMEM_ARRAY(float, sums, 4 * MAX_WARPS);                                                                         \
    if (aligned<T>(width, x, w, dy, dx) && on_16_bytes(partial_w, partial_b))                                                                            \
      backward<T, WIDEST<T>>(x, w, mean, rstd, dy, dx, partial_w, partial_b, rows, width, offset, sums);            \
    else backward<T, 1>(x, w, mean, rstd, dy, dx, partial_w, partial_b, rows, width, offset, sums);                 \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
