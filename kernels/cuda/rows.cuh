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

// The share that a persistent block has in the gradient of a weight, a sum over rows, is a row of partial sums: `columns`,
// or null where no such gradient is wanted. Those of kept vectors are summed in registers and written at the end; those
// beyond in their place, where no other thread touches them.
DEV float* columns_of(float* partial, u32 width) { return partial ? partial + (u64)blockIdx.x * width : nullptr; }

template <int N>
DEV void zero_beyond(float* columns, u32 vectors) {
  if (columns) each_beyond(vectors, [&](u32 v) { store_floats(columns + v * N, Floats<N>{}); });
}

template <int N>
DEV void write_kept(float* columns, const Floats<N> (&sums)[KEEP], u32 vectors) {
  if (columns) each_kept(vectors, [&](int k, u32 v) { store_floats(columns + v * N, sums[k]); });
}

// Calls add(sums, v) for each vector beyond, with the sums of its columns to be added to.
template <int N, class F>
DEV void add_beyond(float* columns, u32 vectors, F add) {
  each_beyond(vectors, [&](u32 v) {
    Floats<N> sums = load_floats<N>(columns + v * N);
    add(sums, v);
    store_floats(columns + v * N, sums);
  });
}
