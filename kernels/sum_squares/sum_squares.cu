// The sum of the squares of many tensors (mod.rs has the details).
//
// Mapping   A block per chunk of 16 K elements of one tensor (tensors.cuh), which writes its sum to `partial`; then
//           `total` is one block that adds these up.
// Tile      fwd: {CHUNK} elements of one tensor.
//           fwd_total: all chunks.
// Memory    Every element is read once, 16 bytes an access, four of a thread in flight; the ends of tensors and those
//           that are not aligned go one by one. A chunk's partial sum is 8 bytes for its 32 KB or more. Shared
//           memory: 256 bytes. Registers by NVRTC 12.9: at most 48, none spilled.
// Hazards   Squares are added in f32 within a vector (eight bf16 or four f32) and in f64 beyond, in an order that the
//           sizes alone determine: no atomics, the same bits every run. A square above 3.4e38 is infinite.
// Source    Our own.
#include "reduce.cuh"
#include "tensors.cuh"

template <class T>
struct Tensor {
  Extent extent;
  const T* x;
};

template <int N, class T>
DEV double sum_of_squares(const T* x, u32 from, u32 to) {
  Vector<T, N> xs[IN_FLIGHT];
  double sum = 0;
  batched<IN_FLIGHT>(
      from + threadIdx.x, blockDim.x, to, [&](int k, i64 v) { xs[k] = ((const Vector<T, N>*)x)[v]; },
      [&](int k, i64) {
        float squares = 0;
#pragma unroll
        for (int i = 0; i < N; i++) squares += load(xs[k].at[i]) * load(xs[k].at[i]);
        sum += squares;
      });
  return sum;
}

#define ENTRY(T, dtype)                                                                                    \
  KERNEL(CHUNK_THREADS, sum_squares_fwd_##dtype, const Tensor<T>* table /* (tensors) */, u32 tensors,      \
         double* partial /* (gridDim.x) */) {                                                              \
    SMEM_ARRAY(double, sums, MAX_WARPS);                                                                   \
    const Tensor<T> tensor = record_of(table, tensors, blockIdx.x);                                        \
    const Range range = range_of(tensor.extent, blockIdx.x);                                               \
    const T* x = tensor.x + range.first;                                                                   \
    const u32 vectors = on_16_bytes(x) ? range.count / WIDEST<T> : 0;                                      \
    double sum = sum_of_squares<WIDEST<T>>(x, 0, vectors);                                                 \
    sum += sum_of_squares<1>(x, vectors * WIDEST<T>, range.count);                                         \
    sum = block_sum(sum, sums);                                                                            \
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;                                                       \
  }
ENTRY(float, f32)
ENTRY(bf16, bf16)

KERNEL(CHUNK_THREADS, sum_squares_fwd_total_f32, const double* partial /* (count) */, float* y /* (1) */, u32 count) {
  SMEM_ARRAY(double, sums, MAX_WARPS);
  double sum = 0;
#pragma unroll 4
  for (u32 i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum, sums);
  if (threadIdx.x == 0) *y = (float)sum;
}
