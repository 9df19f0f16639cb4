// CUDA C++ for a host compiler: the language a kernel is written in, and the simulator's reading of each wrapper
// in kernels/cuda/ptx.cuh. It stands in for that file when a kernel is compiled for the simulator, so a wrapper
// that exists there and not here is a compile error.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#define SIM_KERNEL
#include "runtime.h"

typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef int32_t i32;
typedef long long i64;

// ---- the language ----

#define threadIdx (sim_thread.thread)
#define blockIdx (sim_thread.block)
#define blockDim (sim_thread.block_dim)
#define gridDim (sim_thread.grid_dim)
#define DEV static inline
#define __restrict__
#define __shared__ _Pragma("GCC error \"shared memory is declared with SMEM_ARRAY or DYN_SMEM\"")

// The caller's place in the source, as default arguments: what deadlock and divergence reports name.
#define SIM_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void sim_syncthreads(SIM_HERE) { sim_barrier(0, 0, true, file, line); }
#define __syncthreads sim_syncthreads

static inline void __syncwarp(u32 mask = ~0u, SIM_HERE) {
  SimLane lane{};
  sim_collective(SIM_SYNCWARP, mask, &lane, file, line);
}

static inline int sim_lane() {
  return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
}

template <class T>
static inline T sim_shuffle(u32 mask, T value, int source, const char* file, int line) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  T result = value;
  // A source beyond the warp: the lane keeps its own value.
  SimLane lane{&value, &result, sizeof(T), source < 0 || source > 31 ? sim_lane() : source};
  sim_collective(SIM_SHUFFLE, mask, &lane, file, line);
  return result;
}
template <class T>
static inline T __shfl_sync(u32 mask, T value, int source, SIM_HERE) {
  return sim_shuffle(mask, value, source & 31, file, line);
}
template <class T>
static inline T __shfl_xor_sync(u32 mask, T value, int bits, SIM_HERE) {
  return sim_shuffle(mask, value, sim_lane() ^ bits, file, line);
}
template <class T>
static inline T __shfl_down_sync(u32 mask, T value, int distance, SIM_HERE) {
  return sim_shuffle(mask, value, sim_lane() + distance, file, line);
}
template <class T>
static inline T __shfl_up_sync(u32 mask, T value, int distance, SIM_HERE) {
  return sim_shuffle(mask, value, sim_lane() - distance, file, line);
}
static inline u32 __ballot_sync(u32 mask, int predicate, SIM_HERE) {
  u32 value = predicate != 0, result = 0;
  SimLane lane{&value, &result, sizeof value, 0};
  sim_collective(SIM_BALLOT, mask, &lane, file, line);
  return result;
}

static inline int __popc(u32 bits) { return __builtin_popcount(bits); }

using std::max;
using std::min;

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

// Threads do not interrupt each other here, so a plain update is atomic.
template <class T>
static inline T atomicAdd(T* to, T value) {
  T old, sum;
  __atomic_load(to, &old, __ATOMIC_RELAXED);
  sum = old + value;
  __atomic_store(to, &sum, __ATOMIC_RELAXED);
  return old;
}

static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

template <class T>
static inline T __ldg(const T* p) {
  return *p;
}

static inline float __uint_as_float(u32 bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
static inline u32 __float_as_uint(float value) {
  u32 bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// ---- the twin of ptx.cuh ----

// Code around a kernel, not of it: never instrumented.
#define SIM_UNSEEN __attribute__((no_sanitize("thread")))

#ifdef SIM_INSTRUMENTED
constexpr bool sim_instrumented = true;
#else
constexpr bool sim_instrumented = false;
#endif

// Calls a kernel with arguments as the driver takes them: one pointer to each.
template <class... A, size_t... I>
SIM_UNSEEN static void sim_call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_cv_t<A>*>(arguments[I])...);
}
template <class... A>
SIM_UNSEEN static void sim_call(void (*kernel)(A...), void** arguments) {
  sim_call(kernel, arguments, std::index_sequence_for<A...>{});
}
template <auto kernel>
SIM_UNSEEN static void sim_invoke(void** arguments) {
  sim_call(kernel, arguments);
}

// What the driver copies of them when the kernel is launched.
template <class... A>
static const SimParameter* sim_parameters(void (*)(A...)) {
  static const SimParameter list[] = {{sizeof(A), alignof(A)}..., {0, 0}};
  return list;
}

#define KERNEL(threads, name, ...)                                                                         \
  static void name(__VA_ARGS__);                                                                           \
  __attribute__((constructor)) static void sim_register_##name() {                                         \
    sim_register({#name, threads, sim_invoke<name>, sim_parameters(name), #__VA_ARGS__, sim_instrumented}); \
  }                                                                                                        \
  static void name(__VA_ARGS__)

#define KERNEL_AT_LEAST(threads, blocks, name, ...) KERNEL(threads, name, __VA_ARGS__)

#define SMEM_ARRAY(T, name, count) \
  static char sim_key_##name;      \
  T(&name)[count] = *static_cast<T(*)[count]>(sim_shared(&sim_key_##name, sizeof(T) * (count), #name))

#define DYN_SMEM(name) unsigned char* const name = static_cast<unsigned char*>(sim_dynamic_shared())

DEV u32 fresh_thread_index() { return threadIdx.x; }

// Round to nearest, ties to even; every NaN becomes 0x7fff, as cvt.rn.bf16.f32 has it.
DEV u16 bf16_bits(float value) {
  u32 bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<u16>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

DEV u32 bf16_pair(float low, float high) { return bf16_bits(low) | static_cast<u32>(bf16_bits(high)) << 16; }

DEV float ex2(float x) {
  if (sim_instrumented) sim_instruction("ex2");
  float y = exp2f(x);
  return fabsf(y) < 1.17549435e-38f ? 0.0f : y;
}

struct alignas(16) SimRow {
  u32 words[4];
};

// The lane reads its own row here, in the kernel's code, so that a checker sees the access.
static inline void sim_ldmatrix(SimCollective op, u32 (&r)[4], const void* row, const char* file, int line) {
  SimRow read = *static_cast<const SimRow*>(row);
  SimLane lane{&read, r, sizeof read, 0};
  sim_collective(op, ~0u, &lane, file, line);
}
DEV void ldmatrix_x4(u32 (&r)[4], const void* row, SIM_HERE) { sim_ldmatrix(SIM_LDMATRIX, r, row, file, line); }
DEV void ldmatrix_x4_trans(u32 (&r)[4], const void* row, SIM_HERE) {
  sim_ldmatrix(SIM_LDMATRIX_TRANS, r, row, file, line);
}

DEV void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, SIM_HERE) {
  u32 in[6] = {a[0], a[1], a[2], a[3], b0, b1};
  SimLane lane{in, d, sizeof in, 0};
  sim_collective(SIM_MMA_BF16, ~0u, &lane, file, line);
}

DEV void cp_async_16(void* shared, const void* global, u32 bytes = 16) { sim_copy(shared, global, bytes); }
DEV void cp_async_commit() { sim_copy_commit(); }
template <int N>
DEV void cp_async_wait() {
  sim_copy_wait(N);
}

DEV u32 load_acquire(const u32* from) { return __atomic_load_n(from, __ATOMIC_ACQUIRE); }
DEV void store_release(u32* to, u32 value) { __atomic_store_n(to, value, __ATOMIC_RELEASE); }
DEV void wait_acquire(const u32* from, u32 value, SIM_HERE) {
  while (load_acquire(from) != value) sim_spin(file, line);
}
#if __CUDA_ARCH__ >= 900
DEV void reduce_add_4(float* to, const float (&values)[4], SIM_HERE) { sim_reduce_add(to, values, 4, file, line); }
#endif

DEV void named_barrier_sync(u32 id, u32 threads, SIM_HERE) { sim_barrier(id, threads, true, file, line); }
DEV void named_barrier_arrive(u32 id, u32 threads, SIM_HERE) { sim_barrier(id, threads, false, file, line); }

// ---- Hopper ----

struct alignas(64) TensorMap {
  u64 opaque[16];
};
#define TENSOR_MAP(name) const TensorMap name

DEV u32 shared_address(const void* pointer, SIM_HERE) { return sim_shared_address(pointer, file, line); }

#if __CUDA_ARCH__ >= 900

DEV void mbarrier_init(u64* barrier, u32 arrivals, SIM_HERE) { sim_mbarrier_init(barrier, arrivals, file, line); }
DEV void fence_mbarrier_init() { sim_fence_mbarrier_init(); }
DEV void mbarrier_arrive(u64* barrier, SIM_HERE) { sim_mbarrier_arrive(barrier, 0, file, line); }
DEV void mbarrier_arrive_expect(u64* barrier, u32 bytes, SIM_HERE) { sim_mbarrier_arrive(barrier, bytes, file, line); }
DEV void mbarrier_wait(u64* barrier, u32 parity, SIM_HERE) { sim_mbarrier_wait(barrier, parity, file, line); }
DEV void fence_async_proxy() { sim_fence_async_proxy(); }

DEV void tma_load_2d(void* shared, const TensorMap* map, u64* barrier, i32 x, i32 y, SIM_HERE) {
  sim_tma_load_2d(shared, map, barrier, x, y, file, line);
}
DEV void tma_store_2d(const TensorMap* map, const void* shared, i32 x, i32 y, SIM_HERE) {
  sim_tma_store_2d(map, shared, x, y, file, line);
}
DEV void tma_store_commit() { sim_tma_store_commit(); }
template <int N>
DEV void tma_store_wait_read() {
  sim_tma_store_wait(N, true);
}
template <int N>
DEV void tma_store_wait() {
  sim_tma_store_wait(N, false);
}

#endif
#ifdef __CUDA_ARCH_FEAT_SM90_ALL

static inline void sim_whole_warp(SimCollective op, int argument, const char* file, int line) {
  SimLane lane{nullptr, nullptr, 0, argument};
  sim_collective(op, ~0u, &lane, file, line);
}

template <int N>
DEV void setmaxnreg_inc(SIM_HERE) {
  static_assert(N % 8 == 0 && 24 <= N && N <= 256, "as the instruction takes it");
  sim_whole_warp(SIM_SETMAXNREG, N, file, line);
}
template <int N>
DEV void setmaxnreg_dec(SIM_HERE) {
  static_assert(N % 8 == 0 && 24 <= N && N <= 256, "as the instruction takes it");
  sim_whole_warp(SIM_SETMAXNREG, N, file, line);
}

DEV u64 wgmma_descriptor(const void* matrix, SIM_HERE) {
  return u64{(shared_address(matrix, file, line) & 0x3ffff) >> 4} | u64{1} << 16 | u64{64} << 32 | u64{1} << 62;
}
template <int R>
DEV void wgmma_fence(float (&)[R], SIM_HERE) {
  sim_whole_warp(SIM_WGMMA_FENCE, 0, file, line);
}
DEV void wgmma_commit(SIM_HERE) { sim_whole_warp(SIM_WGMMA_COMMIT, 0, file, line); }
template <int N, int R>
DEV void wgmma_wait(float (&)[R], SIM_HERE) {
  sim_whole_warp(SIM_WGMMA_WAIT, N, file, line);
}
template <int R>
DEV void wgmma_bf16(float (&d)[R], u64 a, u64 b, bool accumulate, SIM_HERE) {
  static_assert(R == 32 || R == 64 || R == 128, "64, 128 or 256 columns");
  SimWgmma what{a, b, 2 * R, accumulate};
  SimLane lane{&what, d, sizeof d, 0};
  sim_collective(SIM_WGMMA, ~0u, &lane, file, line);
}

#endif
