// Copying and filling whole rows, a block to a row. Thread t has the vectors t, t + blockDim.x, ... in both, so that a
// row may be copied and then overwritten without a barrier.
#pragma once
#include "vector.cuh"

// What takes the place of a value that an index out of range asks for.
DEV float not_a_number() { return __uint_as_float(0x7fc00000u); }

// Four loads of a thread are in flight at once.
template <class V>
DEV void copy_row(const V* from, V* to, u32 vectors) {
  constexpr int FLIGHT = 4;
  for (u32 first = threadIdx.x; first < vectors; first += FLIGHT * blockDim.x) {
    V held[FLIGHT];
#pragma unroll
    for (int k = 0; k < FLIGHT; k++)
      if (first + k * blockDim.x < vectors) held[k] = from[first + k * blockDim.x];
#pragma unroll
    for (int k = 0; k < FLIGHT; k++)
      if (first + k * blockDim.x < vectors) to[first + k * blockDim.x] = held[k];
  }
}

template <class T, int N>
DEV void fill_row(Vector<T, N>* to, float value, u32 vectors) {
  Vector<T, N> filled;
#pragma unroll
  for (int i = 0; i < N; i++) store(filled.at[i], value);
  for (u32 v = threadIdx.x; v < vectors; v += blockDim.x) to[v] = filled;
}
