// Element-wise work: many loads on their way before the first result is needed, in vectors of 16 bytes.
//
// What a memory-bound kernel needs is bytes in flight: to use all of an H100's bandwidth a multiprocessor has to wait
// for some 40 KB at any time. Threads take IN_FLIGHT vectors of each tensor at once, 64 bytes; so a quarter of
// the threads that fit on a multiprocessor is enough.
#pragma once
#include "vector.cuh"

// The launch bound of element-wise kernels; device/launch.rs has the same two numbers.
constexpr int ELEMENTWISE_THREADS = 128;
constexpr int IN_FLIGHT = 4;

// Calls load(k, i), then store(k, i), for i = first, first + step, ... below end, with K values of i at a time: k counts
// them, and what load leaves in place k of an array, store finds there. A store may rewrite what its load read.
template <int K, class Load, class Store>
DEV void batched(i64 first, i64 step, i64 end, Load load, Store store) {
  for (; first < end; first += K * step) {
#pragma unroll
    for (int k = 0; k < K; k++)
      if (first + k * step < end) load(k, first + k * step);
#pragma unroll
    for (int k = 0; k < K; k++)
      if (first + k * step < end) store(k, first + k * step);
  }
}

// This thread's number in the grid's x, and how many there are.
DEV i64 thread_x() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }
DEV i64 threads_x() { return (i64)gridDim.x * blockDim.x; }

template <int N, class Y, class A, class F>
DEV void map_vectors(Y* y, const A* a, i64 vectors, F f) {
  Vector<A, N> as[IN_FLIGHT];
  batched<IN_FLIGHT>(
      thread_x(), threads_x(), vectors, [&](int k, i64 v) { as[k] = ((const Vector<A, N>*)a)[v]; },
      [&](int k, i64 v) {
        Vector<Y, N> out;
#pragma unroll
        for (int i = 0; i < N; i++) store(out.at[i], f(load(as[k].at[i])));
        ((Vector<Y, N>*)y)[v] = out;
      });
}

// y[i] = f(a[i]) for i < n. y may be a.
template <class Y, class A, class F>
DEV void map(Y* y, const A* a, i64 n, F f) {
  constexpr int N = 16 / (sizeof(Y) > sizeof(A) ? sizeof(Y) : sizeof(A));
  const i64 done = on_16_bytes(y, a) ? n / N * N : 0;
  map_vectors<N>(y, a, done / N, f);
  map_vectors<1>(y + done, a + done, n - done, f);
}

template <int N, class Y, class A, class B, class F>
DEV void map_vectors(Y* y, const A* a, const B* b, i64 vectors, F f) {
  Vector<A, N> as[IN_FLIGHT];
  Vector<B, N> bs[IN_FLIGHT];
  batched<IN_FLIGHT>(
      thread_x(), threads_x(), vectors,
      [&](int k, i64 v) { as[k] = ((const Vector<A, N>*)a)[v], bs[k] = ((const Vector<B, N>*)b)[v]; },
      [&](int k, i64 v) {
        Vector<Y, N> out;
#pragma unroll
        for (int i = 0; i < N; i++) store(out.at[i], f(load(as[k].at[i]), load(bs[k].at[i])));
        ((Vector<Y, N>*)y)[v] = out;
      });
}

// y[i] = f(a[i], b[i]) for i < n. y may be a or b, where the types are the same.
template <class Y, class A, class B, class F>
DEV void map(Y* y, const A* a, const B* b, i64 n, F f) {
  constexpr int WIDEST_AB = sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B);
  constexpr int N = 16 / (sizeof(Y) > WIDEST_AB ? sizeof(Y) : WIDEST_AB);
  const i64 done = on_16_bytes(y, a, b) ? n / N * N : 0;
  map_vectors<N>(y, a, b, done / N, f);
  map_vectors<1>(y + done, a + done, b + done, n - done, f);
}
