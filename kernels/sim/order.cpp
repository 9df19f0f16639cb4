#include "order.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace sim {

uint32_t Order::tick() {
  if (++tick_ == ~0u) {
    fprintf(stderr, "simulated GPU: the checker's clock has run out: check less in one process\n");
    abort();
  }
  return tick_;
}

void Order::grid_begins() {
  grid_ = tick();
  blocks_.clear();
  atomics_.clear();
}

void Order::block_begins(int threads) {
  count_ = threads;
  if (clocks_.size() < static_cast<size_t>(threads)) clocks_.resize(threads);
  block_ = base_ = tick();
  blocks_.push_back(block_);
  crossed_ = tasks_used_ = false;
  fences_.assign(threads, nullptr);
}

int Order::block_of(uint32_t tick) const {
  return static_cast<int>(std::upper_bound(blocks_.begin(), blocks_.end(), tick) - blocks_.begin()) - 1;
}

// Another block began before `tick` and published a clock that reaches as far.
bool Order::known_elsewhere(uint32_t tick, int actor, const Clock& clock) const {
  for (auto& other : clock.others)
    if (tick >= other->block && (tick < other->base || tick <= other->known[actor])) return true;
  return false;
}

// A clock of an earlier block is emptied when its thread first needs it. What it knows of actors may stay: all of it
// is older than the block.
Clock& Order::current(int thread) {
  Clock& clock = clocks_[thread];
  if (clock.block != block_) {
    clock.block = block_;
    clock.others.clear();
  }
  clock.base = base_;
  return clock;
}

static void add_other(Clock& into, const std::shared_ptr<const Clock>& other) {
  if (std::find(into.others.begin(), into.others.end(), other) == into.others.end()) into.others.push_back(other);
}
static void add_others(Clock& into, const Clock& from) {
  for (auto& other : from.others) add_other(into, other);
}

void Order::join(Clock& into, const Clock& from) {
  if (from.block != block_) return;  // all of it is known already
  into.base = std::max(into.base, from.base);
  for (int a = 0; a < count_; a++) into.known[a] = std::max(into.known[a], from.known[a]);
  if (tasks_used_)
    for (int a = MAX_THREADS; a < ACTORS; a++) into.known[a] = std::max(into.known[a], from.known[a]);
  if (!from.others.empty()) add_others(into, from);
}

void Order::barrier_of_all() {
  Clock& first = current(0);
  bool others = false;
  for (int t = 0; t < count_; t++) others |= !current(t).others.empty();
  if (tasks_used_ || others) {
    for (int t = 1; t < count_; t++) {
      for (int a = MAX_THREADS; a < ACTORS; a++) first.known[a] = std::max(first.known[a], clocks_[t].known[a]);
      add_others(first, clocks_[t]);
    }
    for (int t = 1; t < count_; t++) {
      std::copy(first.known + MAX_THREADS, first.known + ACTORS, clocks_[t].known + MAX_THREADS);
      clocks_[t].others = first.others;
    }
  }
  base_ = tick();
  crossed_ = false;
}

void Order::sync_lanes(int warp, uint32_t mask) {
  // Unless threads of other warps were ordered with these, lanes know of each other alone.
  int start = crossed_ ? 0 : warp * 32, end = crossed_ ? count_ : start + 32;
  int first = warp * 32 + __builtin_ctz(mask);
  Clock& joined = current(first);
  auto others = [&](auto body) {
    for (uint32_t rest = mask & (mask - 1); rest; rest &= rest - 1) body(warp * 32 + __builtin_ctz(rest));
  };
  joined.known[first] = now(first);
  others([&](int lane) {
    Clock& clock = current(lane);
    clock.known[lane] = now(lane);
    for (int a = start; a < end; a++) joined.known[a] = std::max(joined.known[a], clock.known[a]);
    if (tasks_used_)
      for (int a = MAX_THREADS; a < ACTORS; a++) joined.known[a] = std::max(joined.known[a], clock.known[a]);
    add_others(joined, clock);
  });
  others([&](int lane) {
    Clock& clock = clocks_[lane];
    std::copy(joined.known + start, joined.known + end, clock.known + start);
    if (tasks_used_) std::copy(joined.known + MAX_THREADS, joined.known + ACTORS, clock.known + MAX_THREADS);
    if (!joined.others.empty()) clock.others = joined.others;
  });
  uint32_t next = tick();
  for (uint32_t rest = mask; rest; rest &= rest - 1) ticks_[warp * 32 + __builtin_ctz(rest)] = next;
}

void Order::release(int thread, Clock& into) {
  if (into.block != block_) into = Clock{block_, 0, {}, {}};
  Clock& clock = current(thread);
  clock.known[thread] = now(thread);
  join(into, clock);
  ticks_[thread] = tick();
}

void Order::acquire(int thread, const Clock& from) {
  join(current(thread), from);
  crossed_ = true;
}

int Order::start_task(int thread, Clock& clock) {
  tasks_used_ = true;
  clock = Clock{};
  release(thread, clock);
  int task = MAX_THREADS + next_task_++ % TASKS;
  ticks_[task] = tick();
  return task;
}

void Order::acquire_task(int thread, int task, const Clock& clock) {
  Clock& mine = current(thread);
  join(mine, clock);
  mine.known[task] = std::max(mine.known[task], ticks_[task]);
  crossed_ = true;
}

void Order::release_task(int task, const Clock& clock, Clock& into) {
  if (into.block != block_) into = Clock{block_, 0, {}, {}};
  join(into, clock);
  into.known[task] = std::max(into.known[task], ticks_[task]);
}

void Order::fence(int thread) {
  auto published = std::make_shared<Clock>(current(thread));
  published->known[thread] = now(thread);
  fences_[thread] = published;
  ticks_[thread] = tick();
}

Order::Atomic& Order::at(uint64_t address) {
  auto it = std::find_if(atomics_.begin(), atomics_.end(), [&](const Atomic& a) { return a.address == address; });
  return it != atomics_.end() ? *it : *atomics_.insert(atomics_.end(), {address, {}});
}

void Order::acquire_at(int thread, uint64_t address) {
  Clock& mine = current(thread);
  for (auto& clock : at(address).published) {
    if (clock->block == block_) {
      acquire(thread, *clock);
    } else {
      add_other(mine, clock);
      add_others(mine, *clock);
    }
  }
}

void Order::publish_at(int thread, uint64_t address) {
  if (!fences_[thread]) return;
  auto& published = at(address).published;
  if (std::find(published.begin(), published.end(), fences_[thread]) == published.end())
    published.push_back(fences_[thread]);
}

}  // namespace sim
