// Rows of a table by id, and the gradient of the table (mod.rs has the equations).
//
// Mapping   Forward: a block per token copies its row. Backward, after the caller has zeroed the table if it is not
//           added to: `order` sorts the positions by id, then position; the positions of one id, its bucket, lie side
//           by side. `few` has a block per sorted place: the block at a bucket's start sums the bucket for all
//           columns if it is shorter than MANY. `many` sums the longer ones (a placeholder id may own most positions):
//           each holds a place that MANY divides, and the block at the first such place in it does, for 32 vectors of
//           columns, with eight warps that take every eighth position and add up their sums in order.
// Tile      fwd: 1 row.
//           bwd_order: {THREADS / WARPS} positions.
//           bwd_few: the rows of an id with fewer than {MANY}.
//           bwd_many: the rows of an id with more, 32 vectors at a time.
// Memory    16 bytes an access (8 of a bf16 dy that is summed in f32), four of a thread in flight. Forward reads and
//           writes each row once. Backward reads each row of dy once and touches rows of the table that no id names
//           only to zero them. `order` compares every id with every other, 32 at once per warp, out of the first-level
//           cache: by count of instructions that takes as long as reading dy at 16 K tokens, and an eighth of it at
//           2 K. Shared memory: 1 KB in `order`, 4 KB in `many` (8 KB for a bf16 table). Registers by NVRTC 12.9
//           (sm_80, sm_90a, sm_120): at most 48, nothing spilled.
// Hazards   No atomics: a row of the table has one writer and a fixed order of summation, so bits repeat. An id outside
//           the table gives a row of NaN; it sorts behind all others, and backward stops there. Rows that are not
//           16-byte aligned take the same code with vectors of one value.
// Source    Our own. Sorting by counting smaller keys is folklore.
#include "copy_rows.cuh"

constexpr u32 THREADS = 256;
constexpr u32 WARPS = THREADS / 32;
constexpr u32 MANY = 32;  // positions that make a bucket long; a warp's width, for the ballots below

template <class T, int N>
DEV void forward(const T* table, const u32* ids, T* y, i64 tokens, u64 size, u32 width) {
  typedef Vector<T, N> V;
  for (i64 t = blockIdx.x; t < tokens; t += gridDim.x) {
    const u32 id = ids[t];
    V* to = (V*)(y + t * width);
    if (id < size) copy_row((const V*)(table + (u64)id * width), to, width / N);
    else fill_row(to, not_a_number(), width / N);
  }
}

// A lane per position, so that a block places 32 of them; its warps share the keys to compare with.
KERNEL(THREADS, embedding_bwd_order_u32, const u32* ids /* (tokens) */, u32* order /* (tokens): sorted positions */,
       u32* sorted /* (tokens): their ids */, u32 tokens) {
  SMEM_ARRAY(u32, before, THREADS);
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = blockIdx.x * 32 + lane;
  const u32 id = t < tokens ? ids[t] : 0, share = (tokens + WARPS - 1) / WARPS;
  const u32 end = min(tokens, (warp + 1) * share);
  u32 place = 0;
#pragma unroll 8
  for (u32 s = warp * share; s < end; s++) {
    const u32 key = ids[s];
    place += key < id || (key == id && s < t);
  }
  before[threadIdx.x] = place;
  __syncthreads();
  if (warp > 0 || t >= tokens) return;
  for (u32 w = 1; w < WARPS; w++) place += before[w * 32 + lane];
  order[place] = t;
  sorted[place] = id;
}

template <class T, int N>
DEV void add_to(float (&sum)[N], const Vector<T, N>& dy) {
#pragma unroll
  for (int i = 0; i < N; i++) sum[i] += load(dy.at[i]);
}

// Writes N sums into a row of the table, or adds them.
template <class S, int N>
DEV void finish(S* to, const float (&sum)[N], bool add) {
  Vector<S, N> total;
  if (add) total = *(Vector<S, N>*)to;
#pragma unroll
  for (int i = 0; i < N; i++) store(total.at[i], add ? load(total.at[i]) + sum[i] : sum[i]);
  *(Vector<S, N>*)to = total;
}

// Whether rows of dy and of the table, whose type S is never the narrower, can be moved in vectors of WIDEST<S>.
template <class T, class S>
DEV bool fits(u32 width, const T* dy, const S* table) {
  return aligned<S>(width, table) && (u64)dy % (WIDEST<S> * sizeof(T)) == 0;
}

template <class T, class S, int N>
DEV void few(const T* dy, const u32* order, const u32* sorted, S* table, u32 tokens, u64 size, u32 width, bool add) {
  const u32 first = blockIdx.x, id = sorted[first], at = first + threadIdx.x % 32;
  if (id >= size || (first > 0 && sorted[first - 1] == id)) return;
  const u32 count = __popc(__ballot_sync(~0u, at < tokens && sorted[at] == id));
  if (count == MANY) return;
  for (u32 v = threadIdx.x; v < width / N; v += blockDim.x) {
    float sum[N] = {};
#pragma unroll 4
    for (u32 i = 0; i < count; i++) {
      const Vector<T, N> held = ((const Vector<T, N>*)(dy + (u64)order[first + i] * width))[v];
      add_to(sum, held);
    }
    finish(table + (u64)id * width + v * N, sum, add);
  }
}

template <class T, class S, int N>
DEV void many(const T* dy, const u32* order, const u32* sorted, S* table, u32 tokens, u64 size, u32 width, bool add,
              float* sums) {
  constexpr int FLIGHT = 4;
  typedef Vector<T, N> V;
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, middle = blockIdx.x * MANY, id = sorted[middle];
  if (id >= size || (middle >= MANY && sorted[middle - MANY] == id)) return;
  const u32 first = middle - __popc(__ballot_sync(~0u, middle > lane && sorted[middle - 1 - lane] == id));
  if (first + MANY > tokens || sorted[first + MANY - 1] != id) return;
  for (u32 chunk = blockIdx.y; chunk * 32 < width / N; chunk += gridDim.y) {
    const u32 v = chunk * 32 + lane;
    float sum[N] = {};
    bool more = true;
    for (u32 i = first + warp; more; i += FLIGHT * WARPS) {
      V held[FLIGHT];
      bool hit[FLIGHT];
#pragma unroll
      for (int k = 0; k < FLIGHT; k++) {
        const u32 at = i + k * WARPS;
        hit[k] = at < tokens && sorted[at] == id;
        if (hit[k] && v < width / N) held[k] = ((const V*)(dy + (u64)order[at] * width))[v];
      }
#pragma unroll
      for (int k = 0; k < FLIGHT; k++)
        if (hit[k] && v < width / N) add_to(sum, held[k]);
      more = hit[FLIGHT - 1];
    }
    __syncthreads();  // the sums of the chunk before have been read
#pragma unroll
    for (int i = 0; i < N; i++) sums[(warp * N + i) * 32 + lane] = sum[i];
    __syncthreads();
    if (warp > 0 || v >= width / N) continue;
    for (u32 w = 1; w < WARPS; w++)
#pragma unroll
      for (int i = 0; i < N; i++) sum[i] += sums[(w * N + i) * 32 + lane];
    finish(table + (u64)id * width + v * N, sum, add);
  }
}

#define FORWARD(T, dtype)                                                                                     \
  KERNEL(THREADS, embedding_fwd_##dtype, const T* table /* (size, width) */, const u32* ids /* (tokens) */,   \
         T* y /* (tokens, width) */, i64 tokens, u64 size, u32 width) {                                       \
    if (aligned<T>(width, table, y)) forward<T, WIDEST<T>>(table, ids, y, tokens, size, width);               \
    else forward<T, 1>(table, ids, y, tokens, size, width);                                                   \
  }
FORWARD(float, f32)
FORWARD(bf16, bf16)

#define BACKWARD(T, S, dtypes)                                                                                \
  KERNEL(THREADS, embedding_bwd_few_##dtypes, const T* dy /* (tokens, width) */,                              \
         const u32* order /* (tokens) */, const u32* sorted /* (tokens) */, S* table /* (size, width) */,     \
         u32 tokens, u64 size, u32 width, u32 add) {                                                          \
    if (fits(width, dy, table))                                                                               \
      few<T, S, WIDEST<S>>(dy, order, sorted, table, tokens, size, width, add);                               \
    else few<T, S, 1>(dy, order, sorted, table, tokens, size, width, add);                                    \
  }                                                                                                           \
  KERNEL(THREADS, embedding_bwd_many_##dtypes, const T* dy /* (tokens, width) */,                             \
         const u32* order /* (tokens) */, const u32* sorted /* (tokens) */, S* table /* (size, width) */,     \
         u32 tokens, u64 size, u32 width, u32 add) {                                                          \
    SMEM_ARRAY(float, sums, THREADS * WIDEST<S>);                                                             \
    if (fits(width, dy, table))                                                                               \
      many<T, S, WIDEST<S>>(dy, order, sorted, table, tokens, size, width, add, sums);                        \
    else many<T, S, 1>(dy, order, sorted, table, tokens, size, width, add, sums);                             \
  }
BACKWARD(float, float, f32)
BACKWARD(bf16, bf16, bf16)
BACKWARD(bf16, float, bf16_f32)
