// Rotary position embedding in place, forward and backward (the equations are in mod.rs).
//
// Mapping   One block per row at a time. The threads of a block are slots of as many threads as half a head has
//           vectors: a thread takes one vector of the first half and its partner of the second, in every slots-th
//           head, and so keeps the cosines and sines it needs in registers for all of them.
// Tile      fwd, bwd: 1 row, {HEADS_AT_ONCE} heads of a thread at a time.
// Memory    Rotated columns of q and k are read once and written once, 4 bytes per element in bf16; others, and the v
//           heads, are not touched. A row's table comes from L2, once per slot. A thread has the vectors of four
//           heads on their way, 8 loads of 16 bytes; heads that 16 bytes do not divide, and views, take the same
//           code with vectors of one value. Registers by NVRTC 12.9 on sm_90a: 128 in bf16, 70 in f32, nothing
//           spilled.
//           Eight cosines take two accesses of 16 bytes, and lanes are 32 bytes apart: each access touches twice the
//           sectors that it fills. The second finds them in L1, and of a row with 64 heads the table is 1 byte in 64.
// Hazards   A thread that reads two partners rewrites both; nobody else touches them. The threads beyond the last
//           whole slot return at once: there is no barrier.
// Source    Su et al. 2021, equation 34, half-rotation form.
#include "elementwise.cuh"

constexpr int THREADS = 256;
constexpr int HEADS_AT_ONCE = 4;  // gpu.rs chooses the number of threads by it

// The rotation of one pair of vectors, by minus the angles if `sign` is -1.
template <class T, int N>
DEV void rotate(Vector<T, N>& low, Vector<T, N>& high, const Floats<N>& cos, const Floats<N>& sin,
                float sign) {
#pragma unroll
  for (int i = 0; i < N; i++) {
    const float a = load(low.at[i]), b = load(high.at[i]), s = sign * sin.at[i];
    store(low.at[i], a * cos.at[i] - b * s);
    store(high.at[i], b * cos.at[i] + a * s);
  }
}

template <class T, int N>
DEV void rotate_rows(T* x, const float* table, i64 rows, u32 width, u32 heads, u32 head_dim, u32 half, float sign) {
  typedef Vector<T, N> V;
  const u32 pairs = half / N, slot_threads = min(pairs, blockDim.x);
  const u32 slots = blockDim.x / slot_threads, slot = threadIdx.x / slot_threads;
  if (slot >= slots) return;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    T* xs = x + row * width;
    const float *cosines = table + row * 2 * half, *sines = cosines + half;
    for (u32 pair = threadIdx.x % slot_threads; pair < pairs; pair += slot_threads) {
      const Floats<N> cos = load_floats<N>(cosines + pair * N), sin = load_floats<N>(sines + pair * N);
      V low[HEADS_AT_ONCE], high[HEADS_AT_ONCE];
      batched<HEADS_AT_ONCE>(
          slot, slots, heads,
          [&](int k, i64 head) {
            const V* at = (const V*)(xs + head * head_dim) + pair;
            low[k] = at[0], high[k] = at[pairs];
          },
          [&](int k, i64 head) {
            rotate(low[k], high[k], cos, sin, sign);
            V* at = (V*)(xs + head * head_dim) + pair;
            at[0] = low[k], at[pairs] = high[k];
          });
    }
  }
}

// `half` is rotary_dim / 2. Vectors need whole ones in half a rotated part and from head to head.
#define ENTRY(T, dtype, pass, sign)                                                                              \
  KERNEL(THREADS, rope_##pass##_##dtype, T* x /* (rows, width), width = heads * head_dim + the v heads */,       \
         const float* table /* (rows, 2 half) */, i64 rows, u32 width, u32 heads, u32 head_dim, u32 half) {      \
    if (aligned<T>(half, x, table) && head_dim % WIDEST<T> == 0)                                                  \
      rotate_rows<T, WIDEST<T>>(x, table, rows, width, heads, head_dim, half, sign);                             \
    else rotate_rows<T, 1>(x, table, rows, width, heads, head_dim, half, sign);                                  \
  }
ENTRY(float, f32, fwd, 1.0f)
ENTRY(bf16, bf16, fwd, 1.0f)
ENTRY(float, f32, bwd, -1.0f)
ENTRY(bf16, bf16, bwd, -1.0f)
