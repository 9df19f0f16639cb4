// Stored types and vectors of them. A value is stored as T and computed with as f32.
#pragma once
#include "ptx.cuh"

struct bf16 {
  u16 bits;
};

DEV float load(float value) { return value; }
DEV float load(bf16 value) { return __uint_as_float((u32)value.bits << 16); }

DEV void store(float& to, float value) { to = value; }
DEV void store(bf16& to, float value) { to.bits = bf16_bits(value); }

// N values that move in one access.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
};

// N floats, where a vector of N values of a narrower type has its sums or its factors. Copied as a whole, a
// Vector<float, 8> would ask for an alignment of 32 bytes.
template <int N>
struct Floats {
  float at[N];
};

// Reads N floats, 16 bytes at a time.
template <int N>
DEV Floats<N> load_floats(const float* from) {
  constexpr int W = N < 4 ? N : 4;
  Floats<N> values;
#pragma unroll
  for (int i = 0; i < N; i += W) {
    const Vector<float, W> part = *(const Vector<float, W>*)(from + i);
#pragma unroll
    for (int j = 0; j < W; j++) values.at[i + j] = part.at[j];
  }
  return values;
}

// Writes them likewise.
template <int N>
DEV void store_floats(float* to, Floats<N> values) {
  constexpr int W = N < 4 ? N : 4;
#pragma unroll
  for (int i = 0; i < N; i += W) {
    Vector<float, W> part;
#pragma unroll
    for (int j = 0; j < W; j++) part.at[j] = values.at[i + j];
    *(Vector<float, W>*)(to + i) = part;
  }
}

// How many values of type T one 16-byte access moves.
template <class T>
constexpr int WIDEST = 16 / sizeof(T);

// Whether all these addresses are multiples of 16 bytes. Null counts as one.
template <class... P>
DEV bool on_16_bytes(const P*... pointers) {
  return ((u64)pointers | ...) % 16 == 0;
}

// Whether rows of `width` values can be read 16 bytes at a time from all these addresses.
template <class T, class... P>
DEV bool aligned(u32 width, const P*... pointers) {
  return width % WIDEST<T> == 0 && on_16_bytes(pointers...);
}
