// What a compiled kernel and the simulator know of each other. ptx.cuh includes this into every kernel; block.cpp
// implements it.
#pragma once
#include <cstddef>
#include <cstdint>

#define SIM_EXPORT extern "C" __attribute__((visibility("default")))

struct SimIndex {
  unsigned x, y, z;
};

// The four built-in variables of one CUDA thread.
struct SimThread {
  SimIndex thread, block, block_dim, grid_dim;
};

enum SimCollective {
  SIM_SYNCWARP,
  SIM_SHUFFLE,
  SIM_BALLOT,
  SIM_LDMATRIX,
  SIM_LDMATRIX_TRANS,
  SIM_MMA_BF16,
  SIM_SETMAXNREG,
  SIM_WGMMA,
  SIM_WGMMA_FENCE,
  SIM_WGMMA_COMMIT,
  SIM_WGMMA_WAIT,
};

// What one lane brings to a warp collective. It lies on the lane's own stack until the last lane has arrived.
struct SimLane {
  const void* in;   // the lane's value
  void* out;        // where the lane's result goes
  uint32_t bytes;   // of the value and of the result
  int source;       // shuffle: the lane whose value this one gets
};

// What one lane brings to SIM_WGMMA as `in`; `out` is where its columns / 2 accumulators lie until the wait.
struct SimWgmma {
  uint64_t a, b;  // matrix descriptors
  uint32_t columns;
  bool accumulate;
};

// The CUDA thread that runs now. A kernel sees only its own, which does not change, so to a kernel it is constant.
#ifdef SIM_KERNEL
extern "C" __attribute__((visibility("default"))) const SimThread sim_thread;
#else
extern "C" __attribute__((visibility("default"))) SimThread sim_thread;
#endif

// Counts the thread at barrier `id` of `threads` threads (0: the whole block), and waits for the others or goes on.
SIM_EXPORT void sim_barrier(unsigned id, unsigned threads, bool wait, const char* file, int line);
SIM_EXPORT void sim_collective(SimCollective op, uint32_t mask, SimLane* lane, const char* file, int line);

// The block's own copy of a static shared array; `key` is unique to the declaration.
SIM_EXPORT __attribute__((assume_aligned(16))) void* sim_shared(const void* key, size_t bytes, const char* name);
SIM_EXPORT __attribute__((assume_aligned(1024))) void* sim_dynamic_shared();

// How large a parameter of a kernel is and how it is aligned. A list of them ends with one of no size.
struct SimParameter {
  size_t bytes, alignment;
};

// A kernel of a module.
struct SimKernel {
  const char* name;
  unsigned max_threads;  // its launch bound
  void (*invoke)(void** arguments);  // calls it with arguments as cuLaunchKernel takes them
  const SimParameter* parameters;
  const char* declared;  // the parameters' types and names
  bool instrumented;     // whether its accesses call the hooks in watch.cpp
};
// Called while a module is loaded, once per kernel.
SIM_EXPORT void sim_register(const SimKernel& kernel);

// The thread waits for a word of memory to change: others go on.
SIM_EXPORT void sim_spin(const char* file, int line);
// Adds `count` floats to those at `to`, an address aligned to all of them, each of them at once.
SIM_EXPORT void sim_reduce_add(float* to, const float* values, int count, const char* file, int line);

// Instrumented kernels tell what has no other effect here than to be counted.
SIM_EXPORT void sim_instruction(const char* name);

// A copy of `bytes` bytes from global to shared memory, the rest of 16 filled with zeros, that does not wait.
SIM_EXPORT void sim_copy(void* to, const void* from, uint32_t bytes);
SIM_EXPORT void sim_copy_commit();
SIM_EXPORT void sim_copy_wait(uint32_t newest);

// The address of shared memory that instructions and matrix descriptors take.
SIM_EXPORT uint32_t sim_shared_address(const void* pointer, const char* file, int line);

// mbarrier objects, and the asynchronous copies that complete on them (async.cpp).
SIM_EXPORT void sim_mbarrier_init(void* barrier, uint32_t count, const char* file, int line);
SIM_EXPORT void sim_mbarrier_arrive(void* barrier, uint32_t expected_bytes, const char* file, int line);
SIM_EXPORT void sim_mbarrier_wait(void* barrier, uint32_t parity, const char* file, int line);
SIM_EXPORT void sim_fence_mbarrier_init();
SIM_EXPORT void sim_fence_async_proxy();
SIM_EXPORT void sim_tma_load_2d(void* to, const void* map, void* barrier, int x, int y, const char* file, int line);
SIM_EXPORT void sim_tma_store_2d(const void* map, const void* from, int x, int y, const char* file, int line);
SIM_EXPORT void sim_tma_store_commit();
SIM_EXPORT void sim_tma_store_wait(uint32_t newest, bool only_read);
