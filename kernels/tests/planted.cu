// Kernels with one planted mistake each, and sound ones that come close, for tests/checker.rs. The line that a report
// is to name says so. `in` and `out` have two values for each thread of a block and are 16-byte aligned.
#include "reduce.cuh"
#include "vector.cuh"

typedef Vector<u32, 4> Four;

// ---- races: most of these give the right result under some schedule ----

KERNEL(1024, missing_syncthreads, u32* out, const u32* in) {
  SMEM_ARRAY(u32, slots, 1024);
  slots[threadIdx.x] = in[threadIdx.x];  // written
  out[blockIdx.x * blockDim.x + threadIdx.x] = slots[(threadIdx.x + 1) % blockDim.x];  // read too early
}

// A barrier after the write, none before it in the next round: the write races with reads of the round before.
KERNEL(1024, missing_second_syncthreads, u32* out, const u32* in) {
  SMEM_ARRAY(u32, slots, 1024);
  u32 sum = 0;
  for (u32 round = 0; round < 2; round++) {
    slots[threadIdx.x] = in[threadIdx.x] + round;  // written too early
    __syncthreads();
    sum += slots[(threadIdx.x + 1) % blockDim.x];  // read
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

KERNEL(1024, missing_syncwarp, u32* out, const u32* in) {
  SMEM_ARRAY(u32, slots, 1024);
  slots[threadIdx.x] = in[threadIdx.x];  // written
  __shfl_xor_sync(~0u, 0u, 1);           // lanes meet, but nothing orders memory
  out[blockIdx.x * blockDim.x + threadIdx.x] = slots[threadIdx.x ^ 1];  // read too early
}

// Lanes of one half warp meet, and read from the other half.
KERNEL(1024, half_syncwarp, u32* out, const u32* in) {
  SMEM_ARRAY(u32, slots, 1024);
  slots[threadIdx.x] = in[threadIdx.x];                   // written
  __syncwarp(threadIdx.x % 32 < 16 ? 0xffffu : 0xffff0000u);
  out[blockIdx.x * blockDim.x + threadIdx.x] = slots[threadIdx.x ^ 16];  // read too early
}

KERNEL(1024, copy_without_wait, u32* out, const u32* in) {
  SMEM_ARRAY(Four, tile, 256);
  if (threadIdx.x % 4 == 0) cp_async_16(&tile[threadIdx.x / 4], in + threadIdx.x);  // copied
  cp_async_commit();
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = tile[threadIdx.x / 4].at[threadIdx.x % 4];  // read too early
  cp_async_wait<0>();
}

// The wait is for the copies of the group before.
KERNEL(1024, copy_of_the_wrong_group, u32* out, const u32* in) {
  SMEM_ARRAY(Four, tiles, 512);
  for (u32 stage = 0; stage < 2; stage++) {
    if (threadIdx.x % 4 == 0) cp_async_16(&tiles[stage * 256 + threadIdx.x / 4], in + threadIdx.x);  // copied
    cp_async_commit();
  }
  cp_async_wait<1>();
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = tiles[256 + threadIdx.x / 4].at[threadIdx.x % 4];  // read too early
  cp_async_wait<0>();
}

// Each thread waits for its own copies; nobody waits for the others.
KERNEL(1024, copy_without_barrier, u32* out, const u32* in) {
  SMEM_ARRAY(Four, tile, 256);
  if (threadIdx.x % 4 == 0) cp_async_16(&tile[threadIdx.x / 4], in + threadIdx.x);  // copied
  cp_async_commit();
  cp_async_wait<0>();
  out[blockIdx.x * blockDim.x + threadIdx.x] = tile[threadIdx.x / 4].at[threadIdx.x % 4];  // read too early
}

// The stage is filled again while others may still read it.
KERNEL(1024, copy_into_a_stage_in_use, u32* out, const u32* in) {
  SMEM_ARRAY(Four, tile, 256);
  u32 sum = 0;
  for (u32 round = 0; round < 2; round++) {
    if (threadIdx.x % 4 == 0) cp_async_16(&tile[threadIdx.x / 4], in + threadIdx.x);  // written too early
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    sum += tile[threadIdx.x / 4].at[3 - threadIdx.x % 4];  // read
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

KERNEL(1024, between_blocks, u32* out, const u32* in) {
  out[threadIdx.x] = in[threadIdx.x];  // both blocks
}

// One block reads what another wrote.
KERNEL(1024, block_reads_block, u32* out, const u32* in) {
  if (blockIdx.x == 0) out[threadIdx.x] = in[threadIdx.x];               // written
  else out[blockDim.x + threadIdx.x] = out[threadIdx.x];                 // read
}

// Two neighbours write one 32-bit word.
KERNEL(1024, overlapping_writes, u32* out, const u32* in) {
  u16* halves = reinterpret_cast<u16*>(out + blockIdx.x * blockDim.x);
  halves[threadIdx.x] = static_cast<u16>(in[threadIdx.x]);               // written
  if (threadIdx.x == 0) out[blockIdx.x * blockDim.x] = in[0];            // written
}

// Nobody waits at the barrier that the other half arrives at: the arrival orders nothing for those who arrive.
KERNEL(1024, arrival_is_no_wait, u32* out, const u32* in) {
  SMEM_ARRAY(u32, slots, 1024);
  const bool first = threadIdx.x < blockDim.x / 2;
  slots[threadIdx.x] = in[threadIdx.x];  // written
  if (first) named_barrier_sync(1, blockDim.x);
  else named_barrier_arrive(1, blockDim.x);
  out[blockIdx.x * blockDim.x + threadIdx.x] = slots[(threadIdx.x + blockDim.x / 2) % blockDim.x];  // read too early
}

KERNEL(1024, atomic_against_plain, u32* out, const u32* in) {
  if (threadIdx.x < 16) atomicAdd(&out[blockIdx.x], in[0]);   // updated
  else if (threadIdx.x == 16) out[blockIdx.x] = in[0];          // written
}

// The counter tells the last block, but no fence publishes what the others wrote.
KERNEL(1024, last_block_without_fence, u32* out, const u32* in) {
  SMEM_ARRAY(u32, last, 1);
  out[blockIdx.x * blockDim.x + threadIdx.x] = in[threadIdx.x];  // written
  __syncthreads();
  u32* counter = const_cast<u32*>(in) + blockDim.x;
  if (threadIdx.x == 0) last[0] = atomicAdd(counter, 1u) % gridDim.x == gridDim.x - 1;
  __syncthreads();
  u32 sum = 0;
  if (last[0])
    for (u32 b = 0; b < gridDim.x; b++) sum += out[b * blockDim.x + threadIdx.x];  // read
  if (sum == 1) out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// Blocks take turns at the same words, in the order in which they begin. Whoever is done says so, but does not release.
KERNEL(1024, turn_without_release, u32* out, const u32* in) {
  SMEM_ARRAY(u32, number, 1);
  u32* words = const_cast<u32*>(in) + blockDim.x;  // two of 0
  if (threadIdx.x == 0) {
    number[0] = atomicAdd(words, 1u);
    wait_acquire(words + 1, number[0]);
  }
  __syncthreads();
  out[threadIdx.x] += number[0];  // both
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(words + 1, 1u);
}

// Released, but before the others of the block are done.
KERNEL(1024, turn_released_too_early, u32* out, const u32* in) {
  SMEM_ARRAY(u32, number, 1);
  u32* words = const_cast<u32*>(in) + blockDim.x;
  if (threadIdx.x == 0) {
    number[0] = atomicAdd(words, 1u);
    wait_acquire(words + 1, number[0]);
  }
  __syncthreads();
  out[threadIdx.x] += number[0];  // both
  if (threadIdx.x == 0) store_release(words + 1, number[0] + 1);
}

// One thread waits for its block's turn, and the others do not wait for it.
KERNEL(1024, turn_awaited_by_one, u32* out, const u32* in) {
  SMEM_ARRAY(u32, number, 1);
  u32* words = const_cast<u32*>(in) + blockDim.x;
  if (threadIdx.x == 0) number[0] = atomicAdd(words, 1u);
  __syncthreads();
  if (threadIdx.x == 0) wait_acquire(words + 1, number[0]);
  out[threadIdx.x] += number[0];  // both
  __syncthreads();
  if (threadIdx.x == 0) store_release(words + 1, number[0] + 1);
}

// The first block waits for what the second writes, which may not run before it is over.
KERNEL(1024, turn_of_a_later_block, u32* out, const u32* in) {
  u32* words = const_cast<u32*>(in) + blockDim.x;
  if (threadIdx.x == 0) {
    const u32 number = atomicAdd(words, 1u);
    if (number == 0) wait_acquire(words + 1, 1);  // waits
    else store_release(words + 1, 1);
  }
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = in[threadIdx.x];
}

// ---- bounds ----

KERNEL(1024, read_past_the_end, u32* out, const u32* in) {
  out[blockIdx.x * blockDim.x + threadIdx.x] = in[threadIdx.x + blockDim.x + 1];  // out of bounds
}
KERNEL(1024, write_past_the_end, u32* out, const u32* in) {
  out[gridDim.x * blockDim.x + threadIdx.x] = in[threadIdx.x];  // out of bounds
}
KERNEL(1024, read_before_the_start, u32* out, const u32* in) {
  out[blockIdx.x * blockDim.x + threadIdx.x] = in[(i64)threadIdx.x - 4];  // out of bounds
}
KERNEL(1024, write_before_the_start, u32* out, const u32* in) {
  out[(i64)threadIdx.x - 1] = in[threadIdx.x];  // out of bounds
}
KERNEL(1024, wide_read_past_the_end, u32* out, const u32* in) {
  const Four* last = reinterpret_cast<const Four*>(in + 2 * blockDim.x - 4) + threadIdx.x / 32 + 1;
  out[blockIdx.x * blockDim.x + threadIdx.x] = last->at[0] + last->at[3];  // out of bounds
}
// As far behind `out` as no two allocations of a driver would be apart.
KERNEL(1024, write_into_the_neighbour, u32* out, const u32* in) {
  out[(1 << 16) + threadIdx.x] = in[threadIdx.x];  // out of bounds
}
KERNEL(1024, static_shared_overrun, u32* out, const u32* in) {
  SMEM_ARRAY(u32, first, 32);
  SMEM_ARRAY(u32, second, 32);
  if (threadIdx.x < 32) second[threadIdx.x] = first[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = first[threadIdx.x % 32 + 1];  // out of bounds
}
KERNEL(1024, dynamic_shared_overrun, u32* out, const u32* in) {
  DYN_SMEM(bytes);
  u32* slots = reinterpret_cast<u32*>(bytes);
  slots[threadIdx.x + 1] = in[threadIdx.x];  // out of bounds
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = slots[threadIdx.x];
}
KERNEL(1024, misaligned, u32* out, const u32* in) {
  Four four = *reinterpret_cast<const Four*>(in + 1);  // misaligned
  out[blockIdx.x * blockDim.x + threadIdx.x] = four.at[threadIdx.x % 4];
}
KERNEL(1024, copy_past_the_end, u32* out, const u32* in) {
  SMEM_ARRAY(Four, tile, 256);
  if (threadIdx.x % 4 == 0) cp_async_16(&tile[threadIdx.x / 4], in + blockDim.x + threadIdx.x + 4);  // out of bounds
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = tile[threadIdx.x / 4].at[threadIdx.x % 4];
}
KERNEL(1024, copy_of_misaligned, u32* out, const u32* in) {
  SMEM_ARRAY(Four, tile, 256);
  if (threadIdx.x % 4 == 0) cp_async_16(&tile[threadIdx.x / 4], in + threadIdx.x + 1, 12);  // misaligned
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = tile[threadIdx.x / 4].at[threadIdx.x % 4];
}

// ---- sound: no word about any of these ----

KERNEL(1024, sound_reduction, u32* out, const u32* in) {
  SMEM_ARRAY(float, even, MAX_WARPS);
  SMEM_ARRAY(float, odd, MAX_WARPS);
  float sum = 0;
  for (u32 round = 0; round < 4; round++) sum += block_sum((float)in[threadIdx.x], round % 2 ? odd : even);
  out[blockIdx.x * blockDim.x + threadIdx.x] = (u32)sum;
}
KERNEL(1024, sound_double_buffer, u32* out, const u32* in) {
  SMEM_ARRAY(Four, tiles, 512);
  auto start = [&](u32 stage) {
    if (threadIdx.x % 4 == 0) cp_async_16(&tiles[stage % 2 * 256 + threadIdx.x / 4], in + threadIdx.x);
    cp_async_commit();
  };
  start(0);
  u32 sum = 0;
  for (u32 stage = 0; stage < 5; stage++) {
    start(stage + 1);
    cp_async_wait<1>();
    __syncthreads();
    const u32 from = (threadIdx.x + 5) % blockDim.x;
    sum += tiles[stage % 2 * 256 + from / 4].at[from % 4];
    __syncthreads();
  }
  cp_async_wait<0>();
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
// Half of the warps produce, the others consume: one barrier says full, one says empty.
KERNEL(1024, sound_producer_consumer, u32* out, const u32* in) {
  SMEM_ARRAY(u32, slots, 512);
  const u32 half = blockDim.x / 2, me = threadIdx.x % half;
  if (blockDim.x == 32) return;
  u32 sum = 0;
  for (u32 round = 0; round < 4; round++) {
    if (threadIdx.x < half) {
      if (round > 0) named_barrier_sync(2, blockDim.x);
      slots[me] = in[me] + round;
      named_barrier_arrive(1, blockDim.x);
    } else {
      named_barrier_sync(1, blockDim.x);
      sum += slots[half - 1 - me];
      if (round < 3) named_barrier_arrive(2, blockDim.x);
    }
  }
  if (threadIdx.x >= half) out[blockIdx.x * blockDim.x + me] = sum;
}
// The same with mbarrier objects, each thread arriving for itself.
KERNEL(1024, sound_mbarriers, u32* out, const u32* in) {
  SMEM_ARRAY(u64, barriers, 2);
  SMEM_ARRAY(u32, slots, 512);
  u64 *full = barriers, *empty = barriers + 1;
  const u32 half = blockDim.x / 2, me = threadIdx.x % half;
  if (threadIdx.x == 0) mbarrier_init(full, half), mbarrier_init(empty, half);
  __syncthreads();
  u32 sum = 0;
  for (u32 round = 0; round < 4; round++) {
    if (threadIdx.x < half) {
      mbarrier_wait(empty, (round ^ 1) & 1);
      slots[me] = in[me] + round;
      mbarrier_arrive(full);
    } else {
      mbarrier_wait(full, round & 1);
      sum += slots[half - 1 - me];
      mbarrier_arrive(empty);
    }
  }
  if (threadIdx.x >= half) out[blockIdx.x * blockDim.x + me] = sum;
}
KERNEL(1024, sound_warp_exchange, u32* out, const u32* in) {
  SMEM_ARRAY(u32, slots, 1024);
  u32 value = in[threadIdx.x];
  for (u32 bit = 16; bit > 0; bit /= 2) {
    slots[threadIdx.x] = value;
    __syncwarp();
    value += slots[threadIdx.x ^ bit];
    __syncwarp();
  }
  // The upper half of a warp goes its own way and comes back.
  if (threadIdx.x % 32 >= 16) __syncwarp(0xffff0000u);
  slots[threadIdx.x] = value;
  __syncwarp();
  out[blockIdx.x * blockDim.x + threadIdx.x] = slots[threadIdx.x ^ 31];
}
KERNEL(1024, sound_atomics, u32* out, const u32* in) {
  SMEM_ARRAY(u32, count, 1);
  if (threadIdx.x == 0) count[0] = 0;
  __syncthreads();
  atomicAdd(&count[0], 1u);
  atomicAdd(&out[0], in[0]);
  __syncthreads();
  if (threadIdx.x > 0) out[blockIdx.x * blockDim.x + threadIdx.x] = count[0];
}
// The last block to count itself adds up what all blocks wrote.
KERNEL(1024, sound_last_block, u32* out, const u32* in) {
  SMEM_ARRAY(u32, last, 1);
  out[blockIdx.x * blockDim.x + threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    u32* counter = const_cast<u32*>(in) + blockDim.x;
    last[0] = atomicAdd(counter, 1u) % gridDim.x == gridDim.x - 1;
  }
  __syncthreads();
  if (!last[0]) return;
  u32 sum = 0;
  for (u32 b = 0; b < gridDim.x; b++) sum += out[b * blockDim.x + threadIdx.x];
  out[threadIdx.x] = sum;
}
// Blocks take turns at the same words, in the order in which they begin.
KERNEL(1024, sound_turns, u32* out, const u32* in) {
  SMEM_ARRAY(u32, number, 1);
  u32* words = const_cast<u32*>(in) + blockDim.x;
  if (threadIdx.x == 0) {
    number[0] = atomicAdd(words, 1u);
    wait_acquire(words + 1, number[0]);
  }
  __syncthreads();
  out[threadIdx.x] += number[0];
  __syncthreads();
  if (threadIdx.x == 0) store_release(words + 1, number[0] + 1);
}
// Reductions do not race with each other, and the block that comes last may read what they made.
KERNEL(1024, sound_reductions, u32* out, const u32* in) {
  SMEM_ARRAY(u32, last, 1);
  u32* counter = const_cast<u32*>(in) + blockDim.x;
  const float ones[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  reduce_add_4((float*)out + threadIdx.x % 4 * 4, ones);
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last[0] = atomicAdd(counter, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (last[0]) out[blockDim.x + threadIdx.x] = out[threadIdx.x % 16];
}
// Neighbours write the two bytes of one granule of the checker, and the halves of one word.
KERNEL(1024, sound_narrow_writes, u32* out, const u32* in) {
  SMEM_ARRAY(unsigned char, bytes, 1024);
  bytes[threadIdx.x] = (unsigned char)in[threadIdx.x];
  reinterpret_cast<u16*>(out + blockIdx.x * blockDim.x)[threadIdx.x] = 1;
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = bytes[blockDim.x - 1 - threadIdx.x];
}
// A local array and constant data are nobody else's business.
KERNEL(1024, sound_local_array, u32* out, const u32* in) {
  static const u32 table[4] = {3, 1, 2, 0};
  u32 local[8];
  for (u32 i = 0; i < 8; i++) local[i] = in[(threadIdx.x + i) % blockDim.x];
  __syncwarp();
  out[blockIdx.x * blockDim.x + threadIdx.x] = local[table[threadIdx.x % 4]] + local[in[threadIdx.x] % 8];
}
