// Finds what happens to work: accesses that nothing orders (races), and accesses beyond what they belong to (bounds).
// Every access of an instrumented kernel is looked at (watch.cpp), whatever the schedule was and though the result is
// right. What it finds is on standard error, with both places in the source, and fails the launch.
//
// - race: two accesses of the same bytes, one of them a write, and nothing in CUDA that puts one before the other:
//   no __syncthreads, named barrier, __syncwarp or mbarrier between them. Shuffles, votes and mma order nothing. Blocks
//   of a grid have no order either. Atomics do not race with each other; one behind a __threadfence publishes what
//   lies before the fence to whoever updates the same address later, and a store_release what lies before it to
//   whoever reads the word with load_acquire. The target of a copy that does not wait belongs
//   to nobody until its wait.
// - bounds: an access that does not lie within one live allocation, one shared array of its block or the dynamic
//   shared memory that was launched, or whose address is no multiple of its width.
// - proxy: what a thread writes to shared memory, the asynchronous proxy (wgmma, the TMA engine) sees only behind a
//   fence.proxy.async.
//
// Not seen: a read of memory that nobody wrote; overruns within a thread's own local arrays; an overrun that skips more
// than the distance between allocations.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "block.h"

namespace sim {

class Memory;
struct Clock;

namespace checker {

// Whether races are looked for: the functions below need not be called if not.
extern bool races;

// ---- what runs ----

void grid_begins(const Settings& settings);
// False if something was found.
bool grid_ends();
void block_begins(SimIndex position, int threads);

// ---- accesses ----

enum Access : unsigned { READ = 0, WRITE = 1, ATOMIC = 2 };

// The running thread accesses memory. `natural`: the instruction needs an address that is a multiple of its width.
void access(uint64_t address, size_t bytes, unsigned access, bool natural, const void* place);
// It starts a copy to shared memory that does not wait, and the copy is over.
void copy_begins(void* to, const void* from, uint32_t bytes, const void* place);
void copy_ends(void* to);

// ---- order ----

void barrier_of_all();
void sync_lanes(int warp, uint32_t mask);
void fence();
// An atomic update of the word there, a read of it that acquires, a write that releases.
void updated(uint64_t address);
void acquired(uint64_t address);
void released(uint64_t address);

// A place where threads hand over what they know: `release` leaves what its caller did, `acquire` takes what was left.
// An object that is used again and again needs one of these for each phase that may be waited for at the same time.
class Handover {
 public:
  Handover();
  ~Handover();
  Handover(Handover&&) noexcept;
  Handover& operator=(Handover&&) noexcept;

  void clear();
  void release();             // by the running thread
  void acquire(int thread);   // for a thread that waited
  void acquire();             // by the running thread

 private:
  friend class Task;
  std::unique_ptr<Clock> clock_;
};

// Something that a thread starts and that then goes on beside all threads: a copy of the TMA engine, a wgmma. It comes
// after what its thread did before, and before nothing until somebody waits for it. It belongs to the async proxy.
class Task {
 public:
  // Started by the running thread. `name` for reports, `place` a return address in the kernel.
  Task(const char* name, const void* place);
  // Another thread starts it too: a lane, where all of a warp do.
  void started_by(int thread);
  ~Task();
  Task(Task&&) noexcept;
  Task& operator=(Task&&) noexcept;

  // What it does when it runs. Bounds are the caller's to check.
  void read(const void* address, size_t bytes);
  void write(void* address, size_t bytes);
  // It is over, for whoever acquires this.
  void release(Handover& handover);
  // It is over for a thread that waited.
  void wait(int thread);

 private:
  void access(uint64_t address, size_t bytes, bool write);
  int actor_ = 0;
  const void* place_ = nullptr;
  std::unique_ptr<Clock> clock_;  // null if races are not looked for
  std::unique_ptr<Clock> seen_;   // in proxy mode: which writes of threads it may see
};

// fence.proxy.async by the running thread.
void fence_async_proxy();

}  // namespace checker
}  // namespace sim
