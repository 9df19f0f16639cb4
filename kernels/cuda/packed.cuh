// Where things lie in rows of packed sequences and packed heads, for attention.
#pragma once
#include "ptx.cuh"

// A run of rows.
struct Rows {
  u32 begin, count;
};

// The rows of the sequence that begins at ends[0] and ends before ends[1]. Whatever `ends` holds, they are among the
// `tokens` rows that exist.
DEV Rows sequence_rows(const u32* ends, u32 tokens) {
  const u32 begin = min(ends[0], tokens), end = min(ends[1], tokens);
  return {begin, end > begin ? end - begin : 0};
}

// A row: `heads` heads of queries, `kv_heads` of keys, as many of values, each `head_dim` values wide.
struct Heads {
  u32 heads, kv_heads, head_dim;
};

DEV u64 row_width(const Heads& h) { return (u64)(h.heads + 2 * h.kv_heads) * h.head_dim; }
DEV u64 query_column(const Heads& h, u32 head) { return (u64)head * h.head_dim; }
DEV u64 key_column(const Heads& h, u32 kv_head) { return (u64)(h.heads + kv_head) * h.head_dim; }
DEV u64 value_column(const Heads& h, u32 kv_head) { return (u64)(h.heads + h.kv_heads + kv_head) * h.head_dim; }
DEV u32 key_head_of(const Heads& h, u32 head) { return head / (h.heads / h.kv_heads); }

// What backward needs of one query of one head: ln(sum of exp) of its scores, perhaps times log2 e, and <dout, out>.
struct alignas(8) RowOfScores {
  float lse, delta;
};
