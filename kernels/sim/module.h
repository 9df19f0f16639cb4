// What cuModuleLoadData makes of an image: a shared object that is open, and the kernels in it.
#pragma once
#include <memory>
#include <vector>

#include "block.h"

namespace sim {

struct Module {
  Module() = default;
  Module(const Module&) = delete;
  ~Module();  // closes the object: whatever may still run a kernel holds the module

  void* object = nullptr;
  int file = -1;
  std::vector<std::unique_ptr<Kernel>> kernels;
  bool of_this_kind = true;  // instrumented or not, as NEVA_SIM needs it
};

}  // namespace sim
