// Attention over packed sequences in f32, forward and backward (the equations are in mod.rs): the exact path, for
// checks and small models. Products and sums are f32 FMAs, exponentials those of the library.
//
// Compiled with TILE: rows of a tile, 32 for heads of up to 128 values and 16 for wider ones.
//
// Mapping   A block has 8 TILE threads and one tile of rows of its own: queries in forward and in bwd_q, keys with
//           their values in bwd_kv. Eight threads share a row: each has TILE / 8 of its scores with the other side's
//           tile, and every eighth vector of four columns of its sums. bwd_kv goes over the queries of all heads that
//           share the key head, so no sum is shared between blocks. In causal attention a block skips the tiles it
//           cannot see, and those with most to do come first.
// Tile      fwd, bwd_q: {TILE} queries of a head x {TILE} keys at a time.
//           bwd_kv: {TILE} keys of a key head x {TILE} queries at a time.
// Memory    Tiles lie in dynamic shared memory with 4 values of padding per row: rows begin an odd number of 16-byte
//           groups apart, so the eight rows that eight threads read at once lie in different banks. Loads are 16
//           bytes; each row of the other side is read once per tile of rows. Per 16 FMAs of a score a thread loads
//           80 bytes of shared memory, so that, not the FMAs, is the limit: about a quarter of the FMA peak.
// Hazards   What a thread writes to `weights` is read by the eight threads of its row, lanes of its own warp. The
//           others' tile is rewritten between two barriers. Deterministic: no atomics, sums in the order of tiles.
//           Rows beyond a sequence are zeros in shared memory; a weight that belongs to one is zero.
// Source    Dao 2023, algorithms 1 and 2, in the form that needs no sum across blocks: keys and queries each have a
//           pass of their own, which computes the scores again (7 products instead of 5).
#include "packed.cuh"
#include "softmax.cuh"
#include "vector.cuh"

constexpr u32 LANES = 8, THREADS = TILE * LANES, SCORES = TILE / LANES;
constexpr u32 VECTORS = TILE == 32 ? 4 : 8;  // of a row's columns per thread
constexpr u32 WEIGHT_PITCH = TILE + 8;  // the four rows of a warp lie in different banks
typedef Vector<float, 4> Four;

DEV u32 own_row() { return threadIdx.x / LANES; }
DEV u32 own_lane() { return threadIdx.x % LANES; }
DEV u32 pitch_of(u32 width) { return width + 4; }

DEV Four& four_at(float* tile, u32 row, u32 column, u32 width) {
  return *(Four*)(tile + row * pitch_of(width) + column);
}

// Copies `rows` rows, which lie `stride` values apart, into a tile and zeroes the rest of it.
DEV void load_tile(float* tile, const float* from, u64 stride, u32 rows, u32 width) {
  const u32 vectors = width / 4;
  for (u32 i = threadIdx.x; i < TILE * vectors; i += THREADS) {
    const u32 row = i / vectors, column = i % vectors * 4;
    Four value = {};
    if (row < rows) value = *(const Four*)(from + row * stride + column);
    four_at(tile, row, column, width) = value;
  }
}

// dots[i] = the product of the thread's row of `own` and row lane + 8 i of `others`.
DEV void multiply_rows(float (&dots)[SCORES], float* own, float* others, u32 width) {
#pragma unroll
  for (u32 i = 0; i < SCORES; i++) dots[i] = 0;
  for (u32 column = 0; column < width; column += 4) {
    const Four a = four_at(own, own_row(), column, width);
#pragma unroll
    for (u32 i = 0; i < SCORES; i++) {
      const Four b = four_at(others, own_lane() + LANES * i, column, width);
#pragma unroll
      for (u32 e = 0; e < 4; e++) dots[i] = fmaf(a.at[e], b.at[e], dots[i]);
    }
  }
}

// sum += the rows of `others`, each times its weight; the thread's columns of the thread's row.
DEV void add_rows(Four (&sum)[VECTORS], const float* weights, float* others, u32 width) {
  for (u32 j = 0; j < TILE; j++) {
    const float weight = weights[own_row() * WEIGHT_PITCH + j];
#pragma unroll
    for (u32 i = 0; i < VECTORS; i++) {
      const u32 column = (own_lane() + LANES * i) * 4;
      if (column >= width) continue;
      const Four row = four_at(others, j, column, width);
#pragma unroll
      for (u32 e = 0; e < 4; e++) sum[i].at[e] = fmaf(weight, row.at[e], sum[i].at[e]);
    }
  }
}

// Makes the thread's weights known to the threads of its row.
DEV void share_weights(float* weights, const float (&own)[SCORES]) {
#pragma unroll
  for (u32 i = 0; i < SCORES; i++) weights[own_row() * WEIGHT_PITCH + own_lane() + LANES * i] = own[i];
  __syncwarp();
}

// Writes the thread's columns of its row, times `scale`.
DEV void store_row(float* to, const Four (&sum)[VECTORS], float scale, u32 width) {
#pragma unroll
  for (u32 i = 0; i < VECTORS; i++) {
    const u32 column = (own_lane() + LANES * i) * 4;
    if (column >= width) continue;
    Four out;
#pragma unroll
    for (u32 e = 0; e < 4; e++) out.at[e] = sum[i].at[e] * scale;
    *(Four*)(to + column) = out;
  }
}

// Over the eight threads of a row, in all of them.
DEV float max_of_row(float value) {
#pragma unroll
  for (u32 bit = LANES / 2; bit > 0; bit /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, bit));
  return value;
}
DEV float sum_of_row(float value) {
#pragma unroll
  for (u32 bit = LANES / 2; bit > 0; bit /= 2) value += __shfl_xor_sync(~0u, value, bit);
  return value;
}

KERNEL(THREADS, attention_fwd_f32, const float* qkv /* (tokens, (heads + 2 kv_heads) head_dim) */,
       const u32* sequences /* (count + 1) */, float* out /* (tokens, heads head_dim) */,
       float* lse /* (tokens, heads) or null */, u32 tokens, u32 tiles, u32 heads, u32 kv_heads, u32 head_dim,
       u32 causal, float scale) {
  DYN_SMEM(shared);
  const u32 tile_values = TILE * pitch_of(head_dim);
  float *queries = (float*)shared, *others = queries + tile_values, *weights = others + tile_values;
  const Heads h = {heads, kv_heads, head_dim};
  const u32 in_order = blockIdx.x % tiles, head = blockIdx.x / tiles % heads, b = blockIdx.x / tiles / heads;
  const u32 first = (causal ? tiles - 1 - in_order : in_order) * TILE, query = first + own_row();
  const Rows sequence = sequence_rows(sequences + b, tokens);
  if (first >= sequence.count) return;

  const u64 stride = row_width(h), begin = sequence.begin;
  const float* rows = qkv + begin * stride;
  load_tile(queries, rows + first * stride + query_column(h, head), stride, sequence.count - first, head_dim);
  const float* keys = rows + key_column(h, key_head_of(h, head));
  const float* values = rows + value_column(h, key_head_of(h, head));
  const u32 seen = causal ? min(first + TILE, sequence.count) : sequence.count;
  float largest = minus_infinity(), sum = 0;
  Four result[VECTORS] = {};
  for (u32 key = 0; key < seen; key += TILE) {
    __syncthreads();
    load_tile(others, keys + key * stride, stride, seen - key, head_dim);
    __syncthreads();
    float s[SCORES];
    multiply_rows(s, queries, others, head_dim);
    float new_largest = largest;
#pragma unroll
    for (u32 i = 0; i < SCORES; i++) {
      const u32 j = key + own_lane() + LANES * i;
      s[i] = j < seen && (!causal || j <= query) ? s[i] * scale : minus_infinity();
      new_largest = fmaxf(new_largest, s[i]);
    }
    new_largest = max_of_row(new_largest);  // finite: every row sees the first key
    const float shrink = expf(largest - new_largest);
    largest = new_largest;
    sum *= shrink;
#pragma unroll
    for (u32 i = 0; i < SCORES; i++) sum += s[i] = expf(s[i] - largest);
    share_weights(weights, s);
    __syncthreads();
    load_tile(others, values + key * stride, stride, seen - key, head_dim);
    __syncthreads();
#pragma unroll
    for (u32 i = 0; i < VECTORS; i++)
#pragma unroll
      for (u32 e = 0; e < 4; e++) result[i].at[e] *= shrink;
    add_rows(result, weights, others, head_dim);
  }
  sum = sum_of_row(sum);
  if (query >= sequence.count) return;
  const u64 row = begin + query;
  store_row(out + row * heads * head_dim + query_column(h, head), result, 1.0f / sum, head_dim);
  if (lse && own_lane() == 0) lse[row * heads + head] = largest + logf(sum);
}

// p = exp(scale s - lse) where the key is seen and 0 elsewhere; ds = p (dp - delta). s becomes p, dp becomes ds.
DEV void weigh(float& s, float& dp, bool seen, float scale, RowOfScores row) {
  s = seen ? expf(fmaf(s, scale, -row.lse)) : 0.0f;
  dp = s * (dp - row.delta);
}

// dk and dv: a tile of keys goes over the queries.
KERNEL(THREADS, attention_bwd_kv_f32, const float* qkv /* (tokens, (heads + 2 kv_heads) head_dim) */,
       const u32* sequences /* (count + 1) */, const float* dout /* (tokens, heads head_dim) */,
       const RowOfScores* scores /* (heads, tokens) */, float* dqkv /* like qkv */, u32 tokens, u32 tiles, u32 heads,
       u32 kv_heads, u32 head_dim, u32 causal, float scale, float gradient_scale) {
  DYN_SMEM(shared);
  const u32 tile_values = TILE * pitch_of(head_dim);
  float *own_k = (float*)shared, *own_v = own_k + tile_values, *other_q = own_v + tile_values;
  float *other_dout = other_q + tile_values, *p = other_dout + tile_values, *ds = p + TILE * WEIGHT_PITCH;
  const Heads h = {heads, kv_heads, head_dim};
  const u32 first = blockIdx.x % tiles * TILE, kv_head = blockIdx.x / tiles % kv_heads;
  const Rows sequence = sequence_rows(sequences + blockIdx.x / tiles / kv_heads, tokens);
  if (first >= sequence.count) return;

  const u64 stride = row_width(h), begin = sequence.begin, dout_stride = (u64)heads * head_dim;
  const float* rows = qkv + begin * stride;
  load_tile(own_k, rows + first * stride + key_column(h, kv_head), stride, sequence.count - first, head_dim);
  load_tile(own_v, rows + first * stride + value_column(h, kv_head), stride, sequence.count - first, head_dim);
  const u32 group = heads / kv_heads, key = first + own_row();
  Four dk[VECTORS] = {}, dv[VECTORS] = {};
  for (u32 head = kv_head * group; head < (kv_head + 1) * group; head++)
    for (u32 query = causal ? first : 0; query < sequence.count; query += TILE) {
      const u32 count = sequence.count - query;
      __syncthreads();
      load_tile(other_q, rows + query * stride + query_column(h, head), stride, count, head_dim);
      load_tile(other_dout, dout + (begin + query) * dout_stride + query_column(h, head), dout_stride, count, head_dim);
      __syncthreads();
      float s[SCORES], dp[SCORES];
      multiply_rows(s, own_k, other_q, head_dim);
      multiply_rows(dp, own_v, other_dout, head_dim);
#pragma unroll
      for (u32 i = 0; i < SCORES; i++) {
        const u32 j = query + own_lane() + LANES * i;
        const bool exists = j < sequence.count;
        const RowOfScores row = exists ? scores[(u64)head * tokens + begin + j] : RowOfScores{0.0f, 0.0f};
        weigh(s[i], dp[i], exists && (!causal || key <= j), scale, row);
      }
      share_weights(p, s);
      share_weights(ds, dp);
      add_rows(dv, p, other_dout, head_dim);
      add_rows(dk, ds, other_q, head_dim);
    }
  const u32 own_key = first + fresh_thread_index() / LANES;
  if (own_key >= sequence.count) return;
  float* row = dqkv + (begin + own_key) * stride;
  store_row(row + key_column(h, kv_head), dk, gradient_scale, head_dim);
  store_row(row + value_column(h, kv_head), dv, 1.0f, head_dim);
}

// dq: a tile of queries goes over the keys.
KERNEL(THREADS, attention_bwd_q_f32, const float* qkv /* (tokens, (heads + 2 kv_heads) head_dim) */,
       const u32* sequences /* (count + 1) */, const float* dout /* (tokens, heads head_dim) */,
       const RowOfScores* scores /* (heads, tokens) */, float* dqkv /* like qkv */, u32 tokens, u32 tiles, u32 heads,
       u32 kv_heads, u32 head_dim, u32 causal, float scale, float gradient_scale) {
  DYN_SMEM(shared);
  const u32 tile_values = TILE * pitch_of(head_dim);
  float *own_q = (float*)shared, *own_dout = own_q + tile_values, *other_k = own_dout + tile_values;
  float *other_v = other_k + tile_values, *ds = other_v + tile_values;
  const Heads h = {heads, kv_heads, head_dim};
  const u32 in_order = blockIdx.x % tiles, head = blockIdx.x / tiles % heads;
  const u32 first = (causal ? tiles - 1 - in_order : in_order) * TILE, query = first + own_row();
  const Rows sequence = sequence_rows(sequences + blockIdx.x / tiles / heads, tokens);
  if (first >= sequence.count) return;

  const u64 stride = row_width(h), begin = sequence.begin, dout_stride = (u64)heads * head_dim;
  const float* rows = qkv + begin * stride;
  load_tile(own_q, rows + first * stride + query_column(h, head), stride, sequence.count - first, head_dim);
  load_tile(own_dout, dout + (begin + first) * dout_stride + query_column(h, head), dout_stride,
            sequence.count - first, head_dim);
  const u32 kv_head = key_head_of(h, head), seen = causal ? min(first + TILE, sequence.count) : sequence.count;
  RowOfScores row = {0.0f, 0.0f};
  if (query < sequence.count) row = scores[(u64)head * tokens + begin + query];
  Four dq[VECTORS] = {};
  for (u32 key = 0; key < seen; key += TILE) {
    __syncthreads();
    load_tile(other_k, rows + key * stride + key_column(h, kv_head), stride, seen - key, head_dim);
    load_tile(other_v, rows + key * stride + value_column(h, kv_head), stride, seen - key, head_dim);
    __syncthreads();
    float s[SCORES], dp[SCORES];
    multiply_rows(s, own_q, other_k, head_dim);
    multiply_rows(dp, own_dout, other_v, head_dim);
#pragma unroll
    for (u32 i = 0; i < SCORES; i++) {
      const u32 j = key + own_lane() + LANES * i;
      weigh(s[i], dp[i], j < seen && (!causal || j <= query), scale, row);
    }
    share_weights(ds, dp);
    add_rows(dq, ds, other_k, head_dim);
  }
  if (query >= sequence.count) return;
  store_row(dqkv + (begin + query) * stride + query_column(h, head), dq, gradient_scale, head_dim);
}
