// What an address belongs to, for kernels whose accesses are watched: a device allocation, shared memory of the block
// that runs, or the module's own data.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "block.h"
#include "memory.h"

namespace sim {

enum class Space { Global, Shared, Module };

struct Region {
  uint64_t start = 0, end = 0;
  Space space = Space::Global;
  Cell* cells = nullptr;  // of the bytes from `start` on; not of the module's data

  bool holds(uint64_t address, size_t bytes) const {
    return address >= start && address <= end && bytes <= end - address;
  }
};

class Regions {
 public:
  void grid_begins(const Kernel& kernel, void** arguments, Memory& memory);
  // `dynamic` and `fixed`: where dynamic shared memory and static arrays lie.
  void block_begins(const void* dynamic, size_t dynamic_bytes, const void* fixed);
  void add_array(const char* name, const void* start, size_t bytes);

  // The one that holds all of the bytes, or null. `place`, the instruction that asks, tends to get the same again.
  const Region* find(uint64_t address, size_t bytes, const void* place) {
    Region& last = recent_[reinterpret_cast<uintptr_t>(place) / 4 % RECENT];
    if (last.holds(address, bytes)) return &last;
    return search(address, bytes, last) ? &last : nullptr;
  }

  // Where an address lies: "byte 12 of `x`, a buffer of 256 bytes".
  std::string describe(uint64_t address);
  // What the kernel calls the buffer that holds `address`: the names of the arguments that point into it.
  std::string name_of_buffer(uint64_t start, uint64_t end) const;

 private:
  static constexpr size_t RECENT = 512;
  struct Array {
    std::string name;
    uint64_t start, end;
  };
  bool search(uint64_t address, size_t bytes, Region& found);

  Memory* memory_ = nullptr;
  const Kernel* kernel_ = nullptr;
  void** arguments_ = nullptr;
  uint64_t shared_start_ = 0, shared_end_ = 0;  // all of it, gaps included
  std::vector<Array> shared_;                   // the dynamic part first
  std::vector<Region> module_;
  std::vector<Cell> shared_cells_;
  Region recent_[RECENT];
};

}  // namespace sim
