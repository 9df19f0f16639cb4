// The last columns of some rows into given rows of a cache (mod.rs has the details).
//
// Mapping   A block per row.
// Tile      fwd: 1 row.
// Memory    16 bytes an access, four of a thread in flight; read once, written once. Rows that are not 16-byte aligned
//           take the same code with vectors of one value. Registers by NVRTC 12.9: at most 40, none spilled.
// Hazards   Rows with places of their own are written apart; of rows that share one, which gets there is open, value
//           by value. A row outside the cache is written nowhere.
// Source    Our own.
#include "copy_rows.cuh"

constexpr int THREADS = 256;

template <class T, int N>
DEV void append(const T* qkv, const u32* rows, T* cache, i64 count, u64 room, u32 row_width, u32 width) {
  typedef Vector<T, N> V;
  for (i64 t = blockIdx.x; t < count; t += gridDim.x) {
    const u64 row = rows[t];
    const T* from = qkv + (t + 1) * row_width - width;
    if (row < room) copy_row((const V*)from, (V*)(cache + row * width), width / N);
  }
}

#define ENTRIES(T, dtype)                                                                                     \
  KERNEL(THREADS, kv_cache_fwd_##dtype, const T* qkv /* (count, row_width) */, const u32* rows /* (count) */, \
         T* cache /* (room, width) */, i64 count, u64 room, u32 row_width, u32 width) {                       \
    if (row_width % WIDEST<T> == 0 && aligned<T>(width, qkv, cache))                                          \
      append<T, WIDEST<T>>(qkv, rows, cache, count, room, row_width, width);                                  \
    else append<T, 1>(qkv, rows, cache, count, room, row_width, width);                                       \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
