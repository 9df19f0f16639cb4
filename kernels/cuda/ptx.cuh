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

// threadIdx.x, read anew by each call: what follows from it is computed where it is used, and not kept in registers
// around a loop.
DEV u32 fresh_thread_index() {
  u32 index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

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

// ---- global memory that blocks share ----

// What a block leaves to others needs a word that says so: written by store_release after a barrier of those who wrote
// (or by the one thread that did), read by load_acquire before a barrier of those who go on to use it. Then all that
// lies before the one is seen by all that lies behind the other.

// The word, once it has been read, before everything this thread does from then on (ld.acquire).
DEV u32 load_acquire(const u32* from) {
  u32 value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
               : "=r"(value)
               : "l"(__cvta_generic_to_global(from))
               : "memory");
  return value;
}

// Writes it, after everything this thread knows of (st.release).
DEV void store_release(u32* to, u32 value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(to)), "r"(value) : "memory");
}

// Waits until the word is `value`, as load_acquire. Whoever writes it must not wait for this block.
DEV void wait_acquire(const u32* from, u32 value) {
  while (load_acquire(from) != value) {
  }
}

#if __CUDA_ARCH__ >= 900
// Adds four floats to those from `to` on, aligned to 16 bytes, each of them at once, whoever else does (red.add).
DEV void reduce_add_4(float* to, const float (&values)[4]) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "f"(values[0]), "f"(values[1]), "f"(values[2]), "f"(values[3])
               : "memory");
}
#endif

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

// ---- Hopper: from sm_90 on ----

// A tensor map, as the driver's cuTensorMapEncodeTiled made it. A kernel takes it by value:
// KERNEL(128, name, TENSOR_MAP(map), ...).
struct alignas(128) TensorMap {
  u64 opaque[16];
};
#define TENSOR_MAP(name) const __grid_constant__ TensorMap name

#if __CUDA_ARCH__ >= 900

// An mbarrier object is eight bytes of shared memory with a phase that ends when as many arrivals as it was made for
// have come and as many bytes been copied as they announced; then the next phase begins. The first has parity 0.

// Makes it, by one thread; others may use it after a barrier, the TMA engine after fence_mbarrier_init too.
DEV void mbarrier_init(u64* barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Makes this thread's initialisations known to the TMA engine.
DEV void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Arrives: what this thread did before is seen by those who wait for the phase.
DEV void mbarrier_arrive(u64* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Announces `bytes` more bytes for this phase, and arrives.
DEV void mbarrier_arrive_expect(u64* barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

// Waits until the phase of this parity is over. On a fresh barrier that is true at once for parity 1.
DEV void mbarrier_wait(u64* barrier, u32 parity) {
  asm volatile(
      "{\n"
      ".reg .pred over;\n"
      "TRY:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
      "@!over bra TRY;\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Orders this thread's accesses to shared memory before those of the asynchronous proxy (TMA, wgmma) that follow, by
// this thread or by those it then synchronises with: between a write by threads and a read by the proxy.
DEV void fence_async_proxy() { asm volatile("fence.proxy.async;" ::: "memory"); }

// Starts copying the map's tile whose first element is (x, y), x along rows, to shared memory, aligned to 128 bytes
// (to 1024 with the swizzle of 128 bytes); elements outside the tensor become what the map says, zero as a rule. The
// whole tile's bytes count towards the barrier's phase. By one thread.
DEV void tma_load_2d(void* shared, const TensorMap* map, u64* barrier, i32 x, i32 y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y)
      : "memory");
}

// Starts copying a tile from shared memory; elements outside the tensor are not written. What threads wrote to the
// tile is seen after fence_async_proxy. By one thread, which also commits and waits.
DEV void tma_store_2d(const TensorMap* map, const void* shared, i32 x, i32 y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
               "r"(shared_address(shared)), "r"(x), "r"(y)
               : "memory");
}

// Ends a group: the stores this thread started since the last one.
DEV void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until all but the newest N groups of this thread have read shared memory, which then may be written again.
template <int N>
DEV void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

// The same until they are written.
template <int N>
DEV void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}

#endif
#ifdef __CUDA_ARCH_FEAT_SM90_ALL  // sm_90a alone: the instructions of this generation's tensor cores

// Changes how many registers each thread of this warpgroup may have, to N: a multiple of 8 from 24 to 256. The kernel
// is declared with KERNEL_AT_LEAST: ptxas ignores the change where it does not know the count at entry.
template <int N>
DEV void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
DEV void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

// The descriptor of a bf16 matrix in shared memory, as a TMA load with the swizzle of 128 bytes leaves it: rows of 64
// values, each 128 bytes, the first aligned to 1024. Adding 2 to it goes on by 16 values along the rows.
DEV u64 wgmma_descriptor(const void* matrix) {
  const u64 start = (shared_address(matrix) & 0x3ffff) >> 4, eight_rows = 1024 >> 4, swizzle_128 = 1;
  return start | u64{1} << 16 | eight_rows << 32 | swizzle_128 << 62;
}

// Keeps what is computed with these registers on its side of the wgmma instructions around here.
template <int R>
DEV void wgmma_pin(float (&d)[R]) {
#pragma unroll
  for (int i = 0; i < R; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// To be called before the first product and between what threads do with accumulators and the next one into them.
template <int R>
DEV void wgmma_fence(float (&d)[R]) {
  wgmma_pin(d);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Ends a group: the products this warp started since the last one.
DEV void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most the newest N groups of this warp are unfinished; `d` are the accumulators of those that are not.
template <int N, int R>
DEV void wgmma_wait(float (&d)[R]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
  wgmma_pin(d);
}

// The text and the operands of many registers.
#define NUMBERS_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NUMBERS_64 \
  NUMBERS_32 ", " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NUMBERS_128 \
  NUMBERS_64 ", " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define REGISTERS_8(d, i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define REGISTERS_32(d, i) REGISTERS_8(d, i), REGISTERS_8(d, i + 8), REGISTERS_8(d, i + 16), REGISTERS_8(d, i + 24)
#define REGISTERS_64(d, i) REGISTERS_32(d, i), REGISTERS_32(d, i + 32)
#define REGISTERS_128(d, i) REGISTERS_64(d, i), REGISTERS_64(d, i + 64)

// wgmma.mma_async of `columns` columns into half as many registers; the two descriptors and the flag come after them.
#define WGMMA_BF16(columns, registers, descriptor_a, descriptor_b, flag)                                      \
  DEV void wgmma_bf16(float (&d)[registers], u64 a, u64 b, bool accumulate) {                                 \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #flag                                               \
                 ", 0;\n"                                                                                     \
                 "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.bf16.bf16 {" NUMBERS_##registers        \
                 "}, %" #descriptor_a ", %" #descriptor_b ", add, 1, 1, 0, 0;\n}"                              \
                 : REGISTERS_##registers(d, 0)                                                                \
                 : "l"(a), "l"(b), "r"((u32)accumulate));                                                     \
  }

// Starts d (+)= a b^T for a (64 x 16) and b (2 R x 16), both bf16 in shared memory with k along their rows, d in f32
// and R of its values per thread: by all four warps of a warpgroup. With w = warp % 4, g = lane / 4 and
// t = 2 (lane % 4), columns 8 j + t and 8 j + t + 1 of row 16 w + g are in d[4 j] and d[4 j + 1], those of row
// 16 w + g + 8 in d[4 j + 2] and d[4 j + 3].
WGMMA_BF16(64, 32, 32, 33, 34)
WGMMA_BF16(128, 64, 64, 65, 66)
WGMMA_BF16(256, 128, 128, 129, 130)

#endif
