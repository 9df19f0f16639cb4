// Runs a grid: block after block, each CUDA thread a fiber.
#pragma once
#include <cstddef>
#include <string>

#include "runtime.h"
#include "settings.h"

namespace sim {

constexpr unsigned MAX_THREADS = 1024;             // per block
constexpr size_t STATIC_SHARED_BYTES = 48 << 10;   // the most that static arrays of one block may take
constexpr size_t DYNAMIC_SHARED_BYTES = 227 << 10; // what sm_90 allows at most

struct Kernel {
  std::string name;
  unsigned max_threads;  // its launch bound
  void (*invoke)(void** arguments);
};

// Runs every block to its end. False if one of them deadlocked or diverged; the report is on standard error.
// One grid at a time: the caller holds a lock.
bool run_grid(const Kernel& kernel, SimIndex grid, SimIndex block, size_t dynamic_shared, void** arguments,
              const Settings& settings);

}  // namespace sim
