// The largest values of each row and their columns (mod.rs has the order).
//
// Mapping   One block per row. `one` has each thread take the best of the vectors t, t + blockDim.x, ..., and joins these.
//           `some` goes over the row in batches of IN_FLIGHT vectors a thread and collects in shared memory what may be
//           among the k best: all that does not come behind a bound. Where a batch has more of it than there is room, the
//           bound rises: to the k-th best of what is collected, and to the k-th best of the threads' own best values in
//           the batch, since so many values are no worse. Of a batch of random logits some 300 are then left for
//           k = 256 and 52 for k = 50. Should there still be more, as in a batch of equal values, each thread offers one
//           value at a time, and what is collected is cut to k whenever the room is full. It is sorted in the end.
// Tile      fwd_one, fwd_some: 1 row, {THREADS * IN_FLIGHT} vectors at a time.
// Memory    Logits are read once, 16 bytes an access, four of a thread in flight; the values of a batch that has to go
//           one by one are read again, from L1. A row that is not 16-byte aligned is read by single values. Of one row a
//           block reads 64 KB, at decoding; that more blocks would read it sooner is less than their second launch costs.
//           Shared memory: 256 bytes in `one`; in `some` 16 KB for what is collected and 128 bytes for counts. Sorting
//           has an entry of every thread side by side, so no two lanes meet in a bank. Registers by NVRTC 12.9: at most
//           52 in `one` and 64 in `some`, nothing spilled.
// Hazards   An entry is a number that no other value of the row has, so the result does not depend on the order in which
//           values are collected. offer() has one barrier: between two calls lies another, so that no warp overwrites
//           counts that another still reads. All threads of a block agree on `fill` and `bound`.
// Source    Our own. The sorting network: Batcher, Sorting networks and their applications, 1968.
#include "copy_rows.cuh"
#include "elementwise.cuh"
#include "reduce.cuh"

constexpr u32 THREADS = 1024;
constexpr u32 MOST = 256;           // the largest k
constexpr u32 ROOM = 2 * THREADS;   // entries that are collected: at least MOST and one of each thread
constexpr u32 NONE = 0;             // the key of NaN

// A value and its column as one number: the larger it is, the earlier the value comes. Columns are below 2^31, so no
// value's number is 0: that stands for no value.
DEV u64 entry_of(float value, u32 column) {
  const u32 bits = __float_as_uint(value + 0.0f);  // of -0 those of 0
  const u32 key = bits >> 31 ? ~bits : bits | 0x80000000u;
  return (u64)(value == value ? key : NONE) << 32 | ~column;
}

DEV float value_of(u64 entry) {
  const u32 key = entry >> 32;
  return key == NONE ? not_a_number() : __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

DEV u32 column_of(u64 entry) { return ~(u32)entry; }

template <class T, int N>
DEV u64 best_of(const T* x, u32 columns) {
  Vector<T, N> xs[IN_FLIGHT];
  u64 best = 0;
  batched<IN_FLIGHT>(
      threadIdx.x, blockDim.x, (columns + N - 1) / N, [&](int k, i64 v) { xs[k] = ((const Vector<T, N>*)x)[v]; },
      [&](int k, i64 v) {
#pragma unroll
        for (int i = 0; i < N; i++) {
          const u32 column = (u32)v * N + i;
          if (column < columns) best = max(best, entry_of(load(xs[k].at[i]), column));
        }
      });
  return best;
}

DEV u64 warp_best(u64 entry) {
#pragma unroll
  for (int bit = 16; bit > 0; bit /= 2) entry = max(entry, __shfl_xor_sync(~0u, entry, bit));
  return entry;
}

template <class T, int N>
DEV void one(const T* x, float* values, u32* ids, u32 width, u32 columns, u64* bests) {
  const u64 own = warp_best(best_of<T, N>(x + (u64)blockIdx.x * width, columns));
  if (threadIdx.x % 32 == 0) bests[threadIdx.x / 32] = own;
  __syncthreads();
  const u64 best = warp_best(bests[threadIdx.x % 32]);
  if (threadIdx.x == 0) values[blockIdx.x] = value_of(best), ids[blockIdx.x] = column_of(best);
}

// What a block of THREADS has collected of a row.
struct Collected {
  u64* entries;  // (ROOM) in shared memory
  u32* counts;   // (MAX_WARPS) there
  u32 fill;      // how many there are
  u64 bound;     // no lesser one is among the best
};

// Sorts the first n (a power of two, at most ROOM) of the block's entries, e[i] the one at i * THREADS + threadIdx.x, the
// largest first; those behind are 0. `exchange` (ROOM) is shared memory, perhaps where the entries came from.
template <int E>
DEV void sort(u64 (&e)[E], u32 n, u64* exchange) {
  for (u32 size = 2; size <= n; size *= 2)
    for (u32 distance = size / 2; distance > 0; distance /= 2) {
      u64 other[E];
      if (distance == THREADS) {
#pragma unroll
        for (int i = 0; i < E; i++) other[i] = e[E - 1 - i];
      } else if (distance >= 32) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < E; i++) exchange[i * THREADS + threadIdx.x] = e[i];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < E; i++) other[i] = exchange[i * THREADS + (threadIdx.x ^ distance)];
      } else {
#pragma unroll
        for (int i = 0; i < E; i++) other[i] = __shfl_xor_sync(~0u, e[i], distance);
      }
#pragma unroll
      for (int i = 0; i < E; i++) {
        const u32 place = i * THREADS + threadIdx.x;
        const bool falling = (place & size) == 0, first = (place & distance) == 0;
        e[i] = falling == first ? max(e[i], other[i]) : min(e[i], other[i]);
      }
    }
}

// Sorts what is collected and keeps the best k.
DEV void cut(Collected& c, u32 k) {
  u64 e[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const u32 place = i * THREADS + threadIdx.x;
    e[i] = place < c.fill ? c.entries[place] : 0;
  }
  u32 n = 1;
  while (n < c.fill) n *= 2;
  sort(e, n, c.entries);
  __syncthreads();
  if (threadIdx.x < k) c.entries[threadIdx.x] = e[0];
  __syncthreads();
  c.fill = min(c.fill, k);
  c.bound = max(c.bound, c.entries[k - 1]);
}

// Raises the bound to the k-th best of the threads' entries. At most MOST are collected; the room behind them is used.
DEV void raise(Collected& c, u64 own, u32 k) {
  u64 e[1] = {own}, *const room = c.entries + MOST;
  sort(e, THREADS, room);
  __syncthreads();
  room[threadIdx.x] = e[0];
  __syncthreads();
  c.bound = max(c.bound, room[k - 1]);
}

// Of counts, one per thread: the sum of those of the threads before, and of all.
struct Places {
  u32 first, all;
};

DEV u32 warp_sum_up_to(u32 value) {
  const u32 lane = threadIdx.x % 32;
#pragma unroll
  for (u32 distance = 1; distance < 32; distance *= 2) {
    const u32 before = __shfl_up_sync(~0u, value, distance);
    if (lane >= distance) value += before;
  }
  return value;
}

DEV Places offer(const Collected& c, u32 own) {
  const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, up_to = warp_sum_up_to(own);
  if (lane == 31) c.counts[warp] = up_to;
  __syncthreads();
  const u32 warps = warp_sum_up_to(c.counts[lane]);
  const u32 before = __shfl_sync(~0u, warps, warp) - c.counts[warp];
  return {before + up_to - own, __shfl_sync(~0u, warps, 31)};
}

// Calls f(entry) for each value of a thread's part of a batch, whose first vector begins at column `first`.
template <class T, int N, class F>
DEV void each(const Vector<T, N> (&xs)[IN_FLIGHT], u32 first, u32 columns, F f) {
#pragma unroll
  for (int k = 0; k < IN_FLIGHT; k++)
#pragma unroll
    for (int i = 0; i < N; i++) {
      const u32 column = first + k * THREADS * N + i;
      if (column < columns) f(entry_of(load(xs[k].at[i]), column));
    }
}

template <class T, int N>
DEV void collect(Collected& c, const T* x, u32 batch, u32 columns, u32 k) {
  const u32 first = batch + threadIdx.x * N;
  Vector<T, N> xs[IN_FLIGHT];
#pragma unroll
  for (int j = 0; j < IN_FLIGHT; j++)
    if (first + j * THREADS * N < columns) xs[j] = *(const Vector<T, N>*)(x + first + j * THREADS * N);
  const auto count = [&] {
    u32 own = 0;
    each(xs, first, columns, [&](u64 entry) { own += entry >= c.bound; });
    return offer(c, own);
  };
  Places places = count();
  if (c.fill + places.all > ROOM) {
    u64 best = 0;
    each(xs, first, columns, [&](u64 entry) { best = max(best, entry); });
    cut(c, k);
    raise(c, best, k);
    places = count();
  }
  if (c.fill + places.all <= ROOM) {
    u32 place = c.fill + places.first;
    each(xs, first, columns, [&](u64 entry) {
      if (entry >= c.bound) c.entries[place++] = entry;
    });
    c.fill += places.all;
    return;
  }
  const u32 end = min(columns, batch + IN_FLIGHT * THREADS * N);
  for (u32 from = batch; from < end; from += THREADS) {
    __syncthreads();
    if (c.fill + THREADS > ROOM) cut(c, k);
    const u32 column = from + threadIdx.x;
    const u64 entry = column < end ? entry_of(load(x[column]), column) : 0;
    const bool taken = entry >= c.bound;
    places = offer(c, taken);
    if (taken) c.entries[c.fill + places.first] = entry;
    c.fill += places.all;
  }
}

template <class T, int N>
DEV void some(const T* x, float* values, u32* ids, u32 width, u32 columns, u32 k, u64* entries, u32* counts) {
  Collected c = {entries, counts, 0, 1};
  for (u32 batch = 0; batch < columns; batch += IN_FLIGHT * THREADS * N) {
    collect<T, N>(c, x + (u64)blockIdx.x * width, batch, columns, k);
    __syncthreads();
  }
  cut(c, k);
  if (threadIdx.x < k) {
    const u64 entry = entries[threadIdx.x], place = (u64)blockIdx.x * k + threadIdx.x;
    values[place] = value_of(entry);
    ids[place] = column_of(entry);
  }
}

// Of each row of x the first `columns` take part.
#define ENTRIES(T, dtype)                                                                                       \
  KERNEL(THREADS, top_k_fwd_one_##dtype, const T* x /* (gridDim.x, width) */, float* values /* (gridDim.x) */,  \
         u32* ids /* (gridDim.x) */, u32 width, u32 columns) {                                                  \
    SMEM_ARRAY(u64, bests, MAX_WARPS);                                                                          \
    if (aligned<T>(width, x)) one<T, WIDEST<T>>(x, values, ids, width, columns, bests);                         \
    else one<T, 1>(x, values, ids, width, columns, bests);                                                      \
  }                                                                                                             \
  KERNEL(THREADS, top_k_fwd_some_##dtype, const T* x /* (gridDim.x, width) */,                                  \
         float* values /* (gridDim.x, k) */, u32* ids /* (gridDim.x, k) */, u32 width, u32 columns, u32 k) {    \
    SMEM_ARRAY(u64, entries, ROOM);                                                                             \
    SMEM_ARRAY(u32, counts, MAX_WARPS);                                                                         \
    if (aligned<T>(width, x)) some<T, WIDEST<T>>(x, values, ids, width, columns, k, entries, counts);           \
    else some<T, 1>(x, values, ids, width, columns, k, entries, counts);                                        \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
