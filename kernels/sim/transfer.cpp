// Copies and fills. Each is queued; what becomes of the host's side depends on whether its memory is pinned.
#include <cstring>
#include <vector>

#include "stream.h"

namespace sim {

static void* host(Pointer p) { return reinterpret_cast<void*>(p); }

// Whether a queued copy still finds what it was given. What the program freed too early faults, as it may on a card.
static bool device_holds(Context& context, Pointer start, size_t bytes) {
  if (context.memory.contains(start, bytes)) return true;
  fault(ILLEGAL_ADDRESS, "a copy runs after the device memory it uses was freed");
  return false;
}
static bool host_holds(Context& context, const void* start, size_t bytes) {
  if (context.holds_pinned(start, bytes)) return true;
  fault(ILLEGAL_ADDRESS, "a copy runs after the pinned memory it uses was freed");
  return false;
}

static Result check(Context& context, Pointer start, size_t bytes) {
  return context.memory.contains(start, bytes) ? SUCCESS : INVALID_VALUE;
}

static bool overlap(Pointer x, Pointer y, size_t bytes) { return x < y + bytes && y < x + bytes; }

static bool is_recorded(Context& context, void* stream) {
  auto found = stream_of(context, stream);
  return found && found->capture;
}

// Pinned memory is read when the copy runs. Of other memory the driver takes a copy before it returns; a graph reads
// it at each launch.
static Result upload(Context& context, Pointer to, const void* from, size_t bytes, void* stream) {
  if (bytes == 0) return SUCCESS;
  if (Result wrong = check(context, to, bytes)) return wrong;
  bool pinned = context.holds_pinned(from, bytes);
  if (pinned || is_recorded(context, stream)) {
    return enqueue(context, stream, [&context, to, from, bytes, pinned] {
      if (!device_holds(context, to, bytes) || (pinned && !host_holds(context, from, bytes))) return;
      memcpy(host(to), from, bytes);
    });
  }
  auto* source = static_cast<const unsigned char*>(from);
  std::vector<unsigned char> staged(source, source + bytes);
  return enqueue(context, stream, [&context, to, staged = std::move(staged)] {
    if (device_holds(context, to, staged.size())) memcpy(host(to), staged.data(), staged.size());
  });
}

// Pinned memory is written when the copy runs; for other memory the driver returns once the copy is done.
static Result download(Context& context, void* to, Pointer from, size_t bytes, void* stream) {
  if (bytes == 0) return SUCCESS;
  if (Result wrong = check(context, from, bytes)) return wrong;
  bool pinned = context.holds_pinned(to, bytes), recorded = is_recorded(context, stream);
  Result result = enqueue(context, stream, [&context, to, from, bytes, pinned] {
    if (!device_holds(context, from, bytes) || (pinned && !host_holds(context, to, bytes))) return;
    driver.downloaded += bytes;
    memcpy(to, host(from), bytes);
  });
  if (result || pinned || recorded) return result;
  driver.waits++;
  stream_of(context, stream)->end().reach();
  return driver.sticky;
}

static Result move(Context& context, Pointer to, Pointer from, size_t bytes, void* stream) {
  if (bytes == 0) return SUCCESS;
  if (Result wrong = check(context, to, bytes)) return wrong;
  if (Result wrong = check(context, from, bytes)) return wrong;
  if (overlap(to, from, bytes)) return complain(INVALID_VALUE, "a copy onto a part of itself has no defined result");
  return enqueue(context, stream, [&context, to, from, bytes] {
    if (device_holds(context, to, bytes) && device_holds(context, from, bytes)) memcpy(host(to), host(from), bytes);
  });
}

template <class T>
static Result fill(Context& context, Pointer to, T value, size_t count, void* stream) {
  if (count == 0) return SUCCESS;
  size_t bytes = count * sizeof(T);
  if (count > SIZE_MAX / sizeof(T) || to % sizeof(T) != 0) return INVALID_VALUE;
  if (Result wrong = check(context, to, bytes)) return wrong;
  return enqueue(context, stream, [&context, to, value, count, bytes] {
    if (!device_holds(context, to, bytes)) return;
    for (size_t i = 0; i < count; i++) static_cast<T*>(host(to))[i] = value;
  });
}

// Does `body` in the legacy stream and waits.
template <class F>
static Result blocking(F body) {
  return call([&](Context& context) -> Result {
    uint64_t counted = driver.waits;
    if (Result wrong = body(context)) return wrong;
    if (driver.waits == counted) driver.waits++;  // a download from ordinary memory has counted itself
    context.legacy->end().reach();
    return driver.sticky;
  });
}

}  // namespace sim

using namespace sim;

SIM_EXPORT Result cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
  return call([&](Context& context) { return upload(context, to, from, bytes, stream); });
}
SIM_EXPORT Result cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* stream) {
  return call([&](Context& context) { return download(context, to, from, bytes, stream); });
}
SIM_EXPORT Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void* stream) {
  return call([&](Context& context) { return move(context, to, from, bytes, stream); });
}
SIM_EXPORT Result cuMemcpyHtoD_v2(Pointer to, const void* from, size_t bytes) {
  return blocking([&](Context& context) { return upload(context, to, from, bytes, nullptr); });
}
SIM_EXPORT Result cuMemcpyDtoH_v2(void* to, Pointer from, size_t bytes) {
  return blocking([&](Context& context) { return download(context, to, from, bytes, nullptr); });
}
// Copies within the device and fills do not wait, whatever their names say: the driver documents it so.
SIM_EXPORT Result cuMemcpyDtoD_v2(Pointer to, Pointer from, size_t bytes) {
  return call([&](Context& context) { return move(context, to, from, bytes, nullptr); });
}
SIM_EXPORT Result cuMemsetD8Async(Pointer to, unsigned char value, size_t count, void* stream) {
  return call([&](Context& context) { return fill(context, to, value, count, stream); });
}
SIM_EXPORT Result cuMemsetD16Async(Pointer to, unsigned short value, size_t count, void* stream) {
  return call([&](Context& context) { return fill(context, to, value, count, stream); });
}
SIM_EXPORT Result cuMemsetD32Async(Pointer to, unsigned value, size_t count, void* stream) {
  return call([&](Context& context) { return fill(context, to, value, count, stream); });
}
SIM_EXPORT Result cuMemsetD8_v2(Pointer to, unsigned char value, size_t count) {
  return call([&](Context& context) { return fill(context, to, value, count, nullptr); });
}
