// Attention of rows of queries to a cache of keys and values: many rows, bf16, as when a prompt is taken in (the inner
// loop is cuda/flash.cuh, the macros come from tiling.rs).
//
// Mapping   A block is one tile of rows of one head. Rows that follow each other in one slot are a run; a block takes
//           its runs one after the other, so rows of one prompt share the tiles of its keys, and any order of rows is
//           right. Rows outside the run see none of its keys. The last tiles, which see most, come first.
// Tile      fwd_tiles: {QUERIES} rows of a head x {KEYS} keys at a time, {THREADS / 32} warps.
// Memory    As attention_fwd.cu, with keys and values from the cache.
// Hazards   Contents are not trusted: a row whose slot or position is beyond the cache (or `max_len`) sees no key and
//           gives NaN. Between runs a barrier, since the ring starts anew; before the end a wait for the queries, which
//           nobody has waited for if no row sees anything.
// Source    Dao, FlashAttention-2, 2023, algorithm 1.
#include "flash.cuh"
#include "packed.cuh"

DEV u32 least_of_warp(u32 value) {
#pragma unroll
  for (u32 bit = 16; bit > 0; bit /= 2) value = min(value, __shfl_xor_sync(~0u, value, bit));
  return value;
}

DEV u32 most_of_warp(u32 value) {
#pragma unroll
  for (u32 bit = 16; bit > 0; bit /= 2) value = max(value, __shfl_xor_sync(~0u, value, bit));
  return value;
}

KERNEL_AT_LEAST(THREADS, 2, cached_attention_fwd_tiles_bf16,
                const bf16* qkv /* (rows, (heads + 2 kv_heads) head_dim) */,
                const bf16* cache /* (slot_count, capacity, 2 kv_heads head_dim) */, const u32* slots /* (rows) */,
                const u32* positions /* (rows) */, bf16* out /* (rows, heads head_dim) */, u32 rows, u32 tiles,
                u32 heads, u32 kv_heads, u32 head_dim, u32 slot_count, u32 capacity, u32 max_len, float scale) {
  DYN_SMEM(shared);
  bf16 *queries = (bf16*)shared, *ring = queries + QUERIES * HEAD_WIDTH;
  u32 *row_slots = (u32*)(ring + SLOTS * KEYS * HEAD_WIDTH), *row_seen = row_slots + QUERIES;  // keys that a row sees
  const Heads h = {heads, kv_heads, head_dim};
  const u32 first = (tiles - 1 - blockIdx.x % tiles) * QUERIES, head = blockIdx.x / tiles;
  const u32 count = min(rows - first, QUERIES), lane = threadIdx.x % 32;
  copy_tile<QUERIES, HEAD_WIDTH, THREADS>(queries, qkv + first * row_width(h) + query_column(h, head), row_width(h),
                                          count, head_dim);
  for (u32 i = threadIdx.x; i < count; i += THREADS) {
    const u32 slot = slots[(u64)first + i], position = positions[(u64)first + i];
    row_slots[i] = slot;
    row_seen[i] = slot < slot_count && position < min(capacity, max_len) ? position + 1 : 0;
  }

  const u32 warp_row = threadIdx.x / 32 * WARP_QUERIES;
  const u64 stride = 2 * (u64)kv_heads * head_dim;
  bool first_time = true;
  Attended a;
  start_attending(a);
  for (u32 begin = 0, end; begin < count; begin = end) {
    __syncthreads();
    const u32 slot = row_slots[begin];
    end = count;
    for (u32 i = lane; i < count; i += 32)
      if (i > begin && row_slots[i] != slot) end = min(end, i);
    end = least_of_warp(end);
    u32 seen = 0;
    for (u32 i = lane; i < end; i += 32)
      if (i >= begin) seen = max(seen, row_seen[i]);
    seen = most_of_warp(seen);
    if (seen == 0) continue;

    Limits limits;
    limits.least = ~0u;
    limits.most = 0;
#pragma unroll
    for (u32 m = 0; m < QUERY_TILES; m++)
#pragma unroll
      for (u32 r = 0; r < 2; r++) {
        const u32 row = warp_row + m * 16 + r * 8 + lane / 4;
        const u32 limit = begin <= row && row < end ? row_seen[row] : 0;
        limits.row[m][r] = limit;
        limits.least = min(limits.least, limit);
        limits.most = max(limits.most, limit);
      }
    limits.least = least_of_warp(limits.least);
    limits.most = most_of_warp(limits.most);
    const bf16* keys = cache + (u64)slot * capacity * stride + (u64)key_head_of(h, head) * head_dim;
    const Run run = {keys, keys + (u64)kv_heads * head_dim, stride, seen, head_dim};
    attend(a, queries + warp_row * HEAD_WIDTH, ring, run, limits, scale, first_time);
    first_time = false;
  }
  cp_async_commit();  // of a tile without keys, the queries
  cp_async_wait<0>();
  __syncthreads();
  const u32 own_row = fresh_thread_index() / 32 * WARP_QUERIES, own_rows = min(rows - first, QUERIES);
  if (own_row >= own_rows) return;
  const u64 row = (u64)first + own_row;
  finish(a, out + row * heads * head_dim + query_column(h, head), (u64)heads * head_dim, nullptr, 0, own_rows - own_row,
         head_dim, scale, queries + own_row * HEAD_WIDTH);
}
