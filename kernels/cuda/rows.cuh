// How the rows of a norm lie over the threads of a block: a row's first KEEP * blockDim.x vectors stay in registers
// between the passes over it, what lies beyond is read again for each pass, from L2.
//
// A program is compiled with KEEP, -DKEPT=2 say: as few as keep the row, since registers that hold nothing cost warps,
// and with them bytes in flight.
#pragma once
#include "reduce.cuh"
#include "vector.cuh"

// The launch bound of the norms; device/launch.rs has the same number and chooses KEPT, which is 1, 2 or 4.
constexpr int NORM_THREADS = 256;
constexpr int KEEP = KEPT;

// Calls f(k, v) for each vector v of the row that this thread keeps, the k-th of them. Neighbouring threads have
// neighbouring vectors.
template <class F>
DEV void each_kept(u32 vectors, F f) {
#pragma unroll
  for (int k = 0; k < KEEP; k++) {
    const u32 v = k * blockDim.x + threadIdx.x;
    if (v < vectors) f(k, v);
  }
}

// Calls f(v) for each vector of this thread beyond those.
template <class F>
DEV void each_beyond(u32 vectors, F f) {
  for (u32 v = KEEP * blockDim.x + threadIdx.x; v < vectors; v += blockDim.x) f(v);
}

// The share that a persistent block has in the gradient of a weight, a sum over rows, is a row of partial sums, here as
// one array of N per vector. Those of kept vectors are summed in registers and written at the end; those beyond in
// their place, where no other thread touches them. `columns` is null where no such gradient is wanted.
template <int N>
DEV float (*columns_of(float* partial, u32 width))[N] {
  return partial ? (float(*)[N])(partial + (u64)blockIdx.x * width) : nullptr;
}

template <int N>
DEV void zero_beyond(float (*columns)[N], u32 vectors) {
  if (!columns) return;
  each_beyond(vectors, [&](u32 v) {
    for (int i = 0; i < N; i++) columns[v][i] = 0;
  });
}

template <int N>
DEV void write_kept(float (*columns)[N], const float (&sums)[KEEP][N], u32 vectors) {
  if (!columns) return;
  each_kept(vectors, [&](int k, u32 v) {
#pragma unroll
    for (int i = 0; i < N; i++) columns[v][i] = sums[k][i];
  });
}
