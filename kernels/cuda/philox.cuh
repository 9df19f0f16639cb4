// Philox4x32-10 of Salmon et al. (2011), section 4.3: random.rs has the same on the CPU, and says what the counters are.
#pragma once
#include "ptx.cuh"

constexpr u32 DROPOUT = 1;  // the last counter word of dropout

struct Words {
  u32 at[4];
};

// 128 random bits for a counter and a key.
DEV Words philox(Words counter, u64 key) {
  u32 low = (u32)key, high = (u32)(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const u64 a = (u64)counter.at[0] * 0xd2511f53u, b = (u64)counter.at[2] * 0xcd9e8d57u;
    counter = {{(u32)(b >> 32) ^ counter.at[1] ^ low, (u32)b, (u32)(a >> 32) ^ counter.at[3] ^ high, (u32)a}};
    low += 0x9e3779b9u, high += 0xbb67ae85u;
  }
  return counter;
}
