// What CUDA C++ leaves to the compiler or to PTX, by name: the only file with inline assembly. Kernels declare
// their entries and shared memory through it and include no CUDA header, so NVRTC needs no include path.
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// A function of the device, inlined into its kernel.
#define DEV static __device__ __forceinline__

// An entry of at most `threads` threads per block, found by its plain name: KERNEL(256, name, arguments...) { ... }
#define KERNEL(threads, name, ...) extern "C" __global__ void __launch_bounds__(threads) name(__VA_ARGS__)

// An array in the block's static shared memory.
#define SMEM_ARRAY(T, name, count) __shared__ T name[count]

// The block's dynamic shared memory, as bytes.
#define DYN_SMEM(name) extern __shared__ __align__(1024) unsigned char name[]

// The bits of `value` as bfloat16: to nearest, ties to even. From sm_80 on.
DEV u16 bf16_bits(float value) {
  u16 bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
