// Which accesses of an instrumented kernel are looked at, and by whom.
#pragma once
#include <cstdint>

namespace sim {

struct Watch {
  uint64_t stack = 0;  // where the running thread's stack begins
  bool check = false;  // whether accesses go to the checker
  bool count = false;  // and to the counters
};
extern Watch watch;

}  // namespace sim
