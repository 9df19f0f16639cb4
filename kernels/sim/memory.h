// Device memory: host memory that is counted, poisoned and fenced.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace sim {

class Memory {
 public:
  explicit Memory(size_t capacity) : capacity_(capacity) {}
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
  // Looks at the guard bytes around every allocation; says which was overrun, or nothing.
  std::string overrun() const;

  size_t free_bytes() const { return capacity_ - used_; }
  size_t capacity() const { return capacity_; }

 private:
  size_t capacity_;
  size_t used_ = 0;
  std::map<uint64_t, size_t> allocations_;  // start -> bytes
};

// The device's memory, while there is a context.
const Memory* device_memory();

}  // namespace sim
