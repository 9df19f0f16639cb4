#include "checker.h"

#include <cstdio>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "collective.h"
#include "order.h"
#include "place.h"
#include "regions.h"

namespace sim {

namespace checker {
bool races;
}

namespace {

constexpr int REPORTS = 8;  // of one launch

// Flags of a cell: which bytes of the granule were written and read, and how.
enum : uint64_t {
  WRITTEN_BYTES = 3,
  READ_BYTES = 3 << 2,
  COPYING = 1 << 4,  // the write is a copy that is not over
  WRITE_ATOMIC = 1 << 5,
  READ_ATOMIC = 1 << 6,
};
constexpr int READ_SHIFT = 2;

uint64_t pack(const void* place) { return reinterpret_cast<uint64_t>(place) << 16; }
const void* place_in(uint64_t packed) { return reinterpret_cast<const void*>(packed >> 16); }
int writer_in(uint64_t packed) { return packed & 0xffff; }
int warp_in(uint64_t packed) { return packed >> 8 & 0xff; }

// Further reads of a cell, as a list.
struct Reads {
  uint64_t read;
  uint32_t tick, lanes, more;
};
class ReadPool {
 public:
  void clear() { nodes_.assign(1, Reads{}), free_ = 0; }
  Reads& operator[](uint32_t i) { return nodes_[i]; }
  uint32_t add(const Reads& reads) {
    uint32_t i = free_;
    if (i) free_ = nodes_[i].more;
    else i = nodes_.size(), nodes_.emplace_back();
    nodes_[i] = reads;
    return i;
  }
  void drop(uint32_t i) { nodes_[i].more = free_, free_ = i; }

 private:
  std::vector<Reads> nodes_{1};
  uint32_t free_ = 0;
};

// Who accesses, as the check needs it.
struct Actor {
  int id;
  uint32_t now;
  const Clock* clock;
  const Clock* seen;  // which writes of threads it may see, if that is asked
};

struct Checker {
  bool bounds = false, proxy = false;
  Order order;
  ReadPool shared_reads, global_reads;
  Clock fenced;  // what the async proxy may see
  std::vector<SimIndex> blocks;
  const char* task_names[TASKS] = {};
  std::set<std::pair<const void*, const void*>> reported;
  bool found = false;
};

Checker& state = *new Checker;

// ---- reports ----

std::string text_of(SimIndex i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

std::string name_of(int actor) {
  return actor < MAX_THREADS ? "thread " + std::to_string(actor) : state.task_names[actor - MAX_THREADS];
}

struct Earlier {
  const char* what;
  int actor;
  uint32_t tick;
  const void* place;
};

void report(uint64_t address, const char* what, const Actor& actor, const void* place, const Earlier& earlier,
            const char* why) {
  state.found = true;
  if (state.reported.size() >= REPORTS || !state.reported.insert({place, earlier.place}).second) return;
  auto places = places_of({place, earlier.place});
  std::string whose = name_of(earlier.actor);
  if (!state.order.in_block(earlier.tick)) whose += " of block " + text_of(state.blocks[state.order.block_of(earlier.tick)]);
  fprintf(stderr,
          "simulated GPU: kernel %s, block %s: race at %s: %s\n"
          "  %s by %s at %s\n"
          "  %s by %s at %s\n",
          current_kernel().name.c_str(), text_of(sim_thread.block).c_str(), current_regions().describe(address).c_str(), why,
          earlier.what, whose.c_str(), places[earlier.place].c_str(), what, name_of(actor.id).c_str(),
          places[place].c_str());
  if (state.reported.size() == REPORTS) fprintf(stderr, "  further races of this launch are not reported\n");
}

// ---- one granule ----

constexpr const char* UNORDERED = "nothing orders these two";
constexpr const char* IN_COPY = "the copy was not waited for";
constexpr const char* UNFENCED = "no fence.proxy.async between these two";

struct Granule {
  Cell& cell;
  ReadPool& pool;
  bool shared;  // whose cells are fresh in each block
  uint64_t address;
  uint64_t bytes;  // a mask: which of the two

  bool counts(uint32_t tick) const { return shared ? state.order.in_block(tick) : state.order.in_grid(tick); }

  void check_against_write(const Actor& actor, unsigned access, const void* place) const {
    if (!(cell.read & WRITTEN_BYTES & bytes) || !counts(cell.write_tick)) return;
    int writer = writer_in(cell.write);
    Earlier earlier{"write", writer, cell.write_tick, place_in(cell.write)};
    const char* what = access & checker::WRITE ? "write" : "read";
    if (cell.read & COPYING) {
      earlier.what = "copy";
      report(address, what, actor, place, earlier, IN_COPY);
    } else if (access & checker::ATOMIC && cell.read & WRITE_ATOMIC) {
      return;
    } else if (!state.order.before(cell.write_tick, writer, actor.id, *actor.clock)) {
      report(address, what, actor, place, earlier, UNORDERED);
    } else if (actor.seen && writer < MAX_THREADS && !state.order.before(cell.write_tick, writer, -1, *actor.seen)) {
      report(address, what, actor, place, earlier, UNFENCED);
    }
  }

  void check_against_reads(const Actor& actor, unsigned access, const void* place) const {
    if (access & checker::ATOMIC && cell.read & READ_ATOMIC) return;
    if (!(cell.read >> READ_SHIFT & bytes)) return;
    Reads reads{cell.read, cell.read_tick, cell.read_lanes, cell.more};
    while (true) {
      if (counts(reads.tick))
        for (uint32_t lanes = reads.lanes; lanes; lanes &= lanes - 1) {
          int reader = warp_in(reads.read) * LANES + __builtin_ctz(lanes);
          if (state.order.before(reads.tick, reader, actor.id, *actor.clock)) continue;
          report(address, "write", actor, place, {"read", reader, reads.tick, place_in(reads.read)}, UNORDERED);
          break;
        }
      if (!reads.more) return;
      reads = pool[reads.more];
    }
  }

  bool has_reads() const { return cell.read_lanes && counts(cell.read_tick); }

  void write(const Actor& actor, unsigned access, const void* place) {
    if (cell.write_tick == actor.now && writer_in(cell.write) == actor.id && !cell.read_lanes &&
        !(cell.read & (COPYING | WRITE_ATOMIC)) && access == checker::WRITE && (cell.read & bytes) == bytes)
      return;
    check_against_write(actor, access, place);
    if (has_reads()) {
      check_against_reads(actor, access, place);
      for (uint32_t i = cell.more; i;) {
        uint32_t next = pool[i].more;
        pool.drop(i);
        i = next;
      }
    }
    cell.write_tick = actor.now;
    cell.write = pack(place) | actor.id;
    cell.read_tick = cell.read_lanes = cell.more = 0;
    cell.read = bytes | (access & checker::ATOMIC ? uint64_t{WRITE_ATOMIC} : 0);
  }

  void read(const Actor& actor, unsigned access, const void* place) {
    uint32_t lane = 1u << actor.id % LANES;
    uint64_t warp = actor.id / LANES, flags = cell.read & 0xff;
    if (cell.read_tick == actor.now && warp_in(cell.read) == static_cast<int>(warp) && cell.read_lanes & lane &&
        (flags >> READ_SHIFT & bytes) == bytes && !(access & checker::ATOMIC))
      return;
    check_against_write(actor, access, place);
    // The next lane of the same instruction, as a rule.
    if (cell.read_tick == actor.now && cell.read_lanes && warp_in(cell.read) == static_cast<int>(warp) &&
        (flags >> READ_SHIFT & bytes) == bytes && !(access & checker::ATOMIC) && !(flags & READ_ATOMIC)) {
      cell.read_lanes |= lane;
      return;
    }
    bool first = !has_reads();
    // Atomic only as long as every read is.
    if (!(access & checker::ATOMIC)) flags &= ~READ_ATOMIC;
    else if (first) flags |= READ_ATOMIC;
    if (first) flags &= ~READ_BYTES, cell.more = 0;
    flags |= bytes << READ_SHIFT;
    Reads now{pack(place) | warp << 8 | flags, actor.now, lane, 0};
    if (!first) keep_reads(now);
    cell.read = now.read;
    cell.read_tick = now.tick;
    cell.read_lanes = now.lanes;
    cell.more = now.more;
  }

 private:
  // Puts the reads so far behind `now`, except for those that a later write cannot race with unless it races with
  // `now` too, and all but one of other blocks.
  void keep_reads(Reads& now) {
    bool other_block = false;
    Reads old{cell.read, cell.read_tick, cell.read_lanes, cell.more};
    uint32_t node = 0;  // where `old` lies; 0: in the cell
    while (true) {
      uint32_t next = old.more;
      bool keep = true;
      if (!state.order.in_block(old.tick)) {
        keep = state.order.in_grid(old.tick) && !other_block;
        other_block |= keep;
      } else if (warp_in(old.read) == warp_in(now.read)) {
        if (old.tick == now.tick) now.lanes |= old.lanes, old.lanes = 0;
        else old.lanes &= ~now.lanes;
        keep = old.lanes != 0;
      }
      if (keep && state.order.in_block(old.tick) && warp_in(old.read) * LANES < MAX_THREADS)
        keep = !state.order.met_since(old.tick) || warp_in(now.read) * LANES >= MAX_THREADS;
      if (keep) {
        old.more = now.more;
        if (node) pool[node] = old, now.more = node;
        else now.more = pool.add(old);
      } else if (node) {
        pool.drop(node);
      }
      if (!next) return;
      node = next;
      old = pool[node];
    }
  }
};

template <class F>
void each_granule(const Region& region, uint64_t address, size_t bytes, F body) {
  bool shared = region.space == Space::Shared;
  ReadPool& pool = shared ? state.shared_reads : state.global_reads;
  uint64_t offset = address - region.start, end = offset + bytes;
  for (uint64_t at = offset; at < end;) {
    uint64_t granule = at / GRANULE, next = std::min(end, (granule + 1) * GRANULE);
    uint64_t mask = (next - at == GRANULE ? 3u : at % GRANULE ? 2u : 1u);
    body(Granule{region.cells[granule], pool, shared, region.start + at, mask});
    at = next;
  }
}

void check(const Actor& actor, const Region& region, uint64_t address, size_t bytes, unsigned access, const void* place) {
  if (access & checker::WRITE)
    each_granule(region, address, bytes, [&](Granule granule) { granule.write(actor, access, place); });
  else
    each_granule(region, address, bytes, [&](Granule granule) { granule.read(actor, access, place); });
}

Actor running() {
  int thread = current_thread();
  return {thread, state.order.now(thread), &state.order.clock(thread), nullptr};
}

// Where the bytes lie; null if nowhere, and nobody minds.
const Region* region_of(uint64_t address, size_t bytes, bool write, bool natural, const void* place) {
  auto wrong = [&](const std::string& what) {
    fail("thread " + std::to_string(current_thread()) + (write ? " writes " : " reads ") + std::to_string(bytes) +
         (bytes == 1 ? " byte " : " bytes ") + what + ": " + current_regions().describe(address) + ", at " +
         place_of(place));
  };
  if (state.bounds && natural && address % bytes != 0) wrong("at an address that is no multiple of that");
  const Region* region = current_regions().find(address, bytes, place);
  if (!region && state.bounds) wrong("out of bounds");
  return region;
}

}  // namespace

namespace checker {

void grid_begins(const Settings& settings) {
  races = settings.races;
  state.bounds = settings.bounds, state.proxy = settings.proxy;
  state.found = false;
  state.reported.clear();
  state.blocks.clear();
  state.global_reads.clear();
  state.order.grid_begins();
}

bool grid_ends() { return !std::exchange(state.found, false); }

void block_begins(SimIndex position, int threads) {
  state.blocks.push_back(position);
  state.shared_reads.clear();
  state.order.block_begins(threads);
}

void access(uint64_t address, size_t bytes, unsigned access, bool natural, const void* place) {
  const Region* region = region_of(address, bytes, access & WRITE, natural, place);
  if (races && region && region->cells) check(running(), *region, address, bytes, access, place);
}

void copy_begins(void* to, const void* from, uint32_t bytes, const void* place) {
  auto target = reinterpret_cast<uint64_t>(to);
  if (bytes) access(reinterpret_cast<uint64_t>(from), bytes, READ, false, place);
  if (state.bounds && reinterpret_cast<uint64_t>(from) % 16 != 0)
    region_of(reinterpret_cast<uint64_t>(from), 16, false, true, place);
  access(target, 16, WRITE, true, place);
  const Region* region = races ? current_regions().find(target, 16, place) : nullptr;
  if (region) each_granule(*region, target, 16, [](Granule granule) { granule.cell.read |= COPYING; });
}

void copy_ends(void* to) {
  auto target = reinterpret_cast<uint64_t>(to);
  const Region* region = races ? current_regions().find(target, 16, to) : nullptr;
  if (!region) return;
  uint32_t now = state.order.now(current_thread());
  each_granule(*region, target, 16, [&](Granule granule) {
    if (writer_in(granule.cell.write) != current_thread()) return;  // somebody else wrote: that was reported
    granule.cell.read &= ~static_cast<uint64_t>(COPYING);
    granule.cell.write_tick = now;
  });
}

void barrier_of_all() {
  if (races) state.order.barrier_of_all();
}
void sync_lanes(int warp, uint32_t mask) {
  if (races) state.order.sync_lanes(warp, mask);
}
void fence() {
  if (races) state.order.fence(current_thread());
}
void updated(uint64_t address) {
  if (!races) return;
  state.order.acquire_at(current_thread(), address);
  state.order.publish_at(current_thread(), address);
}
void acquired(uint64_t address) {
  if (races) state.order.acquire_at(current_thread(), address);
}
void released(uint64_t address) {
  if (!races) return;
  state.order.fence(current_thread());
  state.order.publish_at(current_thread(), address);
}

Handover::Handover() = default;
Handover::~Handover() = default;
Handover::Handover(Handover&&) noexcept = default;
Handover& Handover::operator=(Handover&&) noexcept = default;

void Handover::clear() { clock_.reset(); }
void Handover::release() {
  if (!races) return;
  if (!clock_) clock_ = std::make_unique<Clock>();
  state.order.release(current_thread(), *clock_);
}
void Handover::acquire(int thread) {
  if (races && clock_) state.order.acquire(thread, *clock_);
}
void Handover::acquire() { acquire(current_thread()); }

Task::Task(const char* name, const void* place) : place_(place) {
  if (!races) return;
  clock_ = std::make_unique<Clock>();
  actor_ = state.order.start_task(current_thread(), *clock_);
  state.task_names[actor_ - MAX_THREADS] = name;
  if (state.proxy) seen_ = std::make_unique<Clock>(state.fenced);
}
void Task::started_by(int thread) {
  if (clock_) state.order.release(thread, *clock_);
}
Task::~Task() = default;
Task::Task(Task&&) noexcept = default;
Task& Task::operator=(Task&&) noexcept = default;

void Task::access(uint64_t address, size_t bytes, bool write) {
  if (!clock_) return;
  const Region* region = current_regions().find(address, bytes, place_);
  if (region && region->cells)
    check({actor_, state.order.now(actor_), clock_.get(), seen_.get()}, *region, address, bytes, write ? WRITE : READ, place_);
}
void Task::read(const void* address, size_t bytes) { access(reinterpret_cast<uint64_t>(address), bytes, false); }
void Task::write(void* address, size_t bytes) { access(reinterpret_cast<uint64_t>(address), bytes, true); }

void Task::release(Handover& handover) {
  if (!clock_) return;
  if (!handover.clock_) handover.clock_ = std::make_unique<Clock>();
  state.order.release_task(actor_, *clock_, *handover.clock_);
}
void Task::wait(int thread) {
  if (clock_) state.order.acquire_task(thread, actor_, *clock_);
}

void fence_async_proxy() {
  if (races) state.order.release(current_thread(), state.fenced);
}

}  // namespace checker
}  // namespace sim
