// What NEVA_SIM asks for: comma-separated key=value pairs.
//
//   schedule=lowest|highest|round|random:SEED   which ready thread runs next, and the order of blocks (lowest)
//   late | early                                whether a copy that does not wait is over at the last moment that
//                                               it may, or at once (late)
//   memory=BYTES                                how much device memory there is (8 GiB)
//   shared=BYTES                                how much shared memory a block may have (227 KiB)
//   check=race+bounds+proxy                     any of the three: finds accesses that nothing orders, accesses
//                                               beyond what they belong to, and writes that the async proxy may not
//                                               see (proxy, with race); see checker.h
//   count=1 | count=range                       counts what a profiler would show, of all launches or of those between
//                                               cuProfilerStart and cuProfilerStop; see counters.h
//   waits=1                                     a line waits=N on standard error when the process ends: how many calls
//                                               waited for the device
//
// check and count see every access of a kernel, so kernels are compiled in another way for them: instrumented.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace sim {

enum class Schedule { Lowest, Highest, Round, Random };

struct Settings {
  Schedule schedule = Schedule::Lowest;
  uint64_t seed = 1;
  bool early = false;
  size_t memory_bytes = size_t{8} << 30;
  size_t shared_bytes = size_t{227} << 10;
  bool races = false, bounds = false, proxy = false;
  bool waits = false;
  bool count = false, range = false;  // range: count only between cuProfilerStart and cuProfilerStop

  bool instrumented() const { return races || bounds || count; }
};

// Reads `text` into `settings`; returns what is wrong with it, or an empty string.
std::string parse(const char* text, Settings& settings);

}  // namespace sim
