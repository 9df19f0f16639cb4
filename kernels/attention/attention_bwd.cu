// Attention over packed sequences, backward, bf16 (the equations are in mod.rs, the macros come from tiling.rs).
// attention_rows.cu runs before.
//
// Mapping   One pass, five products. A block owns a tile of keys of one key head of one sequence and goes over the tiles
//           of queries of all heads that share it. It works on transposed scores, s^T = k q^T and dp^T = v dout^T: warps
//           divide the pair of tiles, keys by KEY_GROUPS, queries by QUERY_GROUPS, so p^T and ds^T come out of mma as
//           the operands that dv += p^T dout and dk += ds^T q take. Of dk and dv a warp has its keys and the columns of
//           its group of queries: with its own p and ds it goes on at once, those of the other groups come by way of
//           shared memory, where ds has to go anyway, since dq += ds k sums over the keys of all warps. Tiles that a
//           warp does not see are skipped, only those on its diagonal or the end masked.
//           dq is added up in f32 in global memory, in the order in which warps hold it (fragments.cuh): one reduction
//           of 512 bytes per result of mma. attention_bwd_q_bf16 then scales, rounds and puts it in rows.
// Order     If bits have to repeat, tiles of keys add to a tile of queries in their own order: a word for each tile of
//           queries and head says whose turn it is. Blocks take their work as they begin to run, the first tile of keys
//           of all heads first, so a block waits only for blocks that run or are over. Of one head there run at once as
//           many blocks as there are multiprocessors per head, and all go over the queries from the last tile to the
//           first: then each is a turn behind the one before, and with a causal mask, where the later one has fewer
//           turns, its slot is free in time for the next. Nothing waits but the first blocks of a launch, a turn per
//           tile of keys: with few heads and long sequences that is as long as it gets, one head of 8192 tokens takes
//           1.5 times what it would without. A turn's word is released in the middle of the next turn, when its
//           reductions are long done, so that the fence finds nothing to wait for. Instead of adding to zeros, the
//           first to come writes.
// Tile      bwd_kv: {KEYS} keys of a key head x {QUERIES} queries at a time, {WARPS} warps.
//           bwd_q: {16 * WARPS} queries of a head.
// Memory    q, k, v and dout reach shared memory by 16-byte copies that do not wait, a turn ahead where there is room
//           for two tiles (STAGES); HBM once, L2 for the rest. lse and delta (8 bytes per query) are prefetched into
//           registers. Workspace: dq in f32, padded to HEAD_WIDTH, 8 bytes per query and head, the words. Shared memory
//           up to 162 KiB, one block per multiprocessor, where there are 163, else up to 97. Registers up to 255,
//           nothing spilled on any architecture; what is needed once per turn is read again from shared memory or from
//           the thread's index, so that it does not fill registers.
// Cost      Per turn of 128 keys and 64 queries of 128 columns on an H100, in clocks of a multiprocessor: 4100 of tensor
//           cores (2560 mma at 62 % of their peak, which is what mma.sync reaches), 4600 of shared memory (1.8 per
//           mma), 3200 of issue slots, 260 of reductions. Width 64 with 128 x 128: the same 2560 mma, 4600, 3400.
//           FlashAttention-2, which takes p and ds through shared memory whole and adds dq by 4-byte atomics, has 4900
//           of shared memory and 2000 of atomics, and takes 7300 (FlashAttention-3's paper, 322 TFLOP/s). In the same
//           proportion to its bounds this takes 5800 to 6600, 1.1 to 1.25 times as fast; in order, the fences and the
//           waits of a turn may cost 5 to 8 % of that. Two passes that make their scores each (seven products) repeat
//           without waiting, but take 1.4 times the products. Per turn dq is 32 KiB of reductions in L2, 5 bytes per
//           clock and multiprocessor. Not measured: no card was at hand.
// Hazards   Two barriers per turn. The first makes the tiles visible and says that all warps have left those of the turn
//           before, which the next copies and the next p and ds overwrite; the second makes p and ds visible, and the
//           turn, for which one thread has waited. Rows that do not exist are zeros, so queries beyond the end add
//           nothing; keys beyond the end are masked. No sequence is taken to have more rows than max_len, so that
//           whatever `ends` holds, a block waits only for words that blocks before it write.
// Source    Dao, FlashAttention-2, 2023, algorithm 2.
#include "fragments.cuh"
#include "mma.cuh"
#include "packed.cuh"
#include "softmax.cuh"

constexpr u32 WARPS = KEY_GROUPS * QUERY_GROUPS, THREADS = 32 * WARPS;
constexpr u32 WARP_KEYS = 16 * KEY_TILES, KEYS = KEY_GROUPS * WARP_KEYS;
constexpr u32 WARP_QUERIES = 16 * QUERY_TILES, QUERIES = QUERY_GROUPS * WARP_QUERIES;
constexpr u32 PART = HEAD_WIDTH / QUERY_GROUPS;  // columns of dk and dv that a warp has
constexpr u32 DQ_QUERIES = QUERIES / DQ_GROUPS, DQ_PART = HEAD_WIDTH * DQ_GROUPS / WARPS;  // of dq
static_assert(PART % 16 == 0 && DQ_QUERIES % 16 == 0 && DQ_PART % 16 == 0, "ldmatrix loads 16 rows or columns");
static_assert(QUERIES <= THREADS, "a thread prefetches one row of scores");
static_assert(16 * WARPS <= 2 * KEYS, "results are staged where keys and values were");

// The elements of a lane in s turn into p = 2^(scale s - lse) and those in dp into ds = p (dp - delta).
DEV void weigh(float& s, float& dp, float scale, RowOfScores row) {
  s = ex2(fmaf(s, scale, -row.lse));
  dp = s * (dp - row.delta);
}

// Sets the scores that do not count to minus infinity: of keys that do not exist or come after the query. The first key
// and the first query of the warp are `key` and `query`, the sequence has `count` tokens.
DEV void mask(float (&s)[KEY_TILES][QUERY_TILES * 2][4], u32 key, u32 query, u32 count, u32 causal) {
  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4 * 2;
  if (key + WARP_KEYS <= count && (!causal || key + WARP_KEYS <= query + 1)) return;
#pragma unroll
  for (u32 m = 0; m < KEY_TILES; m++)
#pragma unroll
    for (u32 n = 0; n < QUERY_TILES * 2; n++)
#pragma unroll
      for (u32 i = 0; i < 4; i++) {
        const u32 k = key + m * 16 + g + i / 2 * 8;
        if (k >= count || (causal && k > query + n * 8 + t + i % 2)) s[m][n][i] = minus_infinity();
      }
}

// mma's a operands from results.
template <u32 M, u32 N>
DEV void pack_rows(u32 (&a)[M][N / 2][4], const float (&d)[M][N][4]) {
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 k = 0; k < N / 2; k++) pack_a(a[m][k], d[m][2 * k], d[m][2 * k + 1]);
}

// Puts them into rows `row`.., columns `column`.. of a tile of QUERIES columns, for other warps.
template <u32 M, u32 K>
DEV void share(bf16* tile, const u32 (&a)[M][K][4], u32 row, u32 column) {
  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4 * 2;
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 k = 0; k < K; k++)
#pragma unroll
      for (u32 i = 0; i < 4; i++)
        *(u32*)(chunk_at<QUERIES>(tile, row + m * 16 + i % 2 * 8 + g, column / 8 + k * 2 + i / 2) + t) = a[m][k][i];
}

// The sequence `b`, of which no more rows are taken than `max_len`, whatever `ends` holds.
DEV Rows sequence_of(const u32* ends, u32 b, u32 tokens, u32 max_len) {
  Rows rows = sequence_rows(ends + b, tokens);
  rows.count = min(rows.count, max_len);
  return rows;
}

// Where the sums of dq of the 16 queries begin that come `query` rows (a multiple of 16) behind the begin of sequence
// `b`. Sequences begin anywhere, so each has up to one group of 16 rows more than its tokens fill.
DEV float* sums_of(float* dq, u32 head, u32 tokens, u32 sequences, u32 begin, u32 b, u32 query) {
  const u64 group = begin / 16 + b + query / 16, groups = tokens / 16 + sequences;
  return dq + (head * groups + group) * (16 * HEAD_WIDTH);
}

// What a block has to do: a tile of keys of a key head of a sequence. It lies in shared memory and is read anew where it
// is needed, so that the compiler keeps nothing in registers that follows from it.
struct Work {
  u32 key_tile, kv_head, b, begin, count;  // the sequence, the token it begins at, its tokens
};

// Blocks take their work in the order in which they begin to run: first the first tile of keys of every head of every
// sequence, then the second.
DEV Work next_work(u32* words, const u32* ends, u32 tokens, u32 sequences, u32 max_len, u32 kv_heads) {
  const u32 number = atomicAdd(words, 1u), pairs = sequences * kv_heads, b = number % pairs / kv_heads;
  const Rows sequence = sequence_of(ends, b, tokens, max_len);
  return {number / pairs, number % kv_heads, b, sequence.begin, sequence.count};
}

// The tile of queries that a block goes over, and which of the heads that share its keys they are of.
struct Turn {
  u32 query, member;
};
DEV Turn after(Turn turn, u32 group) {
  return turn.member + 1 < group ? Turn{turn.query, turn.member + 1} : Turn{turn.query - QUERIES, 0};
}
DEV Turn before(Turn turn, u32 group) {
  return turn.member > 0 ? Turn{turn.query, turn.member - 1} : Turn{turn.query + QUERIES, group - 1};
}

KERNEL(THREADS, attention_bwd_kv_bf16, const bf16* qkv /* (tokens, (heads + 2 kv_heads) head_dim) */,
       const u32* ends /* (sequences + 1) */, const bf16* dout /* (tokens, heads head_dim) */,
       const RowOfScores* scores /* (heads, tokens), lse times log2 e */, bf16* dqkv /* like qkv */,
       float* dq /* (heads, tokens / 16 + sequences, 16 HEAD_WIDTH) */,
       u32* words /* (1 + sequences heads query tiles of max_len, or 1), 0 */, u32 in_order, u32 tokens, u32 sequences,
       u32 max_len, u32 group, u32 kv_heads, u32 head_dim, u32 causal, float scale, float gradient_scale) {
  DYN_SMEM(shared);
  SMEM_ARRAY(Work, work, 1);
  constexpr u32 QUERY_TILE = QUERIES * HEAD_WIDTH;
  bf16 *keys = (bf16*)shared, *values = keys + KEYS * HEAD_WIDTH, *ring = values + KEYS * HEAD_WIDTH;
  bf16 *shared_p = ring + STAGES * 2 * QUERY_TILE, *shared_ds = shared_p + KEYS * QUERIES;
  RowOfScores* ring_rows = (RowOfScores*)(shared_ds + KEYS * QUERIES);
  const Heads h = {group * kv_heads, kv_heads, head_dim};

  if (threadIdx.x == 0) work[0] = next_work(words, ends, tokens, sequences, max_len, kv_heads);
  __syncthreads();
  const u32 first = work[0].key_tile * KEYS;
  if (first >= work[0].count) return;
  {
    const bf16* from = qkv + (work[0].begin + (u64)first) * row_width(h) + key_column(h, work[0].kv_head);
    const u32 count = work[0].count - first;
    copy_tile<KEYS, HEAD_WIDTH, THREADS>(keys, from, row_width(h), count, head_dim);
    copy_tile<KEYS, HEAD_WIDTH, THREADS>(values, from + kv_heads * head_dim, row_width(h), count, head_dim);
  }

  // A turn is one tile of queries of one of the heads that share these keys: the last tile of each head, then the one
  // before, and so on.
  const u32 tiles = (work[0].count + QUERIES - 1) / QUERIES;
  u32 left = (tiles - (causal ? first / QUERIES : 0)) * group;
  Turn now = {(tiles - 1) * QUERIES, 0};
  const auto word_of = [&](Turn turn) {
    const u32 all_tiles = (max_len + QUERIES - 1) / QUERIES, head = work[0].kv_head * group + turn.member;
    return words + 1 + ((u64)work[0].b * h.heads + head) * all_tiles + turn.query / QUERIES;
  };
  RowOfScores next_row = {0.0f, 0.0f};
  const auto copy_queries = [&](Turn turn, u32 slot) {
    const u32 head = work[0].kv_head * group + turn.member, count = work[0].count - turn.query;
    const u64 token = work[0].begin + (u64)turn.query, dout_stride = (u64)h.heads * head_dim;
    bf16* to = ring + slot * (2 * QUERY_TILE);
    copy_tile<QUERIES, HEAD_WIDTH, THREADS>(to, qkv + token * row_width(h) + query_column(h, head), row_width(h), count,
                                            head_dim);
    copy_tile<QUERIES, HEAD_WIDTH, THREADS>(to + QUERY_TILE, dout + token * dout_stride + query_column(h, head),
                                            dout_stride, count, head_dim);
    next_row = {0.0f, 0.0f};
    if (threadIdx.x < QUERIES && threadIdx.x < count) next_row = scores[(u64)head * tokens + token + threadIdx.x];
  };
  copy_queries(now, left % STAGES);
  cp_async_commit();

  const u32 warp = threadIdx.x / 32, t = threadIdx.x % 4 * 2;
  const u32 key_row = warp / QUERY_GROUPS * WARP_KEYS, query_group = warp % QUERY_GROUPS, part = query_group * PART;
  float dk[KEY_TILES][PART / 8][4], dv[KEY_TILES][PART / 8][4];
  zero(dk);
  zero(dv);
  for (bool first_turn = true;; first_turn = false) {
    const u32 slot = left % STAGES, query = now.query;
    bf16 *queries = ring + slot * (2 * QUERY_TILE), *douts = queries + QUERY_TILE;
    if (threadIdx.x < QUERIES) ring_rows[slot * QUERIES + threadIdx.x] = next_row;
    cp_async_wait<0>();
    __syncthreads();
    if (STAGES == 2 && left > 1) copy_queries(after(now, group), (left - 1) % STAGES);
    cp_async_commit();

    // Whether some of a group of queries see some of the warp's keys.
    const auto sees = [&](u32 of_group) {
      return !causal || first + key_row < query + (of_group + 1) * WARP_QUERIES;
    };
    {
      const u32 row = query_group * WARP_QUERIES;
      u32 p[KEY_TILES][QUERY_TILES][4], ds[KEY_TILES][QUERY_TILES][4];
      float s[KEY_TILES][QUERY_TILES * 2][4], dp[KEY_TILES][QUERY_TILES * 2][4];
      if (sees(query_group)) {
        multiply<HEAD_WIDTH>(s, keys + key_row * HEAD_WIDTH, queries + row * HEAD_WIDTH);
        multiply<HEAD_WIDTH>(dp, values + key_row * HEAD_WIDTH, douts + row * HEAD_WIDTH);
        mask(s, first + key_row, query + row, work[0].count, causal);
#pragma unroll
        for (u32 n = 0; n < QUERY_TILES * 2; n++) {
          const Vector<RowOfScores, 2> of_query =
              *(const Vector<RowOfScores, 2>*)(ring_rows + slot * QUERIES + row + n * 8 + t);
#pragma unroll
          for (u32 m = 0; m < KEY_TILES; m++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) weigh(s[m][n][i], dp[m][n][i], scale, of_query.at[i % 2]);
        }
      } else {
        zero(s);
        zero(dp);
      }
      pack_rows(p, s);
      pack_rows(ds, dp);
      if (QUERY_GROUPS > 1) share(shared_p, p, key_row, row);
      share(shared_ds, ds, key_row, row);
      if (sees(query_group)) {
        accumulate<HEAD_WIDTH>(dv, p, douts + row * HEAD_WIDTH, part);
        accumulate<HEAD_WIDTH>(dk, ds, queries + row * HEAD_WIDTH, part);
      }
    }
    if (in_order && threadIdx.x == 0) {
      if (!first_turn) store_release(word_of(before(now, group)), work[0].key_tile + 1);
      wait_acquire(word_of(now), work[0].key_tile);
    }
    __syncthreads();

#pragma unroll
    for (u32 other = 1; other < QUERY_GROUPS; other++) {
      const u32 of_group = (query_group + other) % QUERY_GROUPS, row = of_group * WARP_QUERIES;
      if (!sees(of_group)) continue;
#pragma unroll
      for (u32 k = 0; k < QUERY_TILES; k++) {
        u32 a[KEY_TILES][1][4];
#pragma unroll
        for (u32 m = 0; m < KEY_TILES; m++) load_a<QUERIES>(a[m][0], shared_p, key_row + m * 16, row + k * 16);
        accumulate<HEAD_WIDTH>(dv, a, douts + (row + k * 16) * HEAD_WIDTH, part);
#pragma unroll
        for (u32 m = 0; m < KEY_TILES; m++) load_a<QUERIES>(a[m][0], shared_ds, key_row + m * 16, row + k * 16);
        accumulate<HEAD_WIDTH>(dk, a, queries + (row + k * 16) * HEAD_WIDTH, part);
      }
    }

    const u32 dq_warp = fresh_thread_index() / 32;
    const u32 dq_row = dq_warp % DQ_GROUPS * DQ_QUERIES, dq_column = dq_warp / DQ_GROUPS * DQ_PART;
    float sum[DQ_QUERIES / 16][DQ_PART / 8][4];
    zero(sum);
#pragma unroll
    for (u32 k = 0; k < KEYS; k += 16) {
      u32 a[DQ_QUERIES / 16][1][4];
#pragma unroll
      for (u32 m = 0; m < DQ_QUERIES / 16; m++) load_a_columns<QUERIES>(a[m][0], shared_ds, k, dq_row + m * 16);
      accumulate<HEAD_WIDTH>(sum, a, keys + k * HEAD_WIDTH, dq_column);
    }
    const u32 head = work[0].kv_head * group + now.member;
    float* to = sums_of(dq, head, tokens, sequences, work[0].begin, work[0].b, query + dq_row);
    const u32 count = work[0].count - query;  // queries of the tile, or more
    const bool first_to_come = in_order && first == 0;
#pragma unroll
    for (u32 m = 0; m < DQ_QUERIES / 16; m++) {
      if (dq_row + m * 16 >= count) break;
#pragma unroll
      for (u32 n = 0; n < DQ_PART / 8; n++) {
        float* fragment = to + m * (16 * HEAD_WIDTH) + (dq_column / 8 + n) * FRAGMENT;
        if (first_to_come) store_fragment(fragment, sum[m][n]);
        else add_to_fragment(fragment, sum[m][n]);
      }
    }
    if (--left == 0) break;
    now = after(now, group);
    if (STAGES == 1) {
      __syncthreads();
      copy_queries(now, 0);
      cp_async_commit();
    }
  }
  __syncthreads();
  const Turn last = {causal ? work[0].key_tile * KEYS / QUERIES * QUERIES : 0, group - 1};
  if (in_order && threadIdx.x == 0) store_release(word_of(last), work[0].key_tile + 1);

  const u32 store_warp = fresh_thread_index() / 32, column = store_warp % QUERY_GROUPS * PART;
  const u32 width = head_dim > column ? head_dim - column : 0;
  bf16* staged = keys + store_warp * 16 * HEAD_WIDTH;
#pragma unroll
  for (u32 m = 0; m < KEY_TILES; m++) {
    const u32 key = work[0].key_tile * KEYS + store_warp / QUERY_GROUPS * WARP_KEYS + m * 16;
    if (key >= work[0].count) break;
    bf16* row = dqkv + ((u64)work[0].begin + key) * row_width(h) + column;
    const float by_scale[2] = {gradient_scale, gradient_scale}, by_one[2] = {1.0f, 1.0f};
    const u32 rows = work[0].count - key, kv_head = work[0].kv_head;
    store_rows<HEAD_WIDTH>(row + key_column(h, kv_head), row_width(h), rows, width, dk[m], by_scale, staged);
    store_rows<HEAD_WIDTH>(row + value_column(h, kv_head), row_width(h), rows, width, dv[m], by_one, staged);
  }
}

// Sums of dq into dqkv. A warp takes 16 queries.
KERNEL(THREADS, attention_bwd_q_bf16, const u32* ends /* (sequences + 1) */,
       const float* dq /* (heads, tokens / 16 + sequences, 16 HEAD_WIDTH) */,
       bf16* dqkv /* (tokens, (heads + 2 kv_heads) head_dim) */, u32 tokens, u32 sequences, u32 max_len, u32 heads,
       u32 kv_heads, u32 head_dim, float gradient_scale) {
  DYN_SMEM(shared);
  const Heads h = {heads, kv_heads, head_dim};
  const u32 warp = threadIdx.x / 32, tiles = (max_len + 16 * WARPS - 1) / (16 * WARPS);
  const u32 query = (blockIdx.x % tiles * WARPS + warp) * 16, head = blockIdx.x / tiles % heads;
  const u32 b = blockIdx.x / tiles / heads;
  const Rows sequence = sequence_of(ends, b, tokens, max_len);
  if (query >= sequence.count) return;
  const float* from = sums_of((float*)dq, head, tokens, sequences, sequence.begin, b, query);
  float sum[HEAD_WIDTH / 8][4];
#pragma unroll
  for (u32 n = 0; n < HEAD_WIDTH / 8; n++) load_fragment(sum[n], from + n * FRAGMENT);
  const float by_scale[2] = {gradient_scale, gradient_scale};
  const u64 stride = row_width(h), row = (u64)sequence.begin + query;
  store_rows<HEAD_WIDTH>(dqkv + row * stride + query_column(h, head), stride, sequence.count - query, head_dim, sum,
                         by_scale, (bf16*)shared + warp * (16 * HEAD_WIDTH));
}
