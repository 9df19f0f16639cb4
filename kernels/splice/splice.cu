// Feature rows in the place of others, and back (mod.rs has the equations).
//
// Mapping   A block per feature: forward copies it over the row of y that it replaces; backward copies that row of the
//           gradient out and zeroes it, either if wanted. The rows in between are never touched.
// Tile      fwd, bwd: 1 row of features.
// Memory    16 bytes an access, four of a thread in flight; each row is read once and written once. Rows that are not
//           16-byte aligned take the same code with vectors of one value. Registers by NVRTC 12.9: at most 40, none
//           spilled.
// Hazards   Rows are distinct, so blocks write apart; if one is named twice, which feature gets there is open, value by
//           value. A row outside x is not touched, and the gradient of its feature is NaN. dx may be dy: each thread
//           zeroes only what it has read itself.
// Source    Our own.
#include "copy_rows.cuh"

constexpr int THREADS = 256;

template <class T, int N>
DEV void forward(const T* features, const u32* rows, T* y, i64 count, u64 tokens, u32 width) {
  typedef Vector<T, N> V;
  for (i64 f = blockIdx.x; f < count; f += gridDim.x) {
    const u64 row = rows[f];
    if (row < tokens) copy_row((const V*)(features + f * width), (V*)(y + row * width), width / N);
  }
}

template <class T, int N>
DEV void backward(const T* dy, const u32* rows, T* dx, T* dfeatures, i64 count, u64 tokens, u32 width) {
  typedef Vector<T, N> V;
  for (i64 f = blockIdx.x; f < count; f += gridDim.x) {
    const u64 row = rows[f];
    if (dfeatures) {
      V* to = (V*)(dfeatures + f * width);
      if (row < tokens) copy_row((const V*)(dy + row * width), to, width / N);
      else fill_row(to, not_a_number(), width / N);
    }
    if (dx && row < tokens) fill_row((V*)(dx + row * width), 0.0f, width / N);
  }
}

#define ENTRIES(T, dtype)                                                                                   \
  KERNEL(THREADS, splice_fwd_##dtype, const T* features /* (count, width) */, const u32* rows /* (count) */, \
         T* y /* (tokens, width) */, i64 count, u64 tokens, u32 width) {                                    \
    if (aligned<T>(width, features, y)) forward<T, WIDEST<T>>(features, rows, y, count, tokens, width);     \
    else forward<T, 1>(features, rows, y, count, tokens, width);                                            \
  }                                                                                                         \
  KERNEL(THREADS, splice_bwd_##dtype, const T* dy /* (tokens, width) */, const u32* rows /* (count) */,     \
         T* dx /* dy itself or null */, T* dfeatures /* (count, width) or null */, i64 count, u64 tokens,   \
         u32 width) {                                                                                       \
    if (aligned<T>(width, dy, dfeatures))                                                                   \
      backward<T, WIDEST<T>>(dy, rows, dx, dfeatures, count, tokens, width);                                \
    else backward<T, 1>(dy, rows, dx, dfeatures, count, tokens, width);                                     \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
