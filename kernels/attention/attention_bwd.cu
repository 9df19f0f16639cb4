// Attention over packed sequences, backward, bf16 (the equations are in mod.rs, the macros come from tiling.rs).
// attention_rows.cu runs before.
//
// Mapping   Two passes, each over the scores of its own.
//           kv: a block owns a tile of keys (128, or 64 from width 96 on) of one key head of one sequence and goes over
//           the tiles of queries of all heads that share it. It works on transposed scores, s^T = k q^T and dp^T =
//           v dout^T: a warp's rows are keys, so p^T and ds^T come out of mma as the operands that dv += p^T dout and
//           dk += ds^T q take, and never leave the warp's registers. Beyond 128 columns, where dk and dv do not fit
//           them, two blocks make one half each and both compute the scores.
//           q: a block owns a tile of queries of one head and goes over the keys: dq += ds k.
//           Tiles that a warp does not see are skipped, only those on its diagonal or the end masked. The tiles with
//           most to do come first.
// Cost      7 products where 5 would do if dq were added up across the blocks of the kv pass. In a fixed order, as bits
//           that repeat need, that takes either blocks that wait for each other, or partial sums: 4 bytes per element
//           of dq and tile of keys, 64 times dq itself in f32 at 8192 tokens, written and read. Two more products of
//           seven are less, and need no memory.
// Memory    q, k, v and dout reach shared memory by 16-byte copies that do not wait, one turn ahead of their use; HBM
//           once per pass, L2 for the rest. lse and delta (8 bytes per query) are prefetched into registers. Workspace:
//           these 8 bytes per query and head. Shared memory at most 97 KiB, so two blocks fit a multiprocessor of an
//           H100. Registers by NVRTC 12.9 on sm_90a, kv and q by width: 218 and 232 (32), 255 and 255 (64), 243 and 255
//           (96), 254 and 255 (128), 253 and 240 (192), 248 and 239 (256); nothing spilled, on sm_80 neither.
//           In the kv pass at width 128 a fragment serves one product (dk and dv fill the registers), so shared memory
//           bounds it: 2.5 clocks per mma against 1.6 of the tensor cores; q needs 1.7. Expected on an H100 are 200 to
//           250 TFLOP/s of the 5 products for long sequences, 0.65 to 0.8 of FlashAttention-2, whose dq is summed by
//           atomics. Not measured: no card was at hand.
// Hazards   One barrier per turn: it makes the turn's tiles visible and says that all warps have left those of the turn
//           before, which the next copies overwrite. Rows that do not exist are zeros, so queries beyond the end add
//           nothing to dk and dv; keys beyond the end are masked in the q pass. A warp stages its results in shared
//           rows that it alone has read. No atomics, the same bits every run.
// Source    Dao, FlashAttention-2, 2023, algorithm 2; transposed scores keep its p and ds in registers.
#include "mma.cuh"
#include "packed.cuh"
#include "softmax.cuh"

constexpr u32 THREADS = 128, WARPS = THREADS / 32;

// The elements of a lane in s turn into p = 2^(scale s - lse) and those in dp into ds = p (dp - delta).
DEV void weigh(float& s, float& dp, bool seen, float scale, RowOfScores row) {
  s = seen ? ex2(fmaf(s, scale, -row.lse)) : 0.0f;
  dp = s * (dp - row.delta);
}

// mma's a operands from results.
template <u32 M, u32 N>
DEV void pack_rows(u32 (&a)[M][N / 2][4], const float (&d)[M][N][4]) {
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 k = 0; k < N / 2; k++) pack_a(a[m][k], d[m][2 * k], d[m][2 * k + 1]);
}

constexpr u32 KV_WARP_KEYS = 16 * KV_KEY_TILES, KV_KEYS = WARPS * KV_WARP_KEYS;
constexpr u32 KV_PART = HEAD_WIDTH / KV_PARTS;  // columns of dk and dv that a block makes

// dk and dv.
KERNEL_AT_LEAST(THREADS, 2, attention_bwd_kv_bf16, const bf16* qkv /* (tokens, (heads + 2 kv_heads) head_dim) */,
                const u32* sequences /* (count + 1) */, const bf16* dout /* (tokens, heads head_dim) */,
                const RowOfScores* scores /* (heads, tokens), lse times log2 e */, bf16* dqkv /* like qkv */,
                u32 tokens, u32 tiles, u32 heads, u32 kv_heads, u32 head_dim, u32 causal, float scale,
                float gradient_scale) {
  DYN_SMEM(shared);
  constexpr u32 QUERY_TILE = KV_QUERIES * HEAD_WIDTH;
  bf16 *keys = (bf16*)shared, *values = keys + KV_KEYS * HEAD_WIDTH, *ring = values + KV_KEYS * HEAD_WIDTH;
  RowOfScores* ring_rows = (RowOfScores*)(ring + 4 * QUERY_TILE);
  const Heads h = {heads, kv_heads, head_dim};
  const u32 part = blockIdx.x % KV_PARTS * KV_PART, block = blockIdx.x / KV_PARTS;
  const u32 first = block % tiles * KV_KEYS, kv_head = block / tiles % kv_heads;
  const Rows sequence = sequence_rows(sequences + block / tiles / kv_heads, tokens);
  if (first >= sequence.count) return;

  const u64 stride = row_width(h), begin = sequence.begin, dout_stride = (u64)heads * head_dim;
  const bf16* rows = qkv + begin * stride;
  copy_tile<KV_KEYS, HEAD_WIDTH, THREADS>(keys, rows + first * stride + key_column(h, kv_head), stride,
                                          sequence.count - first, head_dim);
  copy_tile<KV_KEYS, HEAD_WIDTH, THREADS>(values, rows + first * stride + value_column(h, kv_head), stride,
                                          sequence.count - first, head_dim);

  // Turn i is tile i % turns of the queries of the i / turns-th head that shares these keys.
  const u32 first_query = causal ? first / KV_QUERIES * KV_QUERIES : 0, group = heads / kv_heads;
  const u32 turns = (sequence.count - first_query + KV_QUERIES - 1) / KV_QUERIES;
  RowOfScores next_row = {0.0f, 0.0f};
  const auto copy_queries = [&](u32 turn) {
    const u32 query = first_query + turn % turns * KV_QUERIES, head = kv_head * group + turn / turns;
    const u32 count = sequence.count - query;
    bf16* to = ring + turn % 2 * (2 * QUERY_TILE);
    copy_tile<KV_QUERIES, HEAD_WIDTH, THREADS>(to, rows + query * stride + query_column(h, head), stride, count,
                                               head_dim);
    copy_tile<KV_QUERIES, HEAD_WIDTH, THREADS>(to + QUERY_TILE,
                                               dout + (begin + query) * dout_stride + query_column(h, head),
                                               dout_stride, count, head_dim);
    next_row = {0.0f, 0.0f};
    if (threadIdx.x < KV_QUERIES && threadIdx.x < count)
      next_row = scores[(u64)head * tokens + begin + query + threadIdx.x];
  };
  copy_queries(0);
  cp_async_commit();

  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4 * 2;
  const u32 warp_row = threadIdx.x / 32 * KV_WARP_KEYS, warp_first = first + warp_row;
  const u32 warp_rows = sequence.count > warp_first ? min(sequence.count - warp_first, KV_WARP_KEYS) : 0;
  bf16 *warp_keys = keys + warp_row * HEAD_WIDTH, *warp_values = values + warp_row * HEAD_WIDTH;
  float dk[KV_KEY_TILES][KV_PART / 8][4], dv[KV_KEY_TILES][KV_PART / 8][4];
  zero(dk);
  zero(dv);
  for (u32 turn = 0; turn < turns * group; turn++) {
    if (threadIdx.x < KV_QUERIES) ring_rows[turn % 2 * KV_QUERIES + threadIdx.x] = next_row;
    cp_async_wait<0>();
    __syncthreads();
    if (turn + 1 < turns * group) copy_queries(turn + 1);
    cp_async_commit();
    const u32 query = first_query + turn % turns * KV_QUERIES;
    if (warp_rows == 0 || (causal && query + KV_QUERIES <= warp_first)) continue;
    bf16 *queries = ring + turn % 2 * (2 * QUERY_TILE), *douts = queries + QUERY_TILE;
    const RowOfScores* query_rows = ring_rows + turn % 2 * KV_QUERIES;
    float s[KV_KEY_TILES][KV_QUERIES / 8][4], dp[KV_KEY_TILES][KV_QUERIES / 8][4];
    multiply<HEAD_WIDTH>(s, warp_keys, queries);
    multiply<HEAD_WIDTH>(dp, warp_values, douts);
    const bool diagonal = causal && query < warp_first + KV_WARP_KEYS - 1;
#pragma unroll
    for (u32 n = 0; n < KV_QUERIES / 8; n++) {
      const Vector<RowOfScores, 2> row = *(const Vector<RowOfScores, 2>*)(query_rows + n * 8 + t);
#pragma unroll
      for (u32 m = 0; m < KV_KEY_TILES; m++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
          const bool seen = !diagonal || warp_first + m * 16 + g + i / 2 * 8 <= query + n * 8 + t + i % 2;
          weigh(s[m][n][i], dp[m][n][i], seen, scale, row.at[i % 2]);
        }
    }
    u32 weights[KV_KEY_TILES][KV_QUERIES / 16][4];
    pack_rows(weights, s);
    accumulate<HEAD_WIDTH>(dv, weights, douts, part);
    pack_rows(weights, dp);
    accumulate<HEAD_WIDTH>(dk, weights, queries, part);
  }

#pragma unroll
  for (u32 m = 0; m < KV_KEY_TILES; m++) {
    if (m * 16 >= warp_rows) break;
    bf16* row = dqkv + (begin + warp_first + m * 16) * stride + part;
    const float by_scale[2] = {gradient_scale, gradient_scale}, by_one[2] = {1.0f, 1.0f};
    store_rows<HEAD_WIDTH>(row + key_column(h, kv_head), stride, warp_rows - m * 16, head_dim - part, dk[m], by_scale,
                           warp_keys + m * 16 * HEAD_WIDTH);
    store_rows<HEAD_WIDTH>(row + value_column(h, kv_head), stride, warp_rows - m * 16, head_dim - part, dv[m], by_one,
                           warp_values + m * 16 * HEAD_WIDTH);
  }
}

constexpr u32 Q_WARP_QUERIES = 16 * Q_QUERY_TILES, Q_QUERIES = WARPS * Q_WARP_QUERIES;

// dq.
KERNEL_AT_LEAST(THREADS, 2, attention_bwd_q_bf16, const bf16* qkv /* (tokens, (heads + 2 kv_heads) head_dim) */,
                const u32* sequences /* (count + 1) */, const bf16* dout /* (tokens, heads head_dim) */,
                const RowOfScores* scores /* (heads, tokens), lse times log2 e */, bf16* dqkv /* like qkv */,
                u32 tokens, u32 tiles, u32 heads, u32 kv_heads, u32 head_dim, u32 causal, float scale,
                float gradient_scale) {
  DYN_SMEM(shared);
  constexpr u32 KEY_TILE = Q_KEYS * HEAD_WIDTH;
  bf16 *queries = (bf16*)shared, *douts = queries + Q_QUERIES * HEAD_WIDTH, *ring = douts + Q_QUERIES * HEAD_WIDTH;
  const Heads h = {heads, kv_heads, head_dim};
  const u32 in_order = blockIdx.x % tiles, head = blockIdx.x / tiles % heads;
  const u32 first = (causal ? tiles - 1 - in_order : in_order) * Q_QUERIES;
  const Rows sequence = sequence_rows(sequences + blockIdx.x / tiles / heads, tokens);
  if (first >= sequence.count) return;

  const u64 stride = row_width(h), begin = sequence.begin, dout_stride = (u64)heads * head_dim;
  const bf16* rows = qkv + begin * stride;
  copy_tile<Q_QUERIES, HEAD_WIDTH, THREADS>(queries, rows + first * stride + query_column(h, head), stride,
                                            sequence.count - first, head_dim);
  copy_tile<Q_QUERIES, HEAD_WIDTH, THREADS>(douts, dout + (begin + first) * dout_stride + query_column(h, head),
                                            dout_stride, sequence.count - first, head_dim);
  const u32 kv_head = key_head_of(h, head), seen = causal ? min(first + Q_QUERIES, sequence.count) : sequence.count;
  const bf16* key_rows = rows + key_column(h, kv_head);
  const auto copy_keys = [&](u32 key, u32 slot) {
    const bf16* from = key_rows + key * stride;
    bf16* to = ring + slot * (2 * KEY_TILE);
    copy_tile<Q_KEYS, HEAD_WIDTH, THREADS>(to, from, stride, seen - key, head_dim);
    copy_tile<Q_KEYS, HEAD_WIDTH, THREADS>(to + KEY_TILE, from + kv_heads * head_dim, stride, seen - key, head_dim);
  };
  copy_keys(0, 0);
  cp_async_commit();

  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4 * 2;
  const u32 warp_row = threadIdx.x / 32 * Q_WARP_QUERIES, warp_first = first + warp_row;
  const u32 warp_rows = sequence.count > warp_first ? min(sequence.count - warp_first, Q_WARP_QUERIES) : 0;
  bf16 *warp_queries = queries + warp_row * HEAD_WIDTH, *warp_douts = douts + warp_row * HEAD_WIDTH;
  RowOfScores row[Q_QUERY_TILES][2];
#pragma unroll
  for (u32 m = 0; m < Q_QUERY_TILES; m++)
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
      const u32 query = m * 16 + r * 8 + g;
      row[m][r] = {0.0f, 0.0f};
      if (query < warp_rows) row[m][r] = scores[(u64)head * tokens + begin + warp_first + query];
    }
  // Keys that the warp's first query sees, and that its last one does.
  const u32 least = min(causal ? warp_first + 1 : seen, seen);
  const u32 most = warp_rows == 0 ? 0 : min(causal ? warp_first + Q_WARP_QUERIES : seen, seen);
  float dq[Q_QUERY_TILES][HEAD_WIDTH / 8][4];
  zero(dq);
  for (u32 key = 0, slot = 0; key < seen; key += Q_KEYS, slot ^= 1) {
    cp_async_wait<0>();
    __syncthreads();
    if (key + Q_KEYS < seen) copy_keys(key + Q_KEYS, slot ^ 1);
    cp_async_commit();
    if (key >= most) continue;
    bf16 *keys = ring + slot * (2 * KEY_TILE), *values = keys + KEY_TILE;
    float s[Q_QUERY_TILES][Q_KEYS / 8][4], dp[Q_QUERY_TILES][Q_KEYS / 8][4];
    multiply<HEAD_WIDTH>(s, warp_queries, keys);
    multiply<HEAD_WIDTH>(dp, warp_douts, values);
    const bool ragged = key + Q_KEYS > least;
#pragma unroll
    for (u32 m = 0; m < Q_QUERY_TILES; m++)
#pragma unroll
      for (u32 n = 0; n < Q_KEYS / 8; n++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
          const u32 j = key + n * 8 + t + i % 2, query = warp_first + m * 16 + g + i / 2 * 8;
          weigh(s[m][n][i], dp[m][n][i], !ragged || (j < seen && (!causal || j <= query)), scale, row[m][i / 2]);
        }
    u32 weights[Q_QUERY_TILES][Q_KEYS / 16][4];
    pack_rows(weights, dp);
    accumulate<HEAD_WIDTH>(dq, weights, keys, 0);
  }

#pragma unroll
  for (u32 m = 0; m < Q_QUERY_TILES; m++) {
    if (m * 16 >= warp_rows) break;
    const float by_scale[2] = {gradient_scale, gradient_scale};
    store_rows<HEAD_WIDTH>(dqkv + (begin + warp_first + m * 16) * stride + query_column(h, head), stride,
                           warp_rows - m * 16, head_dim, dq[m], by_scale, warp_queries + m * 16 * HEAD_WIDTH);
  }
}
