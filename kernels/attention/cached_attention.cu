// Attention of rows of queries to a cache of keys and values: few rows, or f32.
//
// Mapping   split: a block takes the keys of one chunk of 128 positions, for one row and up to four query heads that
//           share a key head. Lanes lie along a head (`lanes`, a power of two, each with 16 bytes or twice 16 of it)
//           and, what is left of the warp and of the four warps, along keys. First the scores, then their maximum and
//           sum (a warp per head), then the sum of the values.
//           sum: a block per row and head adds the chunks up; without it where one chunk holds all.
//           Chunks do not depend on the number of rows or on the longest of them, and are added in order: a row has
//           the same bits alone and in a batch.
// Tile      fwd_split: {CHUNK} keys x up to {MOST_HEADS} heads of a row.
//           fwd_sum: 1 head of a row.
// Memory    Every key and value that a row sees is read once per four query heads, 16 bytes per lane, contiguous over
//           a head, eight loads in flight per lane; the rest is small. Bound by memory bandwidth: 4 head_dim bytes
//           (bf16) per key, key head and row. With 8 x 1024 keys and 32 heads a launch has 2048 blocks of 64 KiB each.
//           Registers by NVRTC 12.9: split 168 (sm_80, sm_90a), sum 32; nothing spilled. 18 KiB of shared memory.
// Hazards   Contents are not trusted: a row whose slot or position is beyond the cache (or `max_len`) sees no key and
//           gives NaN (0 / 0). Deterministic: fixed order, no atomics.
// Source    "Flash-Decoding" (Dao, Haziza, Massa, Sizov, 2023): keys split over blocks, a second kernel for the sum.
#include "packed.cuh"
#include "softmax.cuh"
#include "vector.cuh"

constexpr u32 THREADS = 128, WARPS = THREADS / 32;
constexpr u32 CHUNK = 128;     // keys of a block
constexpr u32 MOST_HEADS = 4;  // query heads of a block: no more than warps
constexpr u32 IN_FLIGHT = 8;   // keys that a lane loads at once
constexpr u32 WIDEST_HEAD = 256;

// The keys 0..count that a row sees.
DEV u32 seen_keys(u32 slot, u32 position, u32 slots, u32 capacity, u32 max_len) {
  return slot < slots && position < min(capacity, max_len) ? position + 1 : 0;
}

// What a chunk comes to: the largest score and the sum of exp(score - largest).
struct alignas(8) ChunkSum {
  float largest, sum;
};

// Where the lanes of a block are: at `place` of `lanes` along the head, and at `key` of `step` along the keys.
struct Places {
  u32 lanes, place, key, step;
};

DEV Places places(u32 lanes) {
  const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, keys = 32 / lanes;
  return {lanes, lane % lanes, warp * keys + lane / lanes, WARPS * keys};
}

// Calls use(key, row, exists) for the keys 0..count, each lane with its own vectors of the key's row. All lanes of a
// warp make the same calls, for keys that do not exist too.
template <class T, u32 VECTORS, class Use>
DEV void for_each_key(const T* rows, u64 stride, u32 count, u32 vectors, const Places& at, Use use) {
  typedef Vector<T, WIDEST<T>> V;
  for (u32 base = 0; base < count; base += IN_FLIGHT * at.step) {
    V row[IN_FLIGHT][VECTORS];
#pragma unroll
    for (u32 u = 0; u < IN_FLIGHT; u++)
#pragma unroll
      for (u32 i = 0; i < VECTORS; i++) {
        const u32 key = base + u * at.step + at.key, vector = at.place + i * at.lanes;
        row[u][i] = V{};
        if (key < count && vector < vectors) row[u][i] = ((const V*)(rows + key * stride))[vector];
      }
#pragma unroll
    for (u32 u = 0; u < IN_FLIGHT; u++) {
      const u32 key = base + u * at.step + at.key;
      use(key, row[u], key < count);
    }
  }
}

// One chunk, for `heads` query heads of one row. Writes, per head, the sum of exp(score - largest) v to `out`, heads
// `out_stride` apart, and what the chunk comes to to `chunk`, `chunk_stride` apart; or, if `chunk` is null, the
// quotient to `result`, heads head_dim apart.
template <class T, u32 VECTORS, u32 HEADS>
DEV void attend_chunk(const T* q, const T* keys, const T* values, u64 stride, u32 count, u32 heads, u32 head_dim,
                      float scale, u32 lanes, float* out, u64 out_stride, ChunkSum* chunk, u64 chunk_stride,
                      T* result, float* weights /* (HEADS, CHUNK) */, float* sums /* (WARPS, HEADS, head_dim) */,
                      ChunkSum* total /* (HEADS) */) {
  constexpr u32 N = WIDEST<T>;
  typedef Vector<T, N> V;
  const u32 vectors = head_dim / N, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Places at = places(lanes);

  float query[HEADS][VECTORS][N];
#pragma unroll
  for (u32 h = 0; h < HEADS; h++)
#pragma unroll
    for (u32 i = 0; i < VECTORS; i++) {
      const u32 vector = at.place + i * lanes;
      V row = {};
      if (h < heads && vector < vectors) row = ((const V*)(q + h * head_dim))[vector];
#pragma unroll
      for (u32 e = 0; e < N; e++) query[h][i][e] = load(row.at[e]) * scale;
    }
  for_each_key<T, VECTORS>(keys, stride, count, vectors, at, [&](u32 key, const V(&row)[VECTORS], bool exists) {
#pragma unroll
    for (u32 h = 0; h < HEADS; h++) {
      float score = 0;
#pragma unroll
      for (u32 i = 0; i < VECTORS; i++)
#pragma unroll
        for (u32 e = 0; e < N; e++) score = fmaf(query[h][i][e], load(row[i].at[e]), score);
      for (u32 bit = lanes / 2; bit > 0; bit /= 2) score += __shfl_xor_sync(~0u, score, bit);
      if (exists && at.place == 0) weights[h * CHUNK + key] = score;
    }
  });
  __syncthreads();

  if (warp < heads) {
    float* row = weights + warp * CHUNK;
    float largest = minus_infinity(), sum = 0;
    for (u32 key = lane; key < count; key += 32) largest = fmaxf(largest, row[key]);
#pragma unroll
    for (u32 bit = 16; bit > 0; bit /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, bit));
    for (u32 key = lane; key < count; key += 32) sum += row[key] = expf(row[key] - largest);
#pragma unroll
    for (u32 bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(~0u, sum, bit);
    if (lane == 0) total[warp] = {largest, sum};
  }
  __syncthreads();

  float sum[HEADS][VECTORS][N] = {};
  for_each_key<T, VECTORS>(values, stride, count, vectors, at, [&](u32 key, const V(&row)[VECTORS], bool exists) {
#pragma unroll
    for (u32 h = 0; h < HEADS; h++) {
      const float weight = exists && h < heads ? weights[h * CHUNK + key] : 0.0f;
#pragma unroll
      for (u32 i = 0; i < VECTORS; i++)
#pragma unroll
        for (u32 e = 0; e < N; e++) sum[h][i][e] = fmaf(weight, load(row[i].at[e]), sum[h][i][e]);
    }
  });
#pragma unroll
  for (u32 h = 0; h < HEADS; h++)
#pragma unroll
    for (u32 i = 0; i < VECTORS; i++) {
      Vector<float, 4> part[N / 4];
#pragma unroll
      for (u32 e = 0; e < N; e++) {
        float& own = sum[h][i][e];
        for (u32 bit = lanes; bit < 32; bit *= 2) own += __shfl_xor_sync(~0u, own, bit);
        part[e / 4].at[e % 4] = own;
      }
      const u32 column = (at.place + i * lanes) * N;
      if (lane < lanes && column < head_dim)
#pragma unroll
        for (u32 p = 0; p < N / 4; p++) {
          // Four lanes of eight write the other part first: then eight lanes write to all banks, not twice to half of them.
          const bool own_turn = N == 4 || lane / 4 % 2 == 0;
          const u32 other = N / 4 - 1 - p, place = own_turn ? p : other;
          Vector<float, 4> next;
#pragma unroll
          for (u32 e = 0; e < 4; e++) next.at[e] = own_turn ? part[p].at[e] : part[other].at[e];
          *(Vector<float, 4>*)(sums + (warp * HEADS + h) * head_dim + column + place * 4) = next;
        }
    }
  __syncthreads();
  for (u32 i = threadIdx.x; i < heads * head_dim; i += THREADS) {
    const u32 h = i / head_dim, column = i % head_dim;
    float value = 0;
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) value += sums[(w * HEADS + h) * head_dim + column];
    if (chunk) out[h * out_stride + column] = value;
    else store(result[i], value / total[h].sum);
  }
  if (chunk && threadIdx.x < heads) chunk[threadIdx.x * chunk_stride] = total[threadIdx.x];
}

template <class T>
DEV void split(const T* qkv, const T* cache, const u32* slots, const u32* positions, T* out, float* chunk_outs,
               ChunkSum* chunk_sums, u32 first_row, u32 chunks, const Heads& h, u32 slot_count, u32 capacity,
               u32 max_len, u32 lanes, float scale, float* weights, float* sums, ChunkSum* total) {
  const u32 group = h.heads / h.kv_heads, parts = (group + MOST_HEADS - 1) / MOST_HEADS;
  const u32 chunk = blockIdx.x % chunks, part = blockIdx.x / chunks % parts;
  const u32 kv_head = blockIdx.x / chunks / parts % h.kv_heads, in_launch = blockIdx.x / chunks / parts / h.kv_heads;
  const u64 row = (u64)first_row + in_launch;
  const u32 seen = seen_keys(slots[row], positions[row], slot_count, capacity, max_len);
  const u32 first = chunk * CHUNK, head = kv_head * group + part * MOST_HEADS;
  if (chunks > 1 && first >= seen) return;  // nobody reads what would be written
  const u32 count = min(seen - min(first, seen), CHUNK), heads = min(group - part * MOST_HEADS, MOST_HEADS);

  const u64 stride = 2 * (u64)h.kv_heads * h.head_dim;
  const u64 key_row = seen == 0 ? 0 : (u64)slots[row] * capacity + first;
  const T* keys = cache + key_row * stride + (u64)kv_head * h.head_dim;
  const T* values = keys + (u64)h.kv_heads * h.head_dim;
  const T* q = qkv + row * row_width(h) + query_column(h, head);
  T* result = out + (row * h.heads + head) * h.head_dim;
  const u64 of_chunk = ((u64)in_launch * h.heads + head) * chunks + chunk;
  float* chunk_out = chunk_outs + of_chunk * h.head_dim;
  ChunkSum* chunk_sum = chunks > 1 ? chunk_sums + of_chunk : nullptr;
  const u64 out_stride = (u64)chunks * h.head_dim;
  constexpr u32 WIDE = WIDEST_HEAD / WIDEST<T> / 32;  // vectors per lane of the widest heads
  if constexpr (WIDE > 1)
    if (h.head_dim > 32 * WIDEST<T>)
      return attend_chunk<T, WIDE, MOST_HEADS>(q, keys, values, stride, count, heads, h.head_dim, scale, lanes,
                                               chunk_out, out_stride, chunk_sum, chunks, result, weights, sums, total);
  if (group > 1)
    attend_chunk<T, 1, MOST_HEADS>(q, keys, values, stride, count, heads, h.head_dim, scale, lanes, chunk_out,
                                   out_stride, chunk_sum, chunks, result, weights, sums, total);
  else
    attend_chunk<T, 1, 1>(q, keys, values, stride, count, heads, h.head_dim, scale, lanes, chunk_out, out_stride,
                          chunk_sum, chunks, result, weights, sums, total);
}

// out = the chunks' sums, each times exp(its largest score - the largest of all), divided by the sum of exp.
template <class T>
DEV void add_chunks(const u32* slots, const u32* positions, const float* chunk_outs, const ChunkSum* chunk_sums,
                    T* out, u32 first_row, u32 chunks, u32 heads, u32 head_dim, u32 slot_count, u32 capacity,
                    u32 max_len) {
  const u32 head = blockIdx.x % heads, in_launch = blockIdx.x / heads;
  const u64 row = (u64)first_row + in_launch, first = ((u64)in_launch * heads + head) * chunks;
  const u32 seen = seen_keys(slots[row], positions[row], slot_count, capacity, max_len);
  const u32 count = (seen + CHUNK - 1) / CHUNK;
  float largest = minus_infinity();
  for (u32 c = 0; c < count; c++) largest = fmaxf(largest, chunk_sums[first + c].largest);
  for (u32 column = threadIdx.x; column < head_dim; column += blockDim.x) {
    float value = 0, sum = 0;
    for (u32 c = 0; c < count; c++) {
      const ChunkSum chunk = chunk_sums[first + c];
      const float weight = expf(chunk.largest - largest);
      value = fmaf(weight, chunk_outs[(first + c) * head_dim + column], value);
      sum = fmaf(weight, chunk.sum, sum);
    }
    store(out[(row * heads + head) * head_dim + column], value / sum);
  }
}

#define ENTRIES(T, dtype)                                                                                            \
  KERNEL(THREADS, cached_attention_fwd_split_##dtype, const T* qkv /* (all rows, (heads + 2 kv_heads) head_dim) */,   \
         const T* cache /* (slot_count, capacity, 2 kv_heads head_dim) */, const u32* slots /* (all rows) */,         \
         const u32* positions /* (all rows) */, T* out /* (all rows, heads head_dim) */,                              \
         float* chunk_outs /* (rows, heads, chunks, head_dim), null if chunks = 1 */,                                 \
         ChunkSum* chunk_sums /* (rows, heads, chunks), null if chunks = 1 */, u32 first_row, u32 chunks, u32 heads,  \
         u32 kv_heads, u32 head_dim, u32 slot_count, u32 capacity, u32 max_len, u32 lanes, float scale) {             \
    SMEM_ARRAY(float, weights, MOST_HEADS * CHUNK);                                                                   \
    SMEM_ARRAY(float, sums, WARPS * MOST_HEADS * WIDEST_HEAD);                                                        \
    SMEM_ARRAY(ChunkSum, total, MOST_HEADS);                                                                          \
    split<T>(qkv, cache, slots, positions, out, chunk_outs, chunk_sums, first_row, chunks,                            \
             Heads{heads, kv_heads, head_dim}, slot_count, capacity, max_len, lanes, scale, weights, sums, total);    \
  }                                                                                                                   \
  KERNEL(THREADS, cached_attention_fwd_sum_##dtype, const u32* slots /* (all rows) */,                                \
         const u32* positions /* (all rows) */, const float* chunk_outs /* (rows, heads, chunks, head_dim) */,        \
         const ChunkSum* chunk_sums /* (rows, heads, chunks) */, T* out /* (all rows, heads head_dim) */,             \
         u32 first_row, u32 chunks, u32 heads, u32 head_dim, u32 slot_count, u32 capacity, u32 max_len) {             \
    add_chunks<T>(slots, positions, chunk_outs, chunk_sums, out, first_row, chunks, heads, head_dim, slot_count,      \
                  capacity, max_len);                                                                                 \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
