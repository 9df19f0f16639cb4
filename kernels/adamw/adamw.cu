// One AdamW step of many tensors (mod.rs has the equations).
//
// Mapping   A block per chunk of 16 K elements of one tensor (tensors.cuh), each thread two vectors of four elements at
//           a time.
// Tile      fwd: {CHUNK} elements of one tensor.
// Memory    28 bytes a parameter with a bf16 weight: gradient, m, v and master are read, m, v, master and weight
//           written, each once, 16 bytes an access (8 for a bf16 weight), eight loads of a thread in flight. The ends
//           of tensors and those that are not aligned go one by one. Registers by NVRTC 12.9: 60 with a bf16 weight
//           and 67 without on sm_90a (66 on sm_80, 80 on sm_120), nothing spilled.
// Hazards   Each element has one thread. The clip factor comes from the squared norm on the device, the same in every
//           thread; if that is not finite, every thread leaves before it writes.
// Source    Loshchilov and Hutter 2019, algorithm 2; the factor is that of torch.nn.utils.clip_grad_norm_.
#include "tensors.cuh"

constexpr int N = 4;      // elements of a vector
constexpr int AHEAD = 2;  // vectors of each tensor that a thread loads before it uses the first

template <class T>
struct Tensor {
  Extent extent;
  float* master;      // (elements)
  const float* grad;  // (elements)
  float* m;           // (elements)
  float* v;           // (elements)
  T* weight;          // (elements) or null
};

struct Step {
  float beta1, beta2, rest1, rest2;  // rest: 1 - beta
  float eps;
  float keep;        // 1 - lr * weight_decay
  float rate;        // lr / (1 - beta1^t)
  float correction;  // sqrt(1 - beta2^t)
  float clip;        // what gradients are multiplied by
};

DEV void update(const Step& s, float& x, float g, float& m, float& v) {
  g *= s.clip;
  m = s.beta1 * m + s.rest1 * g;
  v = s.beta2 * v + s.rest2 * g * g;
  x = x * s.keep - s.rate * m / (sqrtf(v) / s.correction + s.eps);
}

// The elements [from, to) of the chunk that starts at `first`, in vectors of M.
template <int M, class T>
DEV void update(const Step& s, const Tensor<T>& t, u64 first, u32 from, u32 to) {
  typedef Vector<float, M> V;
  V *masters = (V*)(t.master + first), *ms = (V*)(t.m + first), *vs = (V*)(t.v + first);
  const V* grads = (const V*)(t.grad + first);
  Vector<T, M>* weights = (Vector<T, M>*)(t.weight + first);
  V x[AHEAD], g[AHEAD], m[AHEAD], v[AHEAD];
  batched<AHEAD>(
      from + threadIdx.x, blockDim.x, to,
      [&](int k, i64 i) { g[k] = grads[i], m[k] = ms[i], v[k] = vs[i], x[k] = masters[i]; },
      [&](int k, i64 i) {
#pragma unroll
        for (int e = 0; e < M; e++) update(s, x[k].at[e], g[k].at[e], m[k].at[e], v[k].at[e]);
        ms[i] = m[k], vs[i] = v[k], masters[i] = x[k];
        if (!t.weight) return;
        Vector<T, M> weight;
#pragma unroll
        for (int e = 0; e < M; e++) store(weight.at[e], x[k].at[e]);
        weights[i] = weight;
      });
}

#define ENTRY(T, dtype)                                                                                      \
  KERNEL(CHUNK_THREADS, adamw_fwd_##dtype, const Tensor<T>* table /* (tensors) */, u32 tensors,              \
         const float* hyper /* (3) */, const float* squares /* (1) */, float beta1, float beta2, float rest1, \
         float rest2, float eps, float weight_decay, float clip) {                                           \
    const float norm = sqrtf(*squares);                                                                      \
    if (!(norm <= 3.402823466e38f)) return;                                                                  \
    const float factor = clip > 0.0f && norm > clip ? clip / (norm + 1e-6f) : 1.0f;                          \
    const Step step = {beta1,    beta2,    rest1, rest2, eps, 1.0f - hyper[0] * weight_decay,                \
                       hyper[1], hyper[2], factor};                                                          \
    const Tensor<T> tensor = record_of(table, tensors, blockIdx.x);                                          \
    const Range range = range_of(tensor.extent, blockIdx.x);                                                 \
    const bool whole = on_16_bytes(tensor.master, tensor.grad, tensor.m, tensor.v) &&                        \
                       (u64)tensor.weight % (N * sizeof(T)) == 0;                                            \
    const u32 vectors = whole ? range.count / N : 0;                                                         \
    update<N>(step, tensor, range.first, 0, vectors);                                                        \
    update<1>(step, tensor, range.first, vectors * N, range.count);                                          \
  }
ENTRY(float, f32)
ENTRY(bf16, bf16)
