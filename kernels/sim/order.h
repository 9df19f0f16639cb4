// Which accesses CUDA puts one before the other.
//
// Whoever accesses memory is an actor: the threads of the block that runs, and tasks, which go on beside them (a copy of
// the TMA engine, say). An actor's clock says what it knows: which accesses of which actor come before all it does from
// now on. Clocks change only where CUDA orders something; that the simulator runs one fiber after another orders nothing.
//
// Time is one counter that grows with every release. An access is dated by its actor's tick, which is new after
// each release. So dates of different blocks and grids compare too: the grids before are known to everybody, other
// blocks of this grid to nobody, except through atomics behind a fence. A barrier of all threads, the usual case, is one
// number: everybody knows what the threads did before it.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "block.h"

namespace sim {

constexpr int TASKS = 128;  // numbers of tasks, used in turn; reuse can hide a race, it cannot invent one
constexpr int ACTORS = MAX_THREADS + TASKS;

struct Clock {
  uint32_t block = 0;           // when its block began
  uint32_t base = 0;            // what threads of the block did before this is known,
  uint32_t known[ACTORS] = {};  // and what each actor did up to this
  std::vector<std::shared_ptr<const Clock>> others;  // what is known of other blocks of this grid
};

class Order {
 public:
  void grid_begins();
  void block_begins(int threads);

  // The date of what an actor does now.
  uint32_t now(int actor) const { return actor < MAX_THREADS && ticks_[actor] < base_ ? base_ : ticks_[actor]; }
  // Whether what `actor` did at `tick` comes before what `observer`, whose clock is `clock`, does now.
  bool before(uint32_t tick, int actor, int observer, const Clock& clock) const {
    if (tick < grid_) return true;
    if (tick < block_) return known_elsewhere(tick, actor, clock);
    return actor == observer || (actor < MAX_THREADS && tick < clock.base) || tick <= clock.known[actor];
  }
  bool in_grid(uint32_t tick) const { return tick >= grid_; }
  bool in_block(uint32_t tick) const { return tick >= block_; }
  // Whether all threads of the block have met since.
  bool met_since(uint32_t tick) const { return tick < base_; }
  const Clock& clock(int thread) { return current(thread); }
  // Which block of the grid, counted in the order they ran, did something at `tick`.
  int block_of(uint32_t tick) const;

  // All threads of the block have come and wait.
  void barrier_of_all();
  // The lanes of `mask` have come and wait.
  void sync_lanes(int warp, uint32_t mask);
  // `into` gets to know what the thread knows and did.
  void release(int thread, Clock& into);
  void acquire(int thread, const Clock& from);

  // A task that knows what the thread knows. It has a number and a clock of its own.
  int start_task(int thread, Clock& clock);
  // The thread gets to know what the task knows and did.
  void acquire_task(int thread, int task, const Clock& clock);
  void release_task(int task, const Clock& clock, Clock& into);

  // A fence for the whole device. An atomic access of a word publishes what lies before the thread's last fence, or
  // gets to know what was published there. As kernels use them, an update does both: the block that counts itself the
  // last one reads what others wrote.
  void fence(int thread);
  void publish_at(int thread, uint64_t address);
  void acquire_at(int thread, uint64_t address);

 private:
  bool known_elsewhere(uint32_t tick, int actor, const Clock& clock) const;
  Clock& current(int thread);
  void join(Clock& into, const Clock& from);
  uint32_t tick();

  uint32_t tick_ = 0, grid_ = 0, block_ = 0, base_ = 0;
  bool crossed_ = false;  // whether threads of different warps were ordered since base_
  bool tasks_used_ = false;
  int count_ = 0, next_task_ = 0;
  std::vector<Clock> clocks_;  // of threads
  uint32_t ticks_[ACTORS] = {};
  std::vector<uint32_t> blocks_;  // when each block of the grid began
  std::vector<std::shared_ptr<const Clock>> fences_;  // of threads
  struct Atomic {
    uint64_t address;
    std::vector<std::shared_ptr<const Clock>> published;
  };
  Atomic& at(uint64_t address);
  std::vector<Atomic> atomics_;
};

}  // namespace sim
