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
