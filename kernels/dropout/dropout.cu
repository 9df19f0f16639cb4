// Dropout, in place; forward and backward are the same map (mod.rs).
//
// Mapping   The grid's x covers the columns and its y the rows. A thread takes the 16-byte vectors t,
//           t + gridDim.x * blockDim.x, ... of every gridDim.y-th row; a counter gives the random words of four
//           columns, so a vector of four f32 takes one and one of eight bf16 takes two.
// Tile      fwd: {ELEMENTWISE_THREADS * COLUMNS} vectors across, every gridDim.y-th row.
// Memory    One read and one write per element; a row's key is one read for all its threads. Two vectors of a thread
//           are on their way at a time: the ten rounds of two products for each counter, some 15 integer
//           operations per element, keep a multiprocessor as busy as the memory does. Rows that 16 bytes do not divide
//           and views take the same code with vectors of one value, and make a counter's words for each. Registers by
//           NVRTC 12.9 on sm_90a: at most 40, nothing spilled.
// Hazards   The mask has to be that of random.rs bit for bit: columns, not addresses, are counted.
//           In place: the thread that reads a vector rewrites it.
// Source    Srivastava et al. 2014; Salmon et al. 2011 for the generator.
#include "elementwise.cuh"
#include "philox.cuh"

constexpr int COLUMNS = 2;  // vectors that a thread takes at once; gpu.rs has the same number

// Zeroes the values of columns column .. column + N whose random words are below `threshold`, scales the others.
template <class T, int N>
DEV void drop(Vector<T, N>& x, u32 column, u32 key, u32 threshold, float scale, u64 seed) {
  constexpr int WORDS = N < 4 ? N : 4;
#pragma unroll
  for (int first = 0; first < N; first += WORDS) {
    const Words random = philox({{(column + first) / 4, key, 0, DROPOUT}}, seed);
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
      // A vector of four columns starts at a multiple of four; one of a single column may be any of the counter's.
      u32 bits = random.at[i];
      if (N < 4) bits = column & 2 ? random.at[2 + column % 2] : random.at[column % 2];
      store(x.at[first + i], bits < threshold ? 0.0f : load(x.at[first + i]) * scale);
    }
  }
}

template <class T, int N>
DEV void dropout(T* x, const u32* keys, i64 rows, u32 width, u32 threshold, float scale, u64 seed) {
  typedef Vector<T, N> V;
  for (i64 row = blockIdx.y; row < rows; row += gridDim.y) {
    V* xs = (V*)(x + row * width);
    const u32 key = keys[row];
    V values[COLUMNS];
    batched<COLUMNS>(
        thread_x(), threads_x(), width / N, [&](int k, i64 v) { values[k] = xs[v]; },
        [&](int k, i64 v) {
          drop(values[k], (u32)v * N, key, threshold, scale, seed);
          xs[v] = values[k];
        });
  }
}

#define ENTRY(T, dtype)                                                                                          \
  KERNEL(ELEMENTWISE_THREADS, dropout_fwd_##dtype, T* x /* (rows, width), becomes y */,                          \
         const u32* keys /* (rows) */, i64 rows, u32 width, u32 threshold, float scale, u64 seed) {              \
    if (aligned<T>(width, x)) dropout<T, WIDEST<T>>(x, keys, rows, width, threshold, scale, seed);               \
    else dropout<T, 1>(x, keys, rows, width, threshold, scale, seed);                                            \
  }
ENTRY(float, f32)
ENTRY(bf16, bf16)
