#include "async.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "block.h"
#include "checker.h"
#include "memory.h"
#include "tensor_map.h"

namespace sim {
namespace {

constexpr uint32_t MOST_ARRIVALS = (1u << 20) - 1;
constexpr int64_t MOST_BYTES = (1 << 20) - 1;
constexpr uint64_t TAG = 0x7265'6972'7261'626d;  // lies in the object while it is one

constexpr const char *LOAD = "a TMA load", *STORE = "a TMA store";

// An mbarrier object. The kernel's own eight bytes hold the tag; its state is here.
struct Mbarrier {
  uint64_t* object;
  uint32_t count, pending;  // arrivals of a phase, and those still missing in this one
  int64_t bytes;            // announced and not yet copied
  uint32_t phase;  // its parity
  int owner;    // the thread that initialised it
  bool fenced;  // whether the engine may know of it
  std::vector<int> waiting;
  // What those knew who arrived, in phases of each parity: two may be waited for at the same time.
  checker::Handover known[2];

  bool complete() const { return pending == 0 && bytes == 0; }
};

struct Place {
  const char* file;
  int line;
};

// A tile on its way, in either direction.
struct Tile {
  SimTensorMap map;
  unsigned char* shared;
  int x, y;
  Place place;

  uint32_t row_bytes() const { return uint32_t{map.box[0]} * map.element_bytes; }
  uint32_t bytes() const { return row_bytes() * map.box[1]; }
};

struct Load {
  Tile tile;
  Mbarrier* barrier;
  checker::Task task;
};

struct Store {
  Tile tile;
  int thread;
  uint32_t group;
  checker::Task reading, writing;
  std::vector<unsigned char> read;  // the tile's bytes, once they have been read
};

struct Engine {
  std::vector<std::unique_ptr<Mbarrier>> barriers;
  std::vector<Load> loads;
  std::vector<Store> stores;
  uint32_t groups[MAX_THREADS];  // which a thread's next store belongs to
};

Engine& engine = *new Engine;  // never destroyed: see block.cpp

std::string at(Place place) { return " at " + sim::place(place.file, place.line); }

// ---- mbarrier objects ----

Mbarrier& find(void* object, Place place) {
  for (auto& barrier : engine.barriers) {
    if (barrier->object != object) continue;
    if (*barrier->object != TAG) fail("the bytes of an mbarrier were overwritten before its use" + at(place));
    return *barrier;
  }
  fail("an mbarrier is used before it is initialised" + at(place));
}

// Ends the phase if nothing is missing in it.
void advance(Mbarrier& barrier) {
  if (!barrier.complete()) return;
  for (int thread : barrier.waiting) {
    make_ready(thread);
    if (checker::races) barrier.known[barrier.phase].acquire(thread);
  }
  barrier.phase ^= 1;
  barrier.known[barrier.phase].clear();
  barrier.pending = barrier.count;
  barrier.waiting.clear();
}

void add_bytes(Mbarrier& barrier, int64_t bytes, Place place) {
  barrier.bytes += bytes;
  if (barrier.bytes < -MOST_BYTES || barrier.bytes > MOST_BYTES)
    fail("an mbarrier expects " + std::to_string(barrier.bytes) + " bytes" + at(place) + ": at most 2^20 - 1");
}

// ---- tiles ----

// Where byte `offset` of a tile lies in shared memory: the 16-byte chunks of a row change places by its number.
unsigned char* swizzled(const Tile& tile, uint32_t offset) {
  uint64_t address = tile.shared - shared_memory() + offset;
  uint64_t bits = (1u << tile.map.swizzle) - 1;  // 0, 1, 3 or 7: chunks of 16 bytes in 16, 32, 64 or 128
  return shared_memory() + (address ^ (address >> 7 & bits) << 4);
}

Tile make_tile(const void* map, void* shared, int x, int y, const char* what, Place place) {
  Tile tile{{}, static_cast<unsigned char*>(shared), x, y, place};
  memcpy(&tile.map, map, sizeof tile.map);
  auto refuse = [&](const std::string& why) { fail(std::string(what) + at(place) + ": " + why); };
  if (tile.map.magic != SimTensorMap::MAGIC) refuse("the tensor map is not one that cuTensorMapEncodeTiled made");
  if (tile.map.rank != 2) refuse("the tensor map has " + std::to_string(tile.map.rank) + " dimensions, not two");
  if (tile.map.element_strides[0] != 1 || tile.map.element_strides[1] != 1 || tile.map.interleave != 0)
    refuse("element strides and interleaving are not simulated");
  if (tile.map.swizzle > 3) refuse("swizzle mode " + std::to_string(tile.map.swizzle) + " is not simulated");
  if (tile.map.swizzle > 0 && tile.row_bytes() != 16u << tile.map.swizzle)
    refuse("a swizzled tile whose rows are not as wide as the swizzle is not simulated");
  if (!is_shared(shared, tile.bytes())) refuse("the tile does not lie in shared memory");
  if ((tile.shared - shared_memory()) % 128 != 0) refuse("the tile's shared memory is not aligned to 128 bytes");
  // Stricter than the hardware, for which the swizzle goes by the address and not by the tile.
  if (tile.map.swizzle > 0 && (tile.shared - shared_memory()) % (128u << tile.map.swizzle) != 0)
    refuse("the tile's shared memory is not aligned to where its swizzle repeats, " +
           std::to_string(128u << tile.map.swizzle) + " bytes");
  return tile;
}

// Calls move(shared, global, bytes) for each element that lies in the tensor, and outside(shared, bytes) for each
// that does not: row after row, column after column.
template <class Move, class Outside>
void for_each_element(const Tile& tile, const char* what, Move move, Outside outside) {
  const SimTensorMap& map = tile.map;
  const uint32_t element = map.element_bytes;
  // The tile's columns from `first` to before `end` lie in the tensor, if its row does.
  const int64_t width = map.box[0], first = std::clamp<int64_t>(-int64_t{tile.x}, 0, width);
  const int64_t end = std::clamp<int64_t>(int64_t{map.last[0]} + 1 - tile.x, first, width);
  for (uint32_t row = 0; row < map.box[1]; row++) {
    int64_t y = int64_t{tile.y} + row;
    bool in_tensor = y >= 0 && y <= int64_t{map.last[1]} && first < end;
    uint64_t global = map.address + y * map.strides[0] + int64_t{tile.x} * element;
    if (in_tensor && !device_memory()->contains(global + first * element, (end - first) * element))
      fail(std::string(what) + at(tile.place) + ": the tensor map reaches beyond its buffer");
    for (int64_t column = 0; column < width; column++) {
      unsigned char* shared = swizzled(tile, row * tile.row_bytes() + column * element);
      if (in_tensor && column >= first && column < end)
        move(shared, reinterpret_cast<unsigned char*>(global + column * element), element);
      else
        outside(shared, element);
    }
  }
}

void run(Load& load) {
  auto move = [&](unsigned char* to, unsigned char* from, uint32_t bytes) {
    load.task.read(from, bytes);
    load.task.write(to, bytes);
    memcpy(to, from, bytes);
  };
  auto fill = [&](unsigned char* to, uint32_t bytes) {
    load.task.write(to, bytes);
    memset(to, load.tile.map.nan_fill ? 0xff : 0, bytes);
  };
  for_each_element(load.tile, LOAD, move, fill);
  load.task.release(load.barrier->known[load.barrier->phase]);
  add_bytes(*load.barrier, -int64_t{load.tile.bytes()}, load.tile.place);
  advance(*load.barrier);
}

void read(Store& store) {
  if (!store.read.empty()) return;
  for (uint32_t offset = 0; offset < store.tile.bytes(); offset++) {
    const unsigned char* from = swizzled(store.tile, offset);
    if (offset % 16 == 0) store.reading.read(from, 16);  // swizzles move these whole
    store.read.push_back(*from);
  }
}

void write(Store& store) {
  read(store);
  // In the order of for_each_element.
  const unsigned char* next = store.read.data();
  auto move = [&](unsigned char*, unsigned char* to, uint32_t bytes) {
    store.writing.write(to, bytes);
    memcpy(to, next, bytes);
    next += bytes;
  };
  for_each_element(store.tile, STORE, move, [&](unsigned char*, uint32_t bytes) { next += bytes; });
}

}  // namespace

void async_block_begins() {
  engine.barriers.clear();
  engine.loads.clear();
  engine.stores.clear();
  std::fill_n(engine.groups, MAX_THREADS, 0);
}

void async_thread_returns() {
  int me = current_thread();
  for (Store& store : engine.stores) {
    if (store.thread != me) continue;
    if (store.read.empty())
      fail("thread " + std::to_string(me) + " returns without waiting until its TMA store" + at(store.tile.place) +
           " has read shared memory");
    write(store);
  }
  auto mine = [&](const Store& store) { return store.thread == me; };
  engine.stores.erase(std::remove_if(engine.stores.begin(), engine.stores.end(), mine), engine.stores.end());
}

void async_block_ends() {
  if (!engine.loads.empty())
    fail("the block ends while its TMA load" + at(engine.loads[0].tile.place) + " may still write shared memory");
}

std::string mbarriers() {
  std::string text;
  for (auto& barrier : engine.barriers)
    if (!barrier->waiting.empty())
      text += "\n  an mbarrier with " + std::to_string(barrier->waiting.size()) + " threads waiting: its phase " +
              std::to_string(barrier->phase) + " misses " + std::to_string(barrier->pending) + " arrivals and " +
              std::to_string(barrier->bytes) + " bytes";
  return text;
}

bool engine_busy() { return !engine.loads.empty(); }

bool engine_step() {
  if (engine.loads.empty()) return false;
  size_t which = 0;
  if (current_settings().schedule == Schedule::Highest) which = engine.loads.size() - 1;
  if (current_settings().schedule == Schedule::Random) which = next_random() % engine.loads.size();
  Load load = std::move(engine.loads[which]);
  engine.loads.erase(engine.loads.begin() + which);
  run(load);
  return true;
}

}  // namespace sim

using namespace sim;

void sim_mbarrier_init(void* object, uint32_t count, const char* file, int line) {
  Place place{file, line};
  auto* bytes = static_cast<uint64_t*>(object);
  if (!is_shared(object, sizeof *bytes) || reinterpret_cast<uintptr_t>(object) % sizeof *bytes != 0)
    fail("an mbarrier" + at(place) + " is not eight aligned bytes of shared memory");
  if (count == 0 || count > MOST_ARRIVALS)
    fail("an mbarrier of " + std::to_string(count) + " arrivals" + at(place) + ": expected 1 to 2^20 - 1");
  for (auto& barrier : engine.barriers)
    if (barrier->object == object) fail("an mbarrier is initialised a second time" + at(place));
  *bytes = TAG;
  engine.barriers.emplace_back(new Mbarrier{bytes, count, count, 0, 0, current_thread(), false, {}, {}});
}

void sim_mbarrier_arrive(void* object, uint32_t expected_bytes, const char* file, int line) {
  Place place{file, line};
  Mbarrier& barrier = find(object, place);
  if (barrier.pending == 0)
    fail("more arrivals at an mbarrier" + at(place) + " than the " + std::to_string(barrier.count) + " of its phase");
  add_bytes(barrier, expected_bytes, place);
  if (checker::races) barrier.known[barrier.phase].release();
  barrier.pending--;
  bool last = barrier.complete() && !barrier.waiting.empty();
  advance(barrier);
  if (last) yield();
}

void sim_mbarrier_wait(void* object, uint32_t parity, const char* file, int line) {
  Mbarrier& barrier = find(object, {file, line});
  if (parity > 1) fail("the parity of an mbarrier's phase" + at({file, line}) + " is 0 or 1");
  while (barrier.phase == parity) {
    wait_in("an mbarrier", file, line);
    barrier.waiting.push_back(current_thread());
    block_here();
  }
  if (checker::races) barrier.known[parity].acquire();
  wait_over();
}

void sim_fence_mbarrier_init() {
  for (auto& barrier : engine.barriers)
    if (barrier->owner == current_thread()) barrier->fenced = true;
}

void sim_fence_async_proxy() {
  sim_fence_mbarrier_init();
  checker::fence_async_proxy();
}

void sim_tma_load_2d(void* to, const void* map, void* object, int x, int y, const char* file, int line) {
  Place place{file, line};
  Mbarrier& barrier = find(object, place);
  if (!barrier.fenced)
    fail(LOAD + at(place) + ": no fence lies between the initialisation of its mbarrier and the engine");
  Load load{make_tile(map, to, x, y, LOAD, place), &barrier, {LOAD, __builtin_return_address(0)}};
  if (current_settings().early) return run(load);
  for (uint32_t offset = 0; offset < load.tile.bytes(); offset++) *swizzled(load.tile, offset) = 0xff;
  engine.loads.push_back(std::move(load));
}

void sim_tma_store_2d(const void* map, const void* from, int x, int y, const char* file, int line) {
  int me = current_thread();
  Tile tile = make_tile(map, const_cast<void*>(from), x, y, STORE, {file, line});
  const void* caller = __builtin_return_address(0);
  Store store{tile, me, engine.groups[me], {STORE, caller}, {STORE, caller}, {}};
  if (current_settings().early) write(store);
  engine.stores.push_back(std::move(store));
}

void sim_tma_store_commit() { engine.groups[current_thread()]++; }

void sim_tma_store_wait(uint32_t newest, bool only_read) {
  int me = current_thread();
  auto over = [&](const Store& store) { return store.thread == me && store.group + newest < engine.groups[me]; };
  for (Store& store : engine.stores) {
    if (!over(store)) continue;
    read(store);
    store.reading.wait(me);
    if (only_read) continue;
    if (!current_settings().early) write(store);
    store.writing.wait(me);
  }
  if (only_read) return;
  engine.stores.erase(std::remove_if(engine.stores.begin(), engine.stores.end(), over), engine.stores.end());
}
