// What CUDA C++ leaves to the compiler or to PTX, by name: the only file with inline assembly. Kernels declare
// their entries and shared memory through it and include no CUDA header, so NVRTC needs no include path.
//
// Section numbers are those of the PTX ISA manual, chapter 9.7 (instructions).
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

// A function of the device, inlined into its kernel.
#define DEV static __device__ __forceinline__

// An entry of at most `threads` threads per block, found by its plain name: KERNEL(256, name, arguments...) { ... }
#define KERNEL(threads, name, ...) extern "C" __global__ void __launch_bounds__(threads) name(__VA_ARGS__)

// The same, compiled so that at least `blocks` blocks fit on a multiprocessor at once.
#define KERNEL_AT_LEAST(threads, blocks, name, ...) \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)

// An array in the block's static shared memory.
#define SMEM_ARRAY(T, name, count) __shared__ __align__(16) T name[count]

// The block's dynamic shared memory, as bytes, aligned to 1024.
#define DYN_SMEM(name) extern __shared__ __align__(1024) unsigned char name[]

// ---- numbers ----

// The bits of `value` as bfloat16: to nearest, ties to even. From sm_80 on.
DEV u16 bf16_bits(float value) {
  u16 bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// Two of them in one register, `low` in the lower half.
DEV u32 bf16_pair(float low, float high) {
  u32 bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

// 2^x, to about 2 ulp; subnormal results become 0.
DEV float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- matrices in registers ----

// The address of shared memory as instructions of the shared state space take it.
DEV u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// Loads four 8x8 matrices of 16-bit values (ldmatrix). Lane 8 i + j passes the address of row j of matrix i: 16 bytes
// of shared memory, aligned to 16. Of matrix i, lane l gets elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 in r[i].
DEV void ldmatrix_x4(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same, each matrix transposed: lane l gets rows 2 (l % 4) and 2 (l % 4) + 1 of column l / 4.
DEV void ldmatrix_x4_trans(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a b^T for a (16 x 16) and b (8 x 16), both bf16 with k running along rows, d (16 x 8) in f32 (mma.m16n8k16).
// With g = lane / 4 and t = 2 (lane % 4), low halves first, a lane holds:
//   a[0] = a[g][t, t+1]    a[1] = a[g+8][t, t+1]    a[2] = a[g][t+8, t+9]    a[3] = a[g+8][t+8, t+9]
//   b0   = b[g][t, t+1]    b1   = b[g][t+8, t+9]
//   d[0], d[1] = d[g][t, t+1]                       d[2], d[3] = d[g+8][t, t+1]
DEV void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- copies from global to shared memory that do not wait ----

// Starts copying `bytes` (0 to 16) bytes and zeroing the rest of 16; both addresses are aligned to 16 (cp.async.cg).
// With 0 bytes nothing is read. The data is there, for this thread, after a wait for the group it was committed in;
// for other threads after a barrier behind that.
DEV void cp_async_16(void* shared, const void* global, u32 bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}

// Ends a group: the copies this thread started since the last one.
DEV void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the newest N of this thread's groups are unfinished.
template <int N>
DEV void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- barriers of some warps ----

// Waits at barrier `id` (1 to 15; 0 is __syncthreads) until `threads` threads, a multiple of 32, have come: the
// counterparts may wait here too or have called named_barrier_arrive.
DEV void named_barrier_sync(u32 id, u32 threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Counts as having come to barrier `id`, and goes on.
DEV void named_barrier_arrive(u32 id, u32 threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
