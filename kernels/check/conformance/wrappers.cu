// A kernel for each wrapper of ptx.cuh and for the warp instructions of the language, which does that one thing with
// the operands it is given; mod.rs says what must come out. All take an array of words and leave one.
//
// Mapping   One block, or (numbers) one thread per value. Operands are in the order of threads unless said otherwise.
// Memory    Of no concern.
// Hazards   None that the wrapper under test does not have.
// Source    The comments of ptx.cuh.
#include "ptx.cuh"

constexpr int THREADS = 128;

KERNEL(THREADS, conformance_fresh_thread_index, const u32* in /* (n) */, u32* out /* (n) */) {
  out[blockIdx.x * blockDim.x + threadIdx.x] = in[blockIdx.x * blockDim.x + fresh_thread_index()];
}

KERNEL(THREADS, conformance_bf16_bits, const u32* in /* (n) */, u32* out /* (n) */) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = bf16_bits(__uint_as_float(in[i]));
}

KERNEL(THREADS, conformance_bf16_pair, const u32* in /* (n, 2) */, u32* out /* (n) */) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = bf16_pair(__uint_as_float(in[2 * i]), __uint_as_float(in[2 * i + 1]));
}

KERNEL(THREADS, conformance_ex2, const u32* in /* (n) */, u32* out /* (n) */) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = __float_as_uint(ex2(__uint_as_float(in[i])));
}

// Values, sources, and then one distance and one pattern of bits; each of the four shuffles, the first of 64 bits too.
KERNEL(32, conformance_shuffles, const u32* in /* (66) */, u32* out /* (6, 32) */) {
  const u32 lane = threadIdx.x, value = in[lane];
  const i32 source = (i32)in[32 + lane], distance = (i32)in[64], bits = (i32)in[65];
  out[lane] = __shfl_sync(~0u, value, source);
  out[32 + lane] = __shfl_up_sync(~0u, value, distance);
  out[64 + lane] = __shfl_down_sync(~0u, value, distance);
  out[96 + lane] = __shfl_xor_sync(~0u, value, bits);
  const u64 wide = __shfl_sync(~0u, (u64)value << 32 | (value ^ 0x5a5a5a5au), source);
  out[128 + lane] = (u32)wide;
  out[160 + lane] = (u32)(wide >> 32);
}

// Values, sources within the caller's own half of the lanes, and which half each lane is in.
KERNEL(32, conformance_partial_shuffle, const u32* in /* (65) */, u32* out /* (32) */) {
  const u32 lane = threadIdx.x, mask = in[64];
  u32 got;
  if (mask >> lane & 1) got = __shfl_sync(mask, in[lane], (i32)in[32 + lane]);
  else got = __shfl_sync(~mask, in[lane], (i32)in[32 + lane]);
  out[lane] = got;
}

// Predicates, and a mask: a vote of all lanes and one of each part.
KERNEL(32, conformance_ballot, const u32* in /* (33) */, u32* out /* (2, 32) */) {
  const u32 lane = threadIdx.x, mask = in[32];
  out[lane] = __ballot_sync(~0u, (i32)in[lane]);
  u32 votes;
  if (mask >> lane & 1) votes = __ballot_sync(mask, (i32)in[lane]);
  else votes = __ballot_sync(~mask, (i32)in[lane]);
  out[32 + lane] = votes;
}

// Values, a permutation of the lanes, and a mask: every lane reads what another wrote, twice over all lanes and once
// within its part (where its own number is the source).
KERNEL(32, conformance_syncwarp, const u32* in /* (65) */, u32* out /* (3, 32) */) {
  SMEM_ARRAY(u32, slots, 32);
  const u32 lane = threadIdx.x, source = in[32 + lane], mask = in[64];
  slots[lane] = in[lane];
  __syncwarp();
  const u32 first = slots[source];
  __syncwarp();
  slots[lane] = first;
  __syncwarp();
  out[lane] = first;
  out[32 + lane] = slots[source];
  __syncwarp();
  // The next lane of the same part, around its end.
  const u32 part = mask >> lane & 1 ? mask : ~mask, above = part & ~(~0u >> (31 - lane));
  u32 next = 0;
  for (u32 bits = above ? above : part; !(bits & 1); bits >>= 1) next++;
  slots[lane] = in[lane];
  if (mask >> lane & 1) __syncwarp(mask);
  else __syncwarp(~mask);
  out[64 + lane] = slots[next];
}

// Four 8x8 matrices as 32 rows of 16 bytes, and for each row its place in shared memory.
#define MATRICES(load)                                                                                      \
  KERNEL(32, conformance_##load, const u32* in /* (32, 4) and (32) */, u32* out /* (32, 4) */) {            \
    SMEM_ARRAY(u32, rows, 32 * 4);                                                                          \
    const u32 lane = threadIdx.x;                                                                           \
    u32* row = rows + in[128 + lane] * 4;                                                                   \
    for (u32 i = 0; i < 4; i++) row[i] = in[lane * 4 + i];                                                  \
    __syncwarp();                                                                                           \
    u32 r[4];                                                                                               \
    load(r, row);                                                                                           \
    for (u32 i = 0; i < 4; i++) out[lane * 4 + i] = r[i];                                                   \
  }
MATRICES(ldmatrix_x4)
MATRICES(ldmatrix_x4_trans)

// The registers of each lane: a, b, d.
KERNEL(32, conformance_mma_bf16, const u32* in /* (32, 10) */, u32* out /* (32, 4) */) {
  const u32* mine = in + threadIdx.x * 10;
  u32 a[4];
  float d[4];
  for (u32 i = 0; i < 4; i++) a[i] = mine[i], d[i] = __uint_as_float(mine[6 + i]);
  mma_bf16(d, a, mine[4], mine[5]);
  for (u32 i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = __float_as_uint(d[i]);
}

// Three groups of one copy per thread: how many bytes, and from what. Each is read by its thread behind the wait that
// promises it, the last one by another thread behind a barrier too.
KERNEL(THREADS, conformance_cp_async, const u32* in /* (3, 128) and (3, 128, 4) */, u32* out /* (4, 128, 4) */) {
  SMEM_ARRAY(u32, slots, 3 * THREADS * 4);
  const u32 thread = threadIdx.x;
  for (u32 i = 0; i < 12; i++) slots[thread * 12 + i] = 0xdeadbeefu;
  __syncthreads();
  for (u32 group = 0; group < 3; group++) {
    const u32 copy = group * THREADS + thread;
    cp_async_16(slots + copy * 4, in + 3 * THREADS + copy * 4, in[copy]);
    cp_async_commit();
  }
  cp_async_wait<2>();
  for (u32 i = 0; i < 4; i++) out[thread * 4 + i] = slots[thread * 4 + i];
  cp_async_wait<1>();
  for (u32 i = 0; i < 4; i++) out[(THREADS + thread) * 4 + i] = slots[(THREADS + thread) * 4 + i];
  cp_async_wait<0>();
  for (u32 i = 0; i < 4; i++) out[(2 * THREADS + thread) * 4 + i] = slots[(2 * THREADS + thread) * 4 + i];
  __syncthreads();
  const u32 other = 2 * THREADS + (thread ^ 64);
  for (u32 i = 0; i < 4; i++) out[(3 * THREADS + thread) * 4 + i] = slots[other * 4 + i];
}

// Rounds in which warps 0 and 1 hand 64 values to warps 2 and 3 and go on when these have read them.
KERNEL(THREADS, conformance_named_barriers, const u32* in /* (8, 64) */, u32* out /* (8, 64) */) {
  SMEM_ARRAY(u32, slots, 64);
  const u32 thread = threadIdx.x;
  for (u32 round = 0; round < 8; round++) {
    if (thread < 64) {
      slots[thread] = in[round * 64 + thread];
      named_barrier_arrive(1, THREADS);
      named_barrier_sync(2, THREADS);
    } else {
      named_barrier_sync(1, THREADS);
      out[round * 64 + thread - 64] = slots[127 - thread];
      named_barrier_arrive(2, THREADS);
    }
  }
}

// Blocks take turns at 128 words, in the order in which they begin to run: each value moves on by one place and has the
// block's own value of its new place added. `in` begins with two words of 0, which the kernel writes.
KERNEL(THREADS, conformance_turns, const u32* in /* (2) and (blocks, 128) */, u32* out /* (128) */) {
  SMEM_ARRAY(u32, number, 1);
  u32* words = const_cast<u32*>(in);
  if (threadIdx.x == 0) {
    number[0] = atomicAdd(words, 1u);
    wait_acquire(words + 1, number[0]);
  }
  __syncthreads();
  const u32 value = number[0] == 0 ? 0 : out[(threadIdx.x + 1) % THREADS];
  __syncthreads();
  out[threadIdx.x] = value + in[2 + number[0] * THREADS + threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) store_release(words + 1, number[0] + 1);
}
