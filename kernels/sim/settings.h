// What NEVA_SIM asks for: comma-separated key=value pairs.
//
//   schedule=lowest|highest|round|random:SEED   which ready thread runs next, and the order of blocks (lowest)
//   late | early                                whether a copy that does not wait is over at the last moment that
//                                               it may, or at once (late)
//   memory=BYTES                                how much device memory there is (8 GiB)
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
};

// Reads `text` into `settings`; returns what is wrong with it, or an empty string.
std::string parse(const char* text, Settings& settings);

}  // namespace sim
