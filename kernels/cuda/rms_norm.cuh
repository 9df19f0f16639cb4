// RMSNorm of rows, alone (rms_norm.cu) and of a sum of two (add_rms_norm.cu), forward and backward; the equations are
// in rms_norm/mod.rs.
#pragma once
#include "rows.cuh"

template <class T, int N>
DEV Vector<T, N> sum(Vector<T, N> a, Vector<T, N> b) {
  Vector<T, N> y;
#pragma unroll
  for (int i = 0; i < N; i++) store(y.at[i], load(a.at[i]) + load(b.at[i]));
  return y;
}

template <class T, int N>
DEV float sum_of_squares(Vector<T, N> x) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N; i++) sum += load(x.at[i]) * load(x.at[i]);
  return sum;
}

template <class T, int N>
DEV Vector<T, N> normalised(Vector<T, N> x, Vector<T, N> w, float rstd) {
  Vector<T, N> y;
#pragma unroll
  for (int i = 0; i < N; i++) store(y.at[i], load(x.at[i]) * rstd * load(w.at[i]));
  return y;
}

// y = r * rstd * w, where r = x, or x + residual if that is not null; then r is written, over x or elsewhere. rstd is
// written unless it is null. `sums` is 2 * MAX_WARPS of shared memory.
template <class T, int N>
DEV void rms_norm_forward(const T* x, const T* residual, T* r, const T* w, T* y, float* rstd, i64 rows, u32 width,
                          float eps, float* sums) {
  typedef Vector<T, N> V;
  const u32 vectors = width / N;
  const V* ws = (const V*)w;
  u32 turn = 0;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x, turn ^= MAX_WARPS) {
    const V* xs = (const V*)(x + row * width);
    const V* residuals = residual ? (const V*)(residual + row * width) : nullptr;
    V *rs = residual ? (V*)(r + row * width) : nullptr, *ys = (V*)(y + row * width);
    V kept[KEEP], added[KEEP];
    each_kept(vectors, [&](int k, u32 v) {
      kept[k] = xs[v];
      if (residuals) added[k] = residuals[v];
    });
    float squares = 0;
    each_kept(vectors, [&](int k, u32 v) {
      if (residuals) rs[v] = kept[k] = sum(kept[k], added[k]);
      squares += sum_of_squares(kept[k]);
    });
    each_beyond(vectors, [&](u32 v) {
      V value = xs[v];
      if (residuals) rs[v] = value = sum(value, residuals[v]);
      squares += sum_of_squares(value);
    });
    const float scale = 1.0f / sqrtf(block_sum(squares, sums + turn) / width + eps);
    if (rstd && threadIdx.x == 0) rstd[row] = scale;
    each_kept(vectors, [&](int k, u32 v) { ys[v] = normalised(kept[k], ws[v], scale); });
    each_beyond(vectors, [&](u32 v) { ys[v] = normalised(residuals ? rs[v] : xs[v], ws[v], scale); });
  }
}

// The sum of dy * w * x over one vector: mean(g * xhat) without rstd / width.
template <class T, int N>
DEV float dot(Vector<T, N> x, Vector<T, N> dy, Vector<T, N> w) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N; i++) sum += load(dy.at[i]) * load(w.at[i]) * load(x.at[i]);
  return sum;
}

// The gradient of one vector of x, on top of `dr` if that is to be added; rounded once.
template <class T, int N>
DEV Vector<T, N> gradient(bool add, Vector<T, N> dr, Vector<T, N> x, Vector<T, N> dy,
                          Vector<T, N> w, float rstd, float mean) {
  Vector<T, N> dx;
#pragma unroll
  for (int i = 0; i < N; i++) {
    const float d = rstd * (load(dy.at[i]) * load(w.at[i]) - load(x.at[i]) * rstd * mean);
    store(dx.at[i], add ? load(dr.at[i]) + d : d);
  }
  return dx;
}

// Adds one row's dy * xhat to the sums of N columns.
template <class T, int N>
DEV void add_weight_gradient(Floats<N>& sum, Vector<T, N> x, Vector<T, N> dy, float rstd) {
#pragma unroll
  for (int i = 0; i < N; i++) sum.at[i] += load(dy.at[i]) * (load(x.at[i]) * rstd);
}

// dx = dr + the gradient of x (dr counts as 0 where it is null, and may be dx), and this block's share of dw as a row of
// `partial`; dx or partial may be null. `sums` is 2 * MAX_WARPS of shared memory.
template <class T, int N>
DEV void rms_norm_backward(const T* x, const T* w, const float* rstd, const T* dy, const T* dr, T* dx, float* partial,
                           i64 rows, u32 width, float* sums) {
  typedef Vector<T, N> V;
  const u32 vectors = width / N;
  const V* ws = (const V*)w;
  Floats<N> dw[KEEP] = {};
  float* columns = columns_of(partial, width);
  zero_beyond<N>(columns, vectors);
  u32 turn = 0;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x, turn ^= MAX_WARPS) {
    const V *xs = (const V*)(x + row * width), *dys = (const V*)(dy + row * width);
    const V* drs = dr ? (const V*)(dr + row * width) : nullptr;
    const float r = rstd[row];
    V kept_x[KEEP], kept_dy[KEEP], kept_dr[KEEP];
    each_kept(vectors, [&](int k, u32 v) { kept_x[k] = xs[v], kept_dy[k] = dys[v]; });
    if (partial) {
      each_kept(vectors, [&](int k, u32) { add_weight_gradient(dw[k], kept_x[k], kept_dy[k], r); });
      add_beyond<N>(columns, vectors, [&](Floats<N>& sum, u32 v) { add_weight_gradient(sum, xs[v], dys[v], r); });
    }
    if (dx) {
      V* dxs = (V*)(dx + row * width);
      float product = 0;
      each_kept(vectors, [&](int k, u32 v) { product += dot(kept_x[k], kept_dy[k], ws[v]); });
      each_beyond(vectors, [&](u32 v) { product += dot(xs[v], dys[v], ws[v]); });
      // Asked for here, dr comes while the block waits at its barrier, and w's registers are free for it.
      if (drs) each_kept(vectors, [&](int k, u32 v) { kept_dr[k] = drs[v]; });
      const float mean = block_sum(product, sums + turn) * r / width;
      each_kept(vectors, [&](int k, u32 v) {
        dxs[v] = gradient(drs != nullptr, kept_dr[k], kept_x[k], kept_dy[k], ws[v], r, mean);
      });
      each_beyond(vectors, [&](u32 v) {
        V before = {};
        if (drs) before = drs[v];
        dxs[v] = gradient(drs != nullptr, before, xs[v], dys[v], ws[v], r, mean);
      });
    }
  }
  write_kept(columns, dw, vectors);
}
