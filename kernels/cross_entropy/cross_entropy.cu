// Cross entropy and its gradient in place of the logits (mod.rs has the equations).
//
// Mapping   One block per row; thread t takes the 16-byte vectors t, t + blockDim.x, ... Each thread finds the largest
//           of its values and the sum of e^(x - largest), the block joins these pairs, then each thread writes the
//           gradient over its values. `total` is one block that adds the rows' terms; `bwd` does nothing unless dloss
//           is not 1, which it reads on the device.
// Tile      fwd: 1 row.
//           bwd: {ELEMENTWISE_THREADS * IN_FLIGHT} vectors at a time.
//           fwd_total: all terms.
// Memory    A row's first 512 * KEEP vectors (32768 bf16, 16384 f32 values) stay in registers from the first pass to
//           the second: the logits are read once and the gradient is written once, 4 bytes a value in bf16. What lies
//           beyond is read a second time, from L2. Eight loads of a thread are in flight, beyond the kept part one: of
//           1024 threads on a multiprocessor that is 16 KB, still enough. More would not fit the 64 registers that two
//           blocks leave a thread. Rows that are not 16-byte aligned take the same code with vectors of one value.
//           Shared memory: 512 bytes for the pairs, 256 in `total`. Registers by NVRTC 12.9 (sm_80, sm_90a, sm_120):
//           forward 64, the rest at most 54, nothing spilled.
// Hazards   dx may be x. A thread writes only vectors that it alone reads, after it has read them, but for the label's
//           logit: all threads read that, before the barrier that comes before the first write. The pairs are
//           joined through one of two arrays in turn, as block_sum needs it; a row that is not read skips the barrier
//           and keeps its turn. A label outside the row is read from nowhere: its term and gradient are NaN.
// Source    Our own. Joining (largest, sum) pairs: Milakov and Gimelshein, Online normalizer calculation for softmax,
//           2018, algorithm 3.
#include "copy_rows.cuh"
#include "elementwise.cuh"
#include "reduce.cuh"

constexpr int THREADS = 512;
constexpr int KEEP = 8;  // vectors of a row that one thread keeps in registers
constexpr u32 IGNORED = ~0u;
constexpr float LOWEST = -3.402823466e38f;  // not infinity, so that differences are no NaN

// e^x as exactly as the gradient's type needs it: 2^-22 is far below a step of bf16.
DEV float exponential(float x, float) { return expf(x); }
DEV float exponential(float x, bf16) { return ex2(x * 1.44269504f); }

// The largest of some values and the sum of e^(x - largest). Of none: LOWEST and 0.
struct Softmax {
  float largest = LOWEST, sum = 0;
};

// Takes in the vectors x[k] at first + k blockDim.x, those of them that are below `vectors`.
template <class T, int N, int K>
DEV void absorb(Softmax& s, const Vector<T, N> (&x)[K], u32 first, u32 vectors) {
  const auto exists = [&](int k) { return first + k * blockDim.x < vectors; };
  float largest = s.largest;
#pragma unroll
  for (int k = 0; k < K; k++)
    if (exists(k))
#pragma unroll
      for (int i = 0; i < N; i++) largest = fmaxf(largest, load(x[k].at[i]));
  float sum = s.sum * exponential(s.largest - largest, T());
#pragma unroll
  for (int k = 0; k < K; k++)
    if (exists(k))
#pragma unroll
      for (int i = 0; i < N; i++) sum += exponential(load(x[k].at[i]) - largest, T());
  s.largest = largest, s.sum = sum;
}

DEV Softmax warp_join(Softmax s) {
  const float largest = warp_max(s.largest);
  s.sum = warp_sum(s.sum * expf(s.largest - largest));
  s.largest = largest;
  return s;
}

// As block_sum, with `largest` and `sums` (MAX_WARPS each) in shared memory.
DEV Softmax block_join(Softmax s, float* largest, float* sums) {
  const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  s = warp_join(s);
  if (lane == 0) largest[warp] = s.largest, sums[warp] = s.sum;
  __syncthreads();
  Softmax other;
  if (lane < blockDim.x / 32) other.largest = largest[lane], other.sum = sums[lane];
  return warp_join(other);
}

// What turns logits into their gradient: w softmax(x), less w at the label.
struct Gradient {
  float largest, scale;
  u32 label;
  float at_label;
};

template <class T, int N>
DEV Vector<T, N> gradient(const Gradient& g, const Vector<T, N>& x, u32 v) {
  Vector<T, N> dx;
#pragma unroll
  for (int i = 0; i < N; i++) {
    const float d = exponential(load(x.at[i]) - g.largest, T()) * g.scale;
    store(dx.at[i], v * N + i == g.label ? g.at_label : d);
  }
  return dx;
}

template <class T, int N>
DEV void forward(const T* x, const u32* labels, const float* w, float* terms, T* dx, i64 rows, u32 width,
                 float (&largest)[2 * MAX_WARPS], float (&sums)[2 * MAX_WARPS]) {
  typedef Vector<T, N> V;
  const u32 vectors = width / N, first_reread = KEEP * blockDim.x + threadIdx.x;
  u32 turn = 0;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    const V* xs = (const V*)(x + row * width);
    V* dxs = (V*)(dx + row * width);
    const u32 label = labels[row];
    if (label >= width) {
      const float result = label == IGNORED ? 0.0f : not_a_number();
      if (threadIdx.x == 0) terms[row] = result;
      if (dx) fill_row(dxs, result, vectors);
      continue;
    }
    const float target = load(x[row * width + label]);
    V kept[KEEP];
    Softmax own;
#pragma unroll
    for (int k = 0; k < KEEP; k++) {
      const u32 v = k * blockDim.x + threadIdx.x;
      if (v < vectors) kept[k] = xs[v];
    }
    absorb(own, kept, threadIdx.x, vectors);
    for (u32 v = first_reread; v < vectors; v += blockDim.x) {
      const V one[1] = {xs[v]};
      absorb(own, one, v, vectors);
    }
    const Softmax all = block_join(own, largest + turn, sums + turn);
    turn ^= MAX_WARPS;
    const float weight = w[row];
    if (threadIdx.x == 0) terms[row] = weight * (logf(all.sum) - (target - all.largest));
    if (!dx) continue;
    const float at_label = weight * (expf(target - all.largest) / all.sum - 1.0f);
    const Gradient g = {all.largest, weight / all.sum, label, at_label};
#pragma unroll
    for (int k = 0; k < KEEP; k++) {
      const u32 v = k * blockDim.x + threadIdx.x;
      if (v < vectors) dxs[v] = gradient(g, kept[k], v);
    }
    for (u32 v = first_reread; v < vectors; v += blockDim.x) {
      const V again = xs[v];
      dxs[v] = gradient(g, again, v);
    }
  }
}

#define ENTRIES(T, dtype)                                                                                    \
  KERNEL_AT_LEAST(THREADS, 2, cross_entropy_fwd_##dtype, const T* x /* (rows, width) */,                     \
                  const u32* labels /* (rows) */, const float* w /* (rows) */, float* terms /* (rows) */,    \
                  T* dx /* (rows, width), x itself or null */, i64 rows, u32 width) {                        \
    SMEM_ARRAY(float, largest, 2 * MAX_WARPS);                                                               \
    SMEM_ARRAY(float, sums, 2 * MAX_WARPS);                                                                  \
    if (aligned<T>(width, x, dx)) forward<T, WIDEST<T>>(x, labels, w, terms, dx, rows, width, largest, sums); \
    else forward<T, 1>(x, labels, w, terms, dx, rows, width, largest, sums);                                 \
  }                                                                                                          \
  KERNEL(ELEMENTWISE_THREADS, cross_entropy_bwd_##dtype, T* dx /* (elements) */, const float* dloss /* (1) */, \
         i64 elements) {                                                                                     \
    const float factor = *dloss;                                                                             \
    if (factor != 1.0f) map(dx, dx, elements, [=](float d) { return d * factor; });                          \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)

// loss = the sum of the terms, in f64.
KERNEL(THREADS, cross_entropy_fwd_total_f32, const float* terms /* (rows) */, float* loss /* (1) */, i64 rows) {
  SMEM_ARRAY(double, sums, MAX_WARPS);
  double sum = 0;
#pragma unroll 4
  for (i64 row = threadIdx.x; row < rows; row += blockDim.x) sum += terms[row];
  sum = block_sum(sum, sums);
  if (threadIdx.x == 0) *loss = (float)sum;
}
