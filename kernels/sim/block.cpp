#include "block.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "async.h"
#include "checker.h"
#include "collective.h"
#include "counters.h"
#include "fiber.h"
#include "watch.h"
#include "regions.h"
#include "wgmma.h"

SimThread sim_thread;

namespace sim {
namespace {

constexpr int MAX_WARPS = MAX_THREADS / LANES;
constexpr int MAX_SHARED_ARRAYS = 64;
constexpr int REPORTED_THREADS = 8;
constexpr int BARRIERS = 16;
constexpr uint32_t COPY_BYTES = 16;    // that one copy writes
constexpr int MOST_SPINS = 1 << 20;  // rounds of loops that wait, in one block
constexpr size_t SHARED_GAP = 128;  // between static arrays, so that none borders on another

// A copy from global to shared memory that was started and may not be over.
struct Copy {
  void* to;
  const void* from;
  uint32_t bytes;
  uint32_t group;
};

struct Thread {
  SimThread index;
  Stack stack;
  void* sp;
  bool done;
  std::vector<Copy> copies;
  uint32_t group;  // which the next copy belongs to
  // Where it waits, for reports.
  const char* what;
  const char* file;
  int line;
};

// Some threads of a block (those that can run, say), as a bit set.
class Threads {
 public:
  void reset(int threads) { words_ = (threads + 63) / 64, std::fill_n(bits_, words_, 0); }
  void set(int i) { bits_[i / 64] |= uint64_t{1} << i % 64; }
  void clear(int i) { bits_[i / 64] &= ~(uint64_t{1} << i % 64); }
  int count() const {
    int sum = 0;
    for (int w = 0; w < words_; w++) sum += __builtin_popcountll(bits_[w]);
    return sum;
  }
  void add(const Threads& other) {
    for (int w = 0; w < words_; w++) bits_[w] |= other.bits_[w];
  }

  // The first one at or after `start`, around the end; -1 if there is none.
  int from(int start) const {
    for (int k = 0; k <= words_; k++) {
      int w = (start / 64 + k) % words_;
      uint64_t word = bits_[w];
      if (k == 0) word &= ~uint64_t{0} << start % 64;
      if (word) return w * 64 + __builtin_ctzll(word);
    }
    return -1;
  }

  int last() const {
    for (int w = words_ - 1; w >= 0; w--)
      if (bits_[w]) return w * 64 + 63 - __builtin_clzll(bits_[w]);
    return -1;
  }

 private:
  int words_ = 0;
  uint64_t bits_[MAX_THREADS / 64];
};

// The lanes of one warp that wait in one collective. A warp can have several at once, with disjoint masks, so a
// group is filed under the lowest lane of its mask.
struct Group {
  int arrived = 0;
  uint32_t mask;
  SimCollective op;
  const char* file;
  int line;
  SimLane* lanes[LANES];
};

// A barrier: of the whole block (0) or of as many threads as its callers say.
struct Barrier {
  int arrived = 0, expected = 0;
  Threads waiting;
  checker::Handover handover;  // what those knew who came
};

struct SharedArray {
  const void* key;
  void* memory;
};

// The block that runs now. There is one: blocks run one after another, grids under the driver's lock.
struct Block {
  std::vector<std::unique_ptr<Thread>> threads;  // kept from block to block; the first `count` are in use
  int count, live, current, spins;
  Threads ready;
  Barrier barriers[BARRIERS];
  Group groups[MAX_WARPS][LANES];
  unsigned char *dynamic_shared, *static_shared, *static_end;
  size_t dynamic_bytes;
  SharedArray arrays[MAX_SHARED_ARRAYS];
  int array_count;
  size_t array_bytes;

  const Kernel* kernel;
  void** arguments;
  Settings settings;
  uint64_t random;
  void* host_sp;  // where run_grid waits
  const void* collective_place;
  bool failed;
  Regions regions;
};

Block& block = *new Block;  // never destroyed: a process may end while a module still refers to it

}  // namespace

int current_thread() { return block.current; }
int thread_count() { return block.count; }
size_t dynamic_shared_bytes() { return block.dynamic_bytes; }
unsigned char* shared_memory() { return block.dynamic_shared; }
const void* collective_place() { return block.collective_place; }
const Settings& current_settings() { return block.settings; }

bool is_shared(const void* address, size_t bytes) {
  auto* start = static_cast<const unsigned char*>(address);
  auto within = [&](const unsigned char* from, const unsigned char* to) {
    return start >= from && start <= to && bytes <= static_cast<size_t>(to - start);
  };
  return within(block.dynamic_shared, block.dynamic_shared + block.dynamic_bytes) ||
         within(block.static_shared, block.static_end);
}

const Kernel& current_kernel() { return *block.kernel; }
Regions& current_regions() { return block.regions; }

uint64_t next_random() {  // xorshift64
  uint64_t& r = block.random;
  r ^= r << 13, r ^= r >> 7, r ^= r << 17;
  return r;
}

namespace {

int pick_ready() {
  switch (block.settings.schedule) {
    case Schedule::Lowest: return block.ready.from(0);
    case Schedule::Highest: return block.ready.last();
    case Schedule::Round: return block.ready.from((block.current + 1) % block.count);
    case Schedule::Random: return block.ready.from(next_random() % block.count);
  }
  return -1;
}

// Who runs next; -1 if nobody can. The TMA engine gets on when all threads wait: a copy is over at the last moment
// that it may. The random schedule lets it be over at any.
int pick() {
  if (block.settings.schedule == Schedule::Random && engine_busy() && next_random() % 64 == 0) engine_step();
  int next = pick_ready();
  while (next < 0 && engine_step()) next = pick_ready();
  return next;
}

// Makes `next` the one that runs, for everybody who asks.
void set_current(int next) {
  block.current = next;
  sim_thread = block.threads[next]->index;
  watch.stack = block.threads[next]->stack.start();
}

void switch_to(int next) {
  if (next == block.current) return;
  void** save = &block.threads[block.current]->sp;
  set_current(next);
  sim_switch(save, block.threads[next]->sp);
}

}  // namespace

[[noreturn]] void fail(const std::string& message) {
  fprintf(stderr, "simulated GPU: kernel %s, block (%u, %u, %u): %s\n", block.kernel->name.c_str(), sim_thread.block.x,
          sim_thread.block.y, sim_thread.block.z, message.c_str());
  int waiting = 0, exited = 0;
  for (int i = 0; i < block.count; i++) {
    Thread& t = *block.threads[i];
    if (t.done) exited++;
    else if (t.what && waiting++ < REPORTED_THREADS)
      fprintf(stderr, "  thread %d waits in %s at %s:%d\n", i, t.what, t.file, t.line);
  }
  if (waiting > REPORTED_THREADS) fprintf(stderr, "  and %d threads more\n", waiting - REPORTED_THREADS);
  if (exited) fprintf(stderr, "  %d threads have returned\n", exited);
  block.failed = true;
  void* abandoned;
  sim_switch(&abandoned, block.host_sp);
  __builtin_unreachable();
}

std::string place(const char* file, int line) { return std::string(file) + ":" + std::to_string(line); }

void wait_in(const char* what, const char* file, int line) {
  Thread& me = *block.threads[block.current];
  me.what = what, me.file = file, me.line = line;
}

void wait_over() { block.threads[block.current]->what = nullptr; }

void make_ready(int thread) { block.ready.set(thread); }

void block_here() {
  block.ready.clear(block.current);
  int next = pick();
  if (next < 0) fail("deadlock: no thread can run" + mbarriers());
  switch_to(next);
}

void yield() { switch_to(pick()); }

namespace {

[[noreturn]] void thread_main() {
  block.kernel->invoke(block.arguments);
  sim_copy_commit();
  sim_copy_wait(0);
  async_thread_returns();
  wgmma_thread_returns();
  Thread& me = *block.threads[block.current];
  me.done = true;
  block.ready.clear(block.current);
  void* abandoned;
  if (block.live == 1) async_block_ends(), wgmma_block_ends();
  if (--block.live == 0) sim_switch(&abandoned, block.host_sp);
  int next = pick();
  if (next < 0) fail("deadlock: threads have returned that others wait for" + mbarriers());
  switch_to(next);
  __builtin_unreachable();
}

SimIndex unflatten(unsigned i, SimIndex dims) { return {i % dims.x, i / dims.x % dims.y, i / dims.x / dims.y}; }

// Runs the block at `position` to its end, from fresh shared memory.
bool run_block(SimIndex position, SimIndex grid, SimIndex dims, size_t dynamic_shared) {
  block.dynamic_bytes = dynamic_shared;
  memset(block.dynamic_shared, 0xff, dynamic_shared);
  memset(block.static_shared, 0xff, STATIC_ARENA_BYTES);
  block.static_end = block.static_shared;
  block.array_count = 0, block.array_bytes = 0;
  for (Barrier& barrier : block.barriers) {
    barrier.arrived = 0;
    barrier.waiting.reset(block.count);
  }
  for (int warp = 0; warp * LANES < block.count; warp++)
    for (Group& g : block.groups[warp]) g.arrived = 0;
  block.ready.reset(block.count);
  for (int i = 0; i < block.count; i++) {
    Thread& t = *block.threads[i];
    t.index = {unflatten(i, dims), position, dims, grid};
    t.sp = t.stack.prepare(thread_main);
    t.done = false;
    t.copies.clear();
    t.group = 0;
    t.what = nullptr;
    block.ready.set(i);
  }
  async_block_begins();
  wgmma_block_begins();
  block.live = block.count;
  block.spins = 0;
  if (block.settings.instrumented()) {
    block.regions.block_begins(block.dynamic_shared, dynamic_shared, block.static_shared);
    checker::block_begins(position, block.count);
  }
  block.current = 0;
  set_current(pick());
  sim_switch(&block.host_sp, block.threads[block.current]->sp);
  return !block.failed;
}

// The order blocks run in is the schedule's too: nothing may depend on it.
std::vector<unsigned> block_order(unsigned blocks) {
  std::vector<unsigned> order(blocks);
  std::iota(order.begin(), order.end(), 0u);
  if (block.settings.schedule == Schedule::Highest) std::reverse(order.begin(), order.end());
  if (block.settings.schedule == Schedule::Random)
    for (unsigned i = blocks; i > 1; i--) std::swap(order[i - 1], order[next_random() % i]);
  return order;
}

}  // namespace

bool run_grid(const Kernel& kernel, SimIndex grid, SimIndex dims, size_t dynamic_shared, void** arguments,
              Memory& memory, const Settings& settings) {
  static std::unique_ptr<unsigned char, void (*)(void*)> shared(
      static_cast<unsigned char*>(aligned_alloc(1024, DYNAMIC_SHARED_BYTES + 1024 + STATIC_ARENA_BYTES)), free);
  block.dynamic_shared = shared.get();
  block.static_shared = shared.get() + DYNAMIC_SHARED_BYTES + 1024;
  block.kernel = &kernel;
  block.arguments = arguments;
  block.settings = settings;
  if (!block.random) block.random = settings.seed * 0x9e3779b97f4a7c15ull + 1;
  block.failed = false;
  block.count = dims.x * dims.y * dims.z;
  while (block.threads.size() < static_cast<size_t>(block.count)) block.threads.push_back(std::make_unique<Thread>());
  bool watched = settings.instrumented();
  if (watched) {
    block.regions.grid_begins(kernel, arguments, memory);
    checker::grid_begins(settings);
    counters::grid_begins(settings, uint64_t{grid.x} * grid.y * grid.z);
  }
  watch.check = settings.races || settings.bounds;
  watch.count = counters::on;
  for (unsigned b : block_order(grid.x * grid.y * grid.z))
    if (!run_block(unflatten(b, grid), grid, dims, dynamic_shared)) break;
    else if (counters::on) counters::block_ends();
  watch.check = watch.count = false;
  if (counters::on) counters::grid_ends();
  bool sound = !watched || checker::grid_ends();
  return sound && !block.failed;
}

}  // namespace sim

using namespace sim;

// All have come to the barrier: those who wait get to know what came before. That all threads wait is the usual case.
static void hand_over(Barrier& barrier) {
  if (barrier.waiting.count() == block.count) {
    checker::barrier_of_all();
  } else {
    barrier.handover.release();
    for (int t = barrier.waiting.from(0), last = barrier.waiting.last(); t >= 0; t = t < last ? barrier.waiting.from(t + 1) : -1)
      barrier.handover.acquire(t);
  }
  barrier.handover.clear();
}

// Stricter than the hardware: a thread that has returned does not count as arrived.
void sim_barrier(unsigned id, unsigned threads, bool wait, const char* file, int line) {
  wait_in(id == 0 ? "__syncthreads" : "a named barrier", file, line);
  if (counters::on) counters::instruction("barrier", 1, __builtin_return_address(0));
  if (id >= BARRIERS) fail("barrier " + std::to_string(id) + " at " + place(file, line) + ": there are 16");
  int expected = threads == 0 ? block.count : static_cast<int>(threads);
  if (expected % LANES != 0 || expected > block.count)
    fail("barrier " + std::to_string(id) + " at " + place(file, line) + " is for " + std::to_string(expected) +
         " threads: expected a multiple of 32 up to the block's " + std::to_string(block.count));
  Barrier& barrier = block.barriers[id];
  if (barrier.arrived > 0 && barrier.expected != expected)
    fail("barrier " + std::to_string(id) + " at " + place(file, line) + " is for " + std::to_string(expected) +
         " threads, but others came to it for " + std::to_string(barrier.expected));
  barrier.expected = expected;
  if (wait) barrier.waiting.set(block.current);
  if (++barrier.arrived < expected) {
    if (checker::races) barrier.handover.release();
    if (wait) block_here();
  } else {
    if (checker::races) hand_over(barrier);
    barrier.arrived = 0;
    block.ready.add(barrier.waiting);
    barrier.waiting.reset(block.count);
    yield();
  }
  wait_over();
}

// Others of the block go on in turn, whatever the schedule prefers. Blocks run one after another, so a word that those
// have not written when they can do no more is one that only a later block would write: on a GPU, a deadlock unless
// both happen to run at once.
void sim_spin(const char* file, int line) {
  wait_in("a loop for a word of memory", file, line);
  while (engine_step()) {
  }
  block.spins++;
  int next = block.ready.from((block.current + 1) % block.count);
  if (next == block.current || block.spins > MOST_SPINS)
    fail("deadlock: no thread that can run, and no block before, writes what a loop waits for" + mbarriers());
  switch_to(next);
  wait_over();
}

void sim_reduce_add(float* to, const float* values, int count, const char* file, int line) {
  size_t bytes = count * sizeof(float);
  const void* here = __builtin_return_address(0);
  if (reinterpret_cast<uint64_t>(to) % bytes != 0) fail("a reduction at an address that is not aligned at " + place(file, line));
  if (watch.check)
    checker::access(reinterpret_cast<uint64_t>(to), bytes, checker::WRITE | checker::ATOMIC, true, here);
  if (watch.count) counters::access(reinterpret_cast<uint64_t>(to), bytes, true, true, here);
  for (int i = 0; i < count; i++) to[i] += values[i];
}

void sim_collective(SimCollective op, uint32_t mask, SimLane* lane, const char* file, int line) {
  int warp = block.current / LANES, me = block.current % LANES;
  if (counters::on) counters::instruction(name_of(op), 1, __builtin_return_address(0));
  wait_in(name_of(op), file, line);
  if (!(mask >> me & 1)) fail("lane " + std::to_string(me) + " is not in the mask it calls " + name_of(op) + " with");
  Group& g = block.groups[warp][__builtin_ctz(mask)];
  if (g.arrived == 0) {
    g.mask = mask, g.op = op, g.file = file, g.line = line;
  } else if (g.mask != mask || g.op != op || g.line != line || strcmp(g.file, file) != 0) {
    fail("divergent warp: lane " + std::to_string(me) + " calls " + name_of(op) + " at " + place(file, line) +
         " while others of warp " + std::to_string(warp) + " wait in " + name_of(g.op) + " at " +
         place(g.file, g.line));
  }
  g.lanes[me] = lane;
  if (++g.arrived < __builtin_popcount(mask)) {
    block_here();
  } else {
    g.arrived = 0;
    if (op == SIM_SYNCWARP && checker::races) checker::sync_lanes(warp, mask);
    block.collective_place = __builtin_return_address(0);
    std::string wrong = compute(op, mask, g.lanes);
    if (!wrong.empty()) fail(wrong);
    for (int l = 0; l < LANES; l++)
      if (mask >> l & 1) block.ready.set(warp * LANES + l);
    yield();
  }
  wait_over();
}

void* sim_shared(const void* key, size_t bytes, const char* name) {
  for (int i = 0; i < block.array_count; i++)
    if (block.arrays[i].key == key) return block.arrays[i].memory;
  block.array_bytes += (bytes + 15) / 16 * 16;
  if (block.array_count == MAX_SHARED_ARRAYS || block.array_bytes > STATIC_SHARED_BYTES)
    fail("more than 48 KiB or 64 arrays of static shared memory");
  // The driver refuses such a launch; here a kernel's arrays are known when it comes to them.
  size_t most = block.kernel->limit_set ? block.settings.shared_bytes : STATIC_SHARED_BYTES;
  if (block.array_bytes + dynamic_shared_bytes() > most)
    fail("static and dynamic shared memory are " + std::to_string(block.array_bytes + dynamic_shared_bytes()) +
         " bytes, more than the " + std::to_string(most) + " that the function may have");
  unsigned char* memory = block.static_end;
  block.static_end += (bytes + 127) / 128 * 128 + SHARED_GAP;
  block.arrays[block.array_count++] = {key, memory};
  if (block.settings.instrumented()) block.regions.add_array(name, memory, bytes);
  return memory;
}

uint32_t sim_shared_address(const void* pointer, const char* file, int line) {
  if (!is_shared(pointer, 0)) fail("an address that is not in shared memory" + std::string(" at ") + place(file, line));
  return static_cast<uint32_t>(static_cast<const unsigned char*>(pointer) - block.dynamic_shared);
}

void* sim_dynamic_shared() { return block.dynamic_shared; }

static void run(const Copy& copy) {
  memcpy(copy.to, copy.from, copy.bytes);
  memset(static_cast<unsigned char*>(copy.to) + copy.bytes, 0, COPY_BYTES - copy.bytes);
}

// The copies of a thread that are over stay listed until its wait: only then is it known that they are.
void sim_copy(void* to, const void* from, uint32_t bytes) {
  const void* here = __builtin_return_address(0);
  if (watch.check) checker::copy_begins(to, from, bytes, here);
  if (watch.count) {
    counters::instruction("cp.async", 1, here);
    if (bytes) counters::access(reinterpret_cast<uint64_t>(from), bytes, false, bytes == COPY_BYTES, here);
    counters::access(reinterpret_cast<uint64_t>(to), COPY_BYTES, true, true, here);
  }
  Thread& me = *block.threads[block.current];
  me.copies.push_back({to, from, bytes, me.group});
  if (block.settings.early) run(me.copies.back());
  else memset(to, 0xff, COPY_BYTES);  // NaN, until the wait
}

void sim_instruction(const char* name) {
  if (counters::on) counters::instruction(name, 1, __builtin_return_address(0));
}

void sim_copy_commit() { block.threads[block.current]->group++; }

void sim_copy_wait(uint32_t newest) {
  Thread& me = *block.threads[block.current];
  auto over = [&](const Copy& copy) { return copy.group + newest < me.group; };
  for (const Copy& copy : me.copies)
    if (over(copy)) {
      if (!block.settings.early) run(copy);
      if (watch.check) checker::copy_ends(copy.to);
    }
  me.copies.erase(std::remove_if(me.copies.begin(), me.copies.end(), over), me.copies.end());
}
