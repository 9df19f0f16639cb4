// What the files of libcuda.so share: the results, the state of the driver, and the frame that every call runs in.
//
// One device of compute capability 9.0 with its primary context. What a stream is asked to do is queued (stream.h)
// and runs under the driver's lock, on whichever host thread waits for it.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "faults.h"
#include "memory.h"
#include "runtime.h"
#include "settings.h"

namespace sim {

typedef int Result;        // CUresult
typedef uint64_t Pointer;  // CUdeviceptr

enum : Result {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NO_BINARY_FOR_GPU = 209,
  JIT_COMPILER_NOT_FOUND = 221,
  SHARED_OBJECT_INIT_FAILED = 303,
  INVALID_HANDLE = 400,
  ILLEGAL_STATE = 401,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_OUT_OF_RESOURCES = 701,
  HOST_MEMORY_ALREADY_REGISTERED = 712,
  HOST_MEMORY_NOT_REGISTERED = 713,
  LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801,
  STREAM_CAPTURE_UNSUPPORTED = 900,
  STREAM_CAPTURE_INVALIDATED = 901,
  STREAM_CAPTURE_ISOLATION = 905,
  STREAM_CAPTURE_IMPLICIT = 906,
  CAPTURED_EVENT = 907,
  STREAM_CAPTURE_WRONG_THREAD = 908,
  INVALID_CLUSTER_SIZE = 912,
};

class Stream;
struct Capture;
struct Event;
struct Graph;
struct Kernel;
struct Module;

// The memory pool's books. They follow the order of the calls, so that a free in stream order makes room for the
// allocation after it, as it does on a card; the bytes themselves are released when the free runs.
struct Pool {
  uint64_t used = 0, used_high = 0;
  uint64_t reserved = 0, reserved_high = 0;  // what the pool holds, used or cached
  uint64_t threshold = 0;                    // how much it keeps when the program waits
  int reuse[3] = {1, 1, 1};                  // the three reuse policies, which change no result here

  void take(uint64_t bytes);
  void give(uint64_t bytes) { used -= bytes; }
  void trim(uint64_t keep);
};

// An allocation that the program has not asked to free yet.
struct Allocation {
  size_t bytes;
  bool pooled;  // by cuMemAllocAsync
};

// Host memory that the device copies from and to at its own time.
struct Pinned {
  size_t bytes;
  bool owned;  // allocated by cuMemHostAlloc, not registered
};

struct Context {
  explicit Context(const Settings& settings);
  ~Context();

  Memory memory;
  Pool pool;
  uint64_t plain_bytes = 0;  // allocated outside the pool
  std::map<Pointer, Allocation> allocations;
  std::map<const unsigned char*, Pinned> pinned;
  std::shared_ptr<Stream> legacy;  // the stream that is called null
  std::map<void*, std::shared_ptr<Stream>> streams;
  std::vector<std::shared_ptr<Stream>> destroyed;  // streams without a handle, with work left
  std::map<void*, std::shared_ptr<Event>> events;
  std::map<void*, std::shared_ptr<Module>> modules;
  std::map<void*, std::shared_ptr<Kernel>> functions;
  std::map<void*, std::shared_ptr<Graph>> graphs, executables;
  std::set<std::shared_ptr<Capture>> captures;

  bool holds_pinned(const void* start, size_t bytes) const;
};

struct Driver {
  std::recursive_mutex lock;  // work that runs may ask for what it finds in memory
  bool initialised = false;
  Settings settings;
  Faults faults;
  Result sticky = SUCCESS;  // what a failed kernel left behind, for good
  uint64_t waits = 0;       // calls that waited for the device
  uint64_t downloaded = 0;  // bytes that copies took to the host
  int retained = 0;
  std::unique_ptr<Context> context;  // exists while it is retained
  Module* loading = nullptr;         // what kernels register into while their object is opened
};

extern Driver& driver;

// Whether the driver's context is current on this thread.
bool context_is_current();

Result complain(Result code, const std::string& message);

// What the device does when work goes wrong: says why, and lets every later call return `code`.
void fault(Result code, const std::string& message);

// Runs `body` under the lock, with the context current and intact.
template <class F>
Result call(F body) {
  std::lock_guard<std::recursive_mutex> held(driver.lock);
  if (!driver.initialised) return NOT_INITIALIZED;
  if (!context_is_current()) return INVALID_CONTEXT;
  return driver.sticky ? driver.sticky : body(*driver.context);
}

template <class T>
std::shared_ptr<T> find(const std::map<void*, std::shared_ptr<T>>& handles, void* handle) {
  auto it = handles.find(handle);
  return it == handles.end() ? nullptr : it->second;
}

}  // namespace sim
