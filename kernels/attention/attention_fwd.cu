// Attention over packed sequences, forward, bf16 (the equations are in mod.rs, the inner loop is cuda/flash.cuh, the
// macros come from tiling.rs).
//
// Mapping   A block is one tile of queries (128, or 64 for heads beyond 128) of one head of one sequence, four warps
//           with 32 (16) queries each. Tiles run fastest over the grid, so blocks that run at the same time read the
//           same keys and values, from L2; causal ones begin with the last tile, which has most to do. Whole tiles of
//           keys that no query of the block sees are not loaded, those that no query of a warp sees not multiplied by
//           it, and only tiles that cut a warp's diagonal or the sequence's end are masked. Warps without queries help
//           to load and no more, so 257 tokens cost two tiles and a load, not three tiles.
// Tile      fwd: {QUERIES} queries of a head x {KEYS} keys at a time, {THREADS / 32} warps.
// Memory    qkv is read once from HBM, in 16-byte copies to shared memory that pass the registers by; keys and values
//           again from L2 for each further tile of queries. Shared memory by width 32, 64, 96, 128, 192, 256: 24, 48,
//           60, 80, 72, 96 KiB, so two blocks fit a multiprocessor. ldmatrix and copies without bank conflicts
//           (mma.cuh). out leaves in 16-byte stores. Registers by NVRTC 12.9 up to 255, nothing
//           spilled on any architecture.
//           Heads of 128 on an H100, per 64 keys and 32 queries of a warp, in clocks of a multiprocessor: 413 of
//           tensor cores (mma.sync reaches about 62 % of their peak), 320 of shared memory, 128 of exponentials, about
//           250 of issue slots. So the tensor cores bound it, at 613 TFLOP/s, if the two warps of a scheduler cover
//           each other's softmax; expected are 370 to 420 for long sequences, as FlashAttention-2 or somewhat better.
//           Not measured: no card was at hand.
// Hazards   See flash.cuh for the ring's barriers. Rows that do not exist are zeros in shared memory, their scores are
//           masked, and they are not stored. A key that is not seen weighs 0, so it must be finite: NaN or infinity in
//           a value spreads to queries of the same tile that do not see it. Sums in a fixed order, no atomics. Tiles
//           begin at a sequence's first token and a row's sums are its own, so a row's result does not depend on what
//           else is in the batch.
// Source    Dao, FlashAttention-2, 2023, algorithm 1. Swizzled tiles and cp.async rings are common practice.
#include "flash.cuh"
#include "packed.cuh"

KERNEL_AT_LEAST(THREADS, 2, attention_fwd_bf16, const bf16* qkv /* (tokens, (heads + 2 kv_heads) head_dim) */,
                const u32* sequences /* (count + 1) */, bf16* out /* (tokens, heads head_dim) */,
                float* lse /* (tokens, heads) or null */, u32 tokens, u32 tiles, u32 heads, u32 kv_heads, u32 head_dim,
                u32 causal, float scale) {
  DYN_SMEM(shared);
  bf16 *queries = (bf16*)shared, *ring = queries + QUERIES * HEAD_WIDTH;
  const Heads h = {heads, kv_heads, head_dim};
  const u32 in_order = blockIdx.x % tiles, head = blockIdx.x / tiles % heads, b = blockIdx.x / tiles / heads;
  const u32 first = (causal ? tiles - 1 - in_order : in_order) * QUERIES;
  const Rows sequence = sequence_rows(sequences + b, tokens);
  if (first >= sequence.count) return;

  const u64 stride = row_width(h), begin = sequence.begin;
  const bf16* rows = qkv + begin * stride;
  copy_tile<QUERIES, HEAD_WIDTH, THREADS>(queries, rows + first * stride + query_column(h, head), stride,
                                     sequence.count - first, head_dim);

  const u32 kv_head = key_head_of(h, head), warp_row = threadIdx.x / 32 * WARP_QUERIES, warp_first = first + warp_row;
  const u32 warp_rows = sequence.count > warp_first ? sequence.count - warp_first : 0;
  Limits limits;
  limits.most = warp_rows == 0 ? 0 : causal ? min(warp_first + WARP_QUERIES, sequence.count) : sequence.count;
  limits.least = causal ? min(warp_first + 1, sequence.count) : sequence.count;
#pragma unroll
  for (u32 m = 0; m < QUERY_TILES; m++)
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
      const u32 row = warp_first + m * 16 + r * 8 + threadIdx.x % 32 / 4;
      limits.row[m][r] = causal ? min(row + 1, sequence.count) : sequence.count;
    }

  Attended a;
  start_attending(a);
  const u32 seen = causal ? min(first + QUERIES, sequence.count) : sequence.count;
  const Run run = {rows + key_column(h, kv_head), rows + value_column(h, kv_head), stride, seen, head_dim};
  attend(a, queries + warp_row * HEAD_WIDTH, ring, run, limits, scale, true);

  const u32 own_row = fresh_thread_index() / 32 * WARP_QUERIES, own_first = first + own_row;
  if (own_first >= sequence.count) return;
  const u64 row = begin + own_first;
  finish(a, out + row * heads * head_dim + query_column(h, head), (u64)heads * head_dim,
         lse ? lse + row * heads + head : lse, heads, sequence.count - own_first, head_dim, scale,
         queries + own_row * HEAD_WIDTH);
}
