// Device memory: host memory that is counted, poisoned and fenced.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "shadow.h"

namespace sim {

struct Extent {
  uint64_t start;
  size_t bytes;
  Shadow shadow;

  uint64_t end() const { return start + bytes; }
};

class Memory {
 public:
  // `distance`: further bytes between allocations, which are not looked at. An access that misses its buffer by less
  // than that does not meet another.
  explicit Memory(size_t capacity, size_t distance = 0) : capacity_(capacity), distance_(distance) {}
  Memory(const Memory&) = delete;
  ~Memory();

  // `bytes` bytes aligned to 256 and filled with 0xff (a NaN in every float type), or 0 if there is no room.
  uint64_t allocate(size_t bytes);
  // Fills it as allocate does.
  static void poison(uint64_t address, size_t bytes);
  // False if `address` is not the start of an allocation.
  bool release(uint64_t address);
  // Whether all of [address, address + bytes) lies in one allocation.
  bool contains(uint64_t address, size_t bytes) const;
  // The allocation that is closest to `address`; null if there is none.
  Extent* closest(uint64_t address);
  // Looks at the guard bytes around every allocation; says which was overrun, or nothing.
  std::string overrun() const;

  size_t free_bytes() const { return capacity_ - used_; }
  size_t capacity() const { return capacity_; }

 private:
  size_t capacity_, distance_;
  size_t used_ = 0;
  std::map<uint64_t, Extent> allocations_;  // by start
};

// The device's memory, while there is a context.
const Memory* device_memory();

}  // namespace sim
