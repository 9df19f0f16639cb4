// What NEVA_SIM asks for: comma-separated key=value pairs.
//
//   schedule=lowest|highest|round|random:SEED   which ready thread runs next, and the order of blocks (lowest)
//   late | early                                whether a copy that does not wait is over at the last moment that
//                                               it may, or at once (late)
//   memory=BYTES                                how much device memory there is (8 GiB)
//   arch=80|89|90|100|120                       the compute capability, times ten (90): what kernels are compiled for,
//                                               and how much shared memory a block may have
//   shared=BYTES                                how much it may have instead (227 KiB for 90)
//   check=race+bounds+proxy                     any of the three: finds accesses that nothing orders, accesses
//                                               beyond what they belong to, and writes that the async proxy may not
//                                               see (proxy, with race); see checker.h
//   count=1 | count=range                       counts what a profiler would show, of all launches or of those between
//                                               cuProfilerStart and cuProfilerStop; see counters.h
//   waits=1                                     two lines on standard error when the process ends: waits=N, how many
//                                               calls waited for the device, and downloaded=N, bytes that copies took
//                                               from it to the host
//
// check and count see every access of a kernel, so kernels are compiled in another way for them: instrumented.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace sim {

enum class Schedule { Lowest, Highest, Round, Random };

// What kernels notice of a generation of GPUs.
struct Architecture {
  unsigned number;                              // compute capability times ten
  unsigned shared_bytes, unit_shared_bytes;     // shared memory of a block at most, and of a multiprocessor
  unsigned unit_threads, unit_blocks;           // of a multiprocessor
};

// That of this number, or null.
const Architecture* architecture(uint64_t number);

struct Settings {
  Schedule schedule = Schedule::Lowest;
  uint64_t seed = 1;
  bool early = false;
  size_t memory_bytes = size_t{8} << 30;
  const Architecture* architecture = sim::architecture(90);
  size_t shared_bytes = architecture->shared_bytes;
  bool races = false, bounds = false, proxy = false;
  bool waits = false;
  bool count = false, range = false;  // range: count only between cuProfilerStart and cuProfilerStop

  bool instrumented() const { return races || bounds || count; }
};

// Reads `text` into `settings`; returns what is wrong with it, or an empty string.
std::string parse(const char* text, Settings& settings);

}  // namespace sim
