#include "counters.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "collective.h"
#include "place.h"
#include "regions.h"

namespace sim::counters {

bool on;
bool in_range;

namespace {

constexpr uint64_t SECTOR = 32;  // bytes
constexpr uint64_t WORD = 4, BANKS = 32;
constexpr size_t WIDEST = 16;

// One instruction of a warp: what each lane asks for.
struct Request {
  uint32_t lanes = 0;
  uint64_t addresses[LANES];
};

struct Totals {
  uint64_t requests = 0, bytes = 0;
  uint64_t cost = 0, least = 0;  // sectors, or passes
  uint64_t ways = 0;

  void add(const Totals& other) {
    requests += other.requests, bytes += other.bytes, cost += other.cost, least += other.least;
    ways = std::max(ways, other.ways);
  }
};

// The bytes of a buffer that a launch read or wrote.
struct Touched {
  uint64_t asked = 0;  // by requests
  std::vector<uint64_t> bits;

  void mark(uint64_t offset, size_t bytes) {
    for (uint64_t i = offset; i < offset + bytes; i++) {
      if (i / 64 >= bits.size()) bits.resize(i / 64 + 1);
      bits[i / 64] |= uint64_t{1} << i % 64;
    }
  }
  uint64_t distinct() const {
    uint64_t sum = 0;
    for (uint64_t word : bits) sum += __builtin_popcountll(word);
    return sum;
  }
};
struct Buffer {
  std::string name;
  Touched read, written;
};

// An access in the code: one instruction, or one of the accesses that a wide one is split into.
struct Site {
  Space space;
  bool write;
  size_t width;
  Totals totals;
  // Of each warp: how often each lane was here, and the requests that not every lane has come to.
  struct Warp {
    uint64_t executed[LANES] = {};
    uint64_t first = 0;  // how many requests are complete
    std::vector<Request> open;
  };
  std::vector<Warp> warps;
};

struct SiteKey {
  const void* place;
  Space space;
  size_t width;
  bool write;
  bool operator==(const SiteKey& other) const {
    return place == other.place && space == other.space && width == other.width && write == other.write;
  }
};
struct SiteHash {
  size_t operator()(const SiteKey& key) const {
    return reinterpret_cast<uintptr_t>(key.place) * 31 + static_cast<size_t>(key.space) * 1024 + key.width * 2 + key.write;
  }
};

struct BufferTotals {
  uint64_t read = 0, read_least = 0, written = 0, written_least = 0;
};
// A line of the table but for its numbers: place, space, access, width.
typedef std::tuple<std::string, std::string, std::string, size_t> AccessLine;
struct KernelTotals {
  uint64_t launches = 0, blocks = 0;
  std::map<std::string, BufferTotals> buffers;
  std::map<AccessLine, Totals> accesses;
  std::map<std::pair<std::string, std::string>, uint64_t> instructions;  // place and name -> threads
};

struct State {
  std::map<std::string, KernelTotals> kernels;
  std::map<const void*, std::string> places;
  // Of the launch that runs:
  std::unordered_map<SiteKey, Site, SiteHash> sites;
  std::map<uint64_t, Buffer> buffers;  // that were accessed, by start
  std::map<std::pair<const void*, const char*>, uint64_t> instructions;
};

State& state = *new State;

// ---- one request ----

// How many passes the banks need for the lanes from `first` on, as many as move in one pass.
uint64_t ways_of(const Request& request, size_t width, int first, int lanes) {
  uint64_t words[LANES * WIDEST / WORD], count = 0;
  for (int l = first; l < first + lanes; l++)
    if (request.lanes >> l & 1)
      for (uint64_t word = request.addresses[l] / WORD; word <= (request.addresses[l] + width - 1) / WORD; word++)
        words[count++] = word;
  std::sort(words, words + count);
  count = std::unique(words, words + count) - words;
  uint64_t in_bank[BANKS] = {}, most = 0;
  for (uint64_t i = 0; i < count; i++) most = std::max(most, ++in_bank[words[i] % BANKS]);
  return most;
}

void count_shared(Site& site, const Request& request) {
  int lanes = site.width <= WORD ? LANES : site.width <= 2 * WORD ? LANES / 2 : LANES / 4;
  for (int first = 0; first < LANES; first += lanes) {
    uint64_t ways = ways_of(request, site.width, first, lanes);
    site.totals.cost += ways;
    site.totals.least += ways > 0;
    site.totals.ways = std::max(site.totals.ways, ways);
  }
}

// Sectors that a request touches, whose lanes ask for what begins at `starts`, ascending.
uint64_t sectors_of(const uint64_t* starts, uint64_t count, size_t width) {
  uint64_t sectors = 0, next = 0;
  for (uint64_t i = 0; i < count; i++) {
    uint64_t first = std::max(starts[i] / SECTOR, next), behind = (starts[i] + width - 1) / SECTOR + 1;
    if (behind > first) sectors += behind - first, next = behind;
  }
  return sectors;
}

void count(Site& site, const Request& request) {
  uint64_t starts[LANES], count = 0;
  for (int l = 0; l < LANES; l++)
    if (request.lanes >> l & 1) starts[count++] = request.addresses[l];
  std::sort(starts, starts + count);
  uint64_t bytes = 0, end = 0;
  for (uint64_t i = 0; i < count; i++) {
    uint64_t behind = starts[i] + site.width;
    bytes += behind - std::max(std::min(end, behind), starts[i]);
    end = std::max(end, behind);
  }
  site.totals.requests++;
  site.totals.bytes += bytes;
  if (site.space == Space::Shared) return count_shared(site, request);
  site.totals.cost += sectors_of(starts, count, site.width);
  site.totals.least += (bytes + SECTOR - 1) / SECTOR;
  Buffer& buffer = std::prev(state.buffers.upper_bound(starts[0]))->second;
  (site.write ? buffer.written : buffer.read).asked += bytes;
}

void add(Site& site, uint64_t address) {
  int thread = current_thread(), lane = thread % LANES;
  size_t warp = thread / LANES;
  if (site.warps.size() <= warp) site.warps.resize(warp + 1);
  Site::Warp& w = site.warps[warp];
  uint64_t number = w.executed[lane]++ - w.first;
  if (number >= w.open.size()) w.open.resize(number + 1);
  Request& request = w.open[number];
  request.lanes |= 1u << lane;
  request.addresses[lane] = address;
  // Lanes come in order to each request: the first that is open is complete first.
  size_t complete = 0;
  while (complete < w.open.size() && w.open[complete].lanes == ~0u) count(site, w.open[complete++]);
  w.open.erase(w.open.begin(), w.open.begin() + complete);
  w.first += complete;
}

Buffer& buffer_of(const Region& region) {
  auto [it, fresh] = state.buffers.try_emplace(region.start);
  if (fresh) {
    it->second.name = current_regions().name_of_buffer(region.start, region.end);
    if (it->second.name.empty()) it->second.name = "?";
  }
  return it->second;
}

// ---- the table ----

void print() {
  for (auto& [name, kernel] : state.kernels) {
    std::string start = "count kernel=" + name;
    fprintf(stderr, "%s launches=%llu blocks=%llu\n", start.c_str(), (unsigned long long)kernel.launches,
            (unsigned long long)kernel.blocks);
    for (auto& [buffer, t] : kernel.buffers)
      fprintf(stderr, "%s buffer=%s read=%llu read_least=%llu written=%llu written_least=%llu\n", start.c_str(),
              buffer.c_str(), (unsigned long long)t.read, (unsigned long long)t.read_least,
              (unsigned long long)t.written, (unsigned long long)t.written_least);
    for (auto& [line, t] : kernel.accesses) {
      auto& [place, space, access, width] = line;
      fprintf(stderr, "%s place=%s space=%s access=%s width=%zu requests=%llu bytes=%llu", start.c_str(),
              place.c_str(), space.c_str(), access.c_str(), width, (unsigned long long)t.requests,
              (unsigned long long)t.bytes);
      if (space == "shared")
        fprintf(stderr, " passes=%llu passes_least=%llu ways=%llu\n", (unsigned long long)t.cost,
                (unsigned long long)t.least, (unsigned long long)t.ways);
      else
        fprintf(stderr, " sectors=%llu sectors_least=%llu\n", (unsigned long long)t.cost, (unsigned long long)t.least);
    }
    for (auto& [line, threads] : kernel.instructions)
      fprintf(stderr, "%s place=%s instruction=%s threads=%llu\n", start.c_str(), line.first.c_str(),
              line.second.c_str(), (unsigned long long)threads);
  }
}

// Finds out where all of these lie, and has them without spaces.
void find_places() {
  std::vector<const void*> unknown;
  for (auto& [key, site] : state.sites)
    if (!state.places.count(key.place)) unknown.push_back(key.place);
  for (auto& [key, threads] : state.instructions)
    if (!state.places.count(key.first)) unknown.push_back(key.first);
  for (auto& [place, text] : places_of(unknown)) {
    std::string word = text;
    for (const std::string between = ", inlined at "; word.find(between) != std::string::npos;)
      word.replace(word.find(between), between.size(), "<");
    std::replace(word.begin(), word.end(), ' ', '_');
    state.places[place] = word;
  }
}

}  // namespace

void grid_begins(const Settings& settings, uint64_t blocks) {
  on = settings.count && (in_range || !settings.range);
  if (!on) return;
  static bool registered = atexit(print) == 0;
  if (!registered) fail("the counters cannot be printed at the end");
  KernelTotals& kernel = state.kernels[current_kernel().name];
  kernel.launches++;
  kernel.blocks += blocks;
  state.sites.clear();
  state.buffers.clear();
  state.instructions.clear();
}

void block_ends() {
  for (auto& [key, site] : state.sites) {
    for (Site::Warp& warp : site.warps)
      for (const Request& request : warp.open)
        if (request.lanes) count(site, request);
    site.warps.clear();
  }
}

void grid_ends() {
  on = false;
  find_places();
  KernelTotals& kernel = state.kernels[current_kernel().name];
  for (auto& [key, site] : state.sites) {
    const char* space = site.space == Space::Shared ? "shared" : "global";
    kernel.accesses[{state.places[key.place], space, site.write ? "write" : "read", site.width}].add(site.totals);
  }
  for (auto& [key, threads] : state.instructions)
    kernel.instructions[{state.places[key.first], key.second}] += threads;
  for (auto& [start, buffer] : state.buffers) {
    BufferTotals& totals = kernel.buffers[buffer.name];
    totals.read += buffer.read.asked, totals.read_least += buffer.read.distinct();
    totals.written += buffer.written.asked, totals.written_least += buffer.written.distinct();
  }
}

void access(uint64_t address, size_t bytes, bool write, bool natural, const void* place) {
  // Of what may not be aligned, a GPU moves words at a time, or bytes.
  if (!natural && (bytes > WORD || address % bytes != 0)) {
    size_t part = address % WORD == 0 && bytes % WORD == 0 ? WORD : 1;
    for (size_t i = 0; i < bytes; i += part) access(address + i, part, write, true, place);
    return;
  }
  const Region* region = current_regions().find(address, bytes, place);
  if (!region || region->space == Space::Module) return;
  if (region->space == Space::Global) {
    Buffer& buffer = buffer_of(*region);
    (write ? buffer.written : buffer.read).mark(address - region->start, bytes);
  }
  SiteKey key{place, region->space, bytes, write};
  add(state.sites.try_emplace(key, Site{region->space, write, bytes, {}, {}}).first->second, address);
}

void instruction(const char* name, int threads, const void* place) {
  const char* article = strrchr(name, ' ');
  state.instructions[{place, article ? article + 1 : name}] += threads;
}

void forget_places() { state.places.clear(); }

}  // namespace sim::counters
