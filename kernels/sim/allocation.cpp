// Device memory, with and without the pool, and pinned host memory.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "graph.h"
#include "stream.h"

namespace sim {

// The pool grows by as much at a time.
static constexpr uint64_t POOL_STEP = 32 << 20;

// How much memory may wait for a queued free to run.
static constexpr uint64_t MOST_WAITING = 256 << 20;

void Pool::take(uint64_t bytes) {
  used += bytes;
  if (used > reserved) reserved = (used + POOL_STEP - 1) / POOL_STEP * POOL_STEP;
  used_high = std::max(used_high, used);
  reserved_high = std::max(reserved_high, reserved);
}

void Pool::trim(uint64_t keep) { reserved = std::max(used, std::min(reserved, keep)); }

bool Context::holds_pinned(const void* start, size_t bytes) const {
  auto it = pinned.upper_bound(static_cast<const unsigned char*>(start));
  if (it == pinned.begin()) return false;
  --it;
  size_t offset = static_cast<const unsigned char*>(start) - it->first;
  return offset <= it->second.bytes && bytes <= it->second.bytes - offset;
}

// Bytes of a new allocation, or 0. By the books there may be room that frees still in a queue hold.
static Pointer allocate(Context& context, size_t bytes) {
  if (driver.faults.allocation()) return 0;
  uint64_t used = context.pool.used + context.plain_bytes, capacity = context.memory.capacity();
  if (bytes > capacity || used > capacity - bytes) return 0;
  Pointer address = context.memory.allocate(bytes);
  if (!address) {
    run_all(context);
    address = context.memory.allocate(bytes);
  }
  return address;
}

// When a queued free runs.
static void release(Context& context, Pointer pointer) { context.memory.release(pointer); }

static Result allocate_in_order(Context& context, Pointer* pointer, size_t bytes, void* handle) {
  auto stream = stream_of(context, handle);
  if (!stream) return INVALID_HANDLE;
  if (bytes == 0) return INVALID_VALUE;
  Pointer address = allocate(context, bytes);
  if (!address) return OUT_OF_MEMORY;
  *pointer = address;
  context.pool.take(bytes);
  if (auto& capture = stream->capture) return record_allocation(context, *capture, address, bytes);
  context.allocations[address] = {bytes, true};
  return SUCCESS;
}

}  // namespace sim

using namespace sim;

// ---- in stream order ----

SIM_EXPORT Result cuMemAllocAsync(Pointer* pointer, size_t bytes, void* stream) {
  return call([&](Context& context) { return allocate_in_order(context, pointer, bytes, stream); });
}
SIM_EXPORT Result cuMemAllocFromPoolAsync(Pointer* pointer, size_t bytes, void* pool, void* stream) {
  return call([&](Context& context) -> Result {
    if (pool != &context.pool) return INVALID_HANDLE;
    return allocate_in_order(context, pointer, bytes, stream);
  });
}

SIM_EXPORT Result cuMemFreeAsync(Pointer pointer, void* handle) {
  return call([&](Context& context) -> Result {
    auto stream = stream_of(context, handle);
    if (!stream) return INVALID_HANDLE;
    if (auto& capture = stream->capture) return record_free(*capture, pointer);
    auto it = context.allocations.find(pointer);
    if (it == context.allocations.end()) return INVALID_VALUE;
    Allocation freed = it->second;
    context.allocations.erase(it);
    if (freed.pooled) context.pool.give(freed.bytes);
    else context.plain_bytes -= freed.bytes;
    Result result = enqueue(context, handle, [&context, pointer] { release(context, pointer); });
    // The host's memory is not the card's: what waits to be released is not to pile up.
    uint64_t held = context.memory.capacity() - context.memory.free_bytes();
    if (held - context.pool.used - context.plain_bytes > MOST_WAITING) stream->end().reach();
    return result;
  });
}

SIM_EXPORT Result cuDeviceGetDefaultMemPool(void** pool, int device) {
  return call([&](Context& context) -> Result {
    if (device != 0) return INVALID_DEVICE;
    return *pool = &context.pool, SUCCESS;
  });
}
SIM_EXPORT Result cuDeviceGetMemPool(void** pool, int device) { return cuDeviceGetDefaultMemPool(pool, device); }

enum PoolAttribute {
  REUSE_FIRST = 1,
  REUSE_LAST = 3,
  RELEASE_THRESHOLD = 4,
  RESERVED_CURRENT = 5,
  RESERVED_HIGH = 6,
  USED_CURRENT = 7,
  USED_HIGH = 8,
};

SIM_EXPORT Result cuMemPoolGetAttribute(void* pool, int attribute, void* value) {
  return call([&](Context& context) -> Result {
    if (pool != &context.pool) return INVALID_HANDLE;
    uint64_t number;
    switch (attribute) {
      case RELEASE_THRESHOLD: number = context.pool.threshold; break;
      case RESERVED_CURRENT: number = context.pool.reserved; break;
      case RESERVED_HIGH: number = context.pool.reserved_high; break;
      case USED_CURRENT: number = context.pool.used; break;
      case USED_HIGH: number = context.pool.used_high; break;
      default:
        if (attribute < REUSE_FIRST || attribute > REUSE_LAST) return INVALID_VALUE;
        memcpy(value, &context.pool.reuse[attribute - REUSE_FIRST], sizeof(int));
        return SUCCESS;
    }
    memcpy(value, &number, sizeof number);
    return SUCCESS;
  });
}

SIM_EXPORT Result cuMemPoolSetAttribute(void* pool, int attribute, void* value) {
  return call([&](Context& context) -> Result {
    if (pool != &context.pool) return INVALID_HANDLE;
    if (attribute >= REUSE_FIRST && attribute <= REUSE_LAST) {
      memcpy(&context.pool.reuse[attribute - REUSE_FIRST], value, sizeof(int));
      return SUCCESS;
    }
    uint64_t number;
    memcpy(&number, value, sizeof number);
    if (attribute == RELEASE_THRESHOLD) return context.pool.threshold = number, SUCCESS;
    // A high-water mark can be started anew, by a zero.
    if (number != 0) return INVALID_VALUE;
    if (attribute == RESERVED_HIGH) return context.pool.reserved_high = context.pool.reserved, SUCCESS;
    if (attribute == USED_HIGH) return context.pool.used_high = context.pool.used, SUCCESS;
    return INVALID_VALUE;
  });
}

SIM_EXPORT Result cuMemPoolTrimTo(void* pool, size_t keep) {
  return call([&](Context& context) -> Result {
    if (pool != &context.pool) return INVALID_HANDLE;
    return context.pool.trim(keep), SUCCESS;
  });
}

SIM_EXPORT Result cuMemGetInfo_v2(size_t* free, size_t* total) {
  return call([&](Context& context) {
    *total = context.memory.capacity();
    // The pool grows in steps, but never past the card.
    uint64_t taken = std::min<uint64_t>(*total, context.pool.reserved + context.plain_bytes);
    *free = *total - taken;
    return SUCCESS;
  });
}

// ---- at once ----

SIM_EXPORT Result cuMemAlloc_v2(Pointer* pointer, size_t bytes) {
  return call([&](Context& context) -> Result {
    if (Result refused = refuse_in_capture(context)) return refused;
    if (bytes == 0) return INVALID_VALUE;
    Pointer address = allocate(context, bytes);
    if (!address) return OUT_OF_MEMORY;
    context.allocations[address] = {bytes, false};
    context.plain_bytes += bytes;
    // The driver takes cached memory from the pool before it says that there is none.
    context.pool.reserved = std::min(context.pool.reserved, context.memory.capacity() - context.plain_bytes);
    return *pointer = address, SUCCESS;
  });
}

// Waits for everything first, unless the memory came from the pool: then the caller has to have waited.
SIM_EXPORT Result cuMemFree_v2(Pointer pointer) {
  return call([&](Context& context) -> Result {
    if (Result refused = refuse_in_capture(context)) return refused;
    if (pointer == 0) return SUCCESS;
    auto it = context.allocations.find(pointer);
    if (it == context.allocations.end()) return INVALID_VALUE;
    if (it->second.pooled) context.pool.give(it->second.bytes);
    else driver.waits++, run_all(context), context.plain_bytes -= it->second.bytes;
    context.allocations.erase(it);
    release(context, pointer);
    return driver.sticky;
  });
}

// ---- pinned host memory ----

SIM_EXPORT Result cuMemHostAlloc(void** memory, size_t bytes, unsigned flags) {
  constexpr unsigned PORTABLE = 1, WRITE_COMBINED = 4;
  constexpr size_t PAGE = 4096;
  return call([&](Context& context) -> Result {
    if (Result refused = refuse_in_capture(context)) return refused;
    if (bytes == 0) return INVALID_VALUE;
    if (flags & ~(PORTABLE | WRITE_COMBINED))
      return complain(NOT_SUPPORTED, "host memory that kernels see is not simulated");
    size_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
    auto* start = static_cast<unsigned char*>(aligned_alloc(PAGE, whole));
    if (!start) return OUT_OF_MEMORY;
    memset(start, 0xff, bytes);
    context.pinned[start] = {bytes, true};
    return *memory = start, SUCCESS;
  });
}
SIM_EXPORT Result cuMemAllocHost_v2(void** memory, size_t bytes) { return cuMemHostAlloc(memory, bytes, 0); }

// A copy that has not run yet and reads or writes this memory will fault: nothing promises that freeing waits.
SIM_EXPORT Result cuMemFreeHost(void* memory) {
  return call([&](Context& context) -> Result {
    if (Result refused = refuse_in_capture(context)) return refused;
    auto it = context.pinned.find(static_cast<unsigned char*>(memory));
    if (it == context.pinned.end() || !it->second.owned) return INVALID_VALUE;
    context.pinned.erase(it);
    free(memory);
    return SUCCESS;
  });
}

SIM_EXPORT Result cuMemHostRegister_v2(void* memory, size_t bytes, unsigned) {
  return call([&](Context& context) -> Result {
    if (!memory || bytes == 0) return INVALID_VALUE;
    auto* start = static_cast<unsigned char*>(memory);
    auto next = context.pinned.lower_bound(start);
    bool overlaps = context.holds_pinned(start, 0) || (next != context.pinned.end() && next->first < start + bytes);
    if (overlaps) return HOST_MEMORY_ALREADY_REGISTERED;
    context.pinned[start] = {bytes, false};
    return SUCCESS;
  });
}
SIM_EXPORT Result cuMemHostUnregister(void* memory) {
  return call([&](Context& context) -> Result {
    auto it = context.pinned.find(static_cast<unsigned char*>(memory));
    if (it == context.pinned.end() || it->second.owned) return HOST_MEMORY_NOT_REGISTERED;
    context.pinned.erase(it);
    return SUCCESS;
  });
}
