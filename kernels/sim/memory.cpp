#include "memory.h"

#include <cstdlib>
#include <cstring>

namespace sim {

static constexpr size_t GUARD = 256;  // before and after; also the alignment the driver promises
static constexpr unsigned char GUARD_BYTE = 0xa5;

static size_t padded(size_t bytes) { return (bytes + GUARD - 1) / GUARD * GUARD; }

Memory::~Memory() {
  for (auto& entry : allocations_) free(reinterpret_cast<unsigned char*>(entry.first) - GUARD - padded(distance_));
}

uint64_t Memory::allocate(size_t bytes) {
  if (bytes > free_bytes()) return 0;
  size_t margin = GUARD + padded(distance_);
  auto* raw = static_cast<unsigned char*>(aligned_alloc(GUARD, padded(bytes) + 2 * margin));
  if (!raw) return 0;
  unsigned char* start = raw + margin;
  memset(start - GUARD, GUARD_BYTE, padded(bytes) + 2 * GUARD);
  uint64_t address = reinterpret_cast<uint64_t>(start);
  poison(address, bytes);
  allocations_[address] = {address, bytes, {}};
  used_ += bytes;
  return address;
}

void Memory::poison(uint64_t address, size_t bytes) { memset(reinterpret_cast<void*>(address), 0xff, bytes); }

bool Memory::release(uint64_t address) {
  auto it = allocations_.find(address);
  if (it == allocations_.end()) return false;
  used_ -= it->second.bytes;
  allocations_.erase(it);
  free(reinterpret_cast<unsigned char*>(address) - GUARD - padded(distance_));
  return true;
}

bool Memory::contains(uint64_t address, size_t bytes) const {
  auto it = allocations_.upper_bound(address);
  if (it == allocations_.begin()) return false;
  --it;
  uint64_t offset = address - it->first;
  return offset <= it->second.bytes && bytes <= it->second.bytes - offset;
}

Extent* Memory::closest(uint64_t address) {
  auto behind = allocations_.upper_bound(address);
  Extent* after = behind == allocations_.end() ? nullptr : &behind->second;
  if (behind == allocations_.begin()) return after;
  Extent* before = &(--behind)->second;
  return !after || address < before->end() || address - before->end() <= after->start - address ? before : after;
}

std::string Memory::overrun() const {
  auto intact = [](const unsigned char* bytes, size_t n) {
    for (size_t i = 0; i < n; i++)
      if (bytes[i] != GUARD_BYTE) return false;
    return true;
  };
  for (auto& [address, allocation] : allocations_) {
    auto* start = reinterpret_cast<const unsigned char*>(address);
    size_t bytes = allocation.bytes;
    std::string size = std::to_string(bytes);
    if (!intact(start - GUARD, GUARD)) return "wrote in front of a buffer of " + size + " bytes";
    if (!intact(start + bytes, padded(bytes) - bytes + GUARD)) return "wrote past the end of a buffer of " + size + " bytes";
  }
  return "";
}

}  // namespace sim
