#include "regions.h"

#include <link.h>

#include <algorithm>
#include <cstring>

namespace sim {

// The writable and read-only segments of the shared object that holds `address`.
static std::vector<Region> segments_around(const void* address) {
  struct Search {
    uint64_t address;
    std::vector<Region> found;
  } search{reinterpret_cast<uint64_t>(address), {}};
  dl_iterate_phdr(
      [](dl_phdr_info* object, size_t, void* data) {
        auto& search = *static_cast<Search*>(data);
        std::vector<Region> segments;
        bool here = false;
        for (int i = 0; i < object->dlpi_phnum; i++) {
          const auto& header = object->dlpi_phdr[i];
          if (header.p_type != PT_LOAD) continue;
          Region segment;
          segment.start = object->dlpi_addr + header.p_vaddr;
          segment.end = segment.start + header.p_memsz;
          segment.space = Space::Module;
          here |= segment.holds(search.address, 1);
          segments.push_back(segment);
        }
        if (here) search.found = segments;
        return here ? 1 : 0;
      },
      &search);
  return search.found;
}

void Regions::grid_begins(const Kernel& kernel, void** arguments, Memory& memory) {
  memory_ = &memory;
  kernel_ = &kernel;
  arguments_ = arguments;
  module_ = segments_around(reinterpret_cast<const void*>(kernel.invoke));
}

void Regions::block_begins(const void* dynamic, size_t dynamic_bytes, const void* fixed) {
  std::fill_n(recent_, RECENT, Region{});
  shared_start_ = reinterpret_cast<uint64_t>(dynamic);
  shared_end_ = reinterpret_cast<uint64_t>(fixed) + STATIC_ARENA_BYTES;
  shared_cells_.resize((shared_end_ - shared_start_) / GRANULE + 1);
  shared_.clear();
  shared_.push_back({"dynamic shared memory", shared_start_, shared_start_ + dynamic_bytes});
}

void Regions::add_array(const char* name, const void* start, size_t bytes) {
  auto address = reinterpret_cast<uint64_t>(start);
  shared_.push_back({"shared array `" + std::string(name) + "`", address, address + bytes});
}

bool Regions::search(uint64_t address, size_t bytes, Region& found) {
  if (address >= shared_start_ && address < shared_end_) {
    for (auto& array : shared_) {
      Region region{array.start, array.end, Space::Shared, &shared_cells_[(array.start - shared_start_) / GRANULE]};
      if (region.holds(address, bytes)) return found = region, true;
    }
    return false;
  }
  Extent* allocation = memory_->closest(address);
  if (allocation) {
    Region region{allocation->start, allocation->end(), Space::Global, nullptr};
    if (region.holds(address, bytes)) {
      region.cells = allocation->shadow.cells(allocation->bytes);
      return found = region, true;
    }
  }
  for (auto& segment : module_)
    if (segment.holds(address, bytes)) return found = segment, true;
  return false;
}

// The last word of a declaration: `rows` of "const u32 rows".
static std::string last_word(const std::string& declaration) {
  const char* letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
  size_t end = declaration.find_last_of(letters);
  if (end == std::string::npos) return "";
  size_t start = declaration.find_last_not_of(letters, end);
  return declaration.substr(start + 1, end - start);
}

std::string Regions::name_of_buffer(uint64_t start, uint64_t end) const {
  std::string names, declaration;
  int argument = 0, depth = 0;
  auto look = [&] {
    uint64_t value = 0;
    if (kernel_->parameters[argument].bytes == sizeof value) memcpy(&value, arguments_[argument], sizeof value);
    if (value >= start && value < end) names += (names.empty() ? "" : "=") + last_word(declaration);
    declaration.clear();
    argument++;
  };
  for (const char* c = kernel_->declared.c_str(); *c && kernel_->parameters[argument].bytes; c++) {
    depth += *c == '<' || *c == '(' ? 1 : *c == '>' || *c == ')' ? -1 : 0;
    if (*c == ',' && depth == 0) look();
    else declaration += *c;
  }
  if (kernel_->parameters[argument].bytes) look();
  return names;
}

std::string Regions::describe(uint64_t address) {
  uint64_t start = 0, end = 0;
  std::string what;
  auto text = [](uint64_t n) { return std::to_string(n) + (n == 1 ? " byte" : " bytes"); };
  auto distance = [&](uint64_t from, uint64_t to) { return address < from ? from - address : address < to ? 0 : address - to; };
  if (address >= shared_start_ && address < shared_end_) {
    const Array* best = &shared_[0];
    for (auto& array : shared_)
      if (distance(array.start, array.end) < distance(best->start, best->end)) best = &array;
    start = best->start, end = best->end;
    what = best->name + " (" + text(end - start) + ")";
  } else if (Extent* closest = memory_->closest(address)) {
    start = closest->start, end = closest->end();
    std::string name = name_of_buffer(start, end);
    what = (name.empty() ? "" : "`" + name + "`, ") + "a buffer of " + text(end - start);
  }
  constexpr uint64_t FAR = 64 << 20;
  char hex[32];
  snprintf(hex, sizeof hex, "%#llx", static_cast<unsigned long long>(address));
  if (what.empty() || distance(start, end) > FAR) return std::string("address ") + hex + ", near no memory of the device";
  if (address < start) return text(start - address) + " before the start of " + what;
  if (address >= end) return text(address - end) + " past the end of " + what;
  return "byte " + std::to_string(address - start) + " of " + what;
}

}  // namespace sim
