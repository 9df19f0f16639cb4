// Launches: arguments are copied at the call, the kernel runs with its stream.
#include <cstdlib>
#include <cstring>

#include "block.h"
#include "driver.h"
#include "hook.h"
#include "stream.h"

namespace sim {

// A kernel's arguments, copied. `pointers` is what invoke takes.
struct Arguments {
  std::unique_ptr<unsigned char, void (*)(void*)> bytes{nullptr, free};
  std::vector<void*> pointers;

  Arguments(const SimParameter* parameters, void** values) {
    constexpr size_t ALIGNMENT = 64;  // of the most aligned parameter there is, a tensor map
    std::vector<size_t> offsets;
    size_t end = 0;
    for (auto* p = parameters; p->bytes; p++) {
      end = (end + p->alignment - 1) / p->alignment * p->alignment;
      offsets.push_back(end);
      end += p->bytes;
    }
    bytes.reset(static_cast<unsigned char*>(aligned_alloc(ALIGNMENT, (end + ALIGNMENT) / ALIGNMENT * ALIGNMENT)));
    for (size_t i = 0; i < offsets.size(); i++) {
      pointers.push_back(bytes.get() + offsets[i]);
      memcpy(pointers[i], values[i], parameters[i].bytes);
    }
  }
};

static void run(Context& context, const Kernel& kernel, SimIndex grid, SimIndex block, size_t dynamic_shared,
                void** arguments) {
  if (driver.faults.launch()) return fault(LAUNCH_FAILED, "kernel " + kernel.name + ": NEVA_SIM_FAULT lets it fail");
  bool ran = run_grid(kernel, grid, block, dynamic_shared, arguments, context.memory, driver.settings);
  std::string overrun = context.memory.overrun();
  if (!overrun.empty()) fault(LAUNCH_FAILED, "kernel " + kernel.name + " " + overrun);
  else if (!ran && !driver.sticky) driver.sticky = LAUNCH_FAILED;  // run_grid has said why
}

static Result launch(Context& context, void* function, SimIndex grid, SimIndex block, size_t dynamic_shared,
                     void* stream, void** values, void** extra) {
  auto kernel = find(context.functions, function);
  if (!kernel) return INVALID_HANDLE;
  if (extra) return complain(NOT_SUPPORTED, kernel->name + ": arguments come as pointers here, not as a buffer");
  if (!values && kernel->parameters->bytes) return INVALID_VALUE;
  uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z, threads = uint64_t{block.x} * block.y * block.z;
  bool fits = blocks > 0 && grid.x < 1u << 31 && grid.y < 65536 && grid.z < 65536 && threads > 0 &&
              threads <= MAX_THREADS && block.z <= 64 && dynamic_shared <= kernel->dynamic_limit;
  if (!fits) return INVALID_VALUE;
  if (threads > kernel->max_threads) return LAUNCH_OUT_OF_RESOURCES;
  if (threads % 32 != 0) return complain(INVALID_VALUE, kernel->name + ": blocks are whole warps here");
  if (blocks >= uint64_t{1} << 31) return complain(INVALID_VALUE, kernel->name + ": too many blocks to simulate");
  auto arguments = std::make_shared<Arguments>(kernel->parameters, values);
  return enqueue(context, stream, [&context, kernel, grid, block, dynamic_shared, arguments] {
    run(context, *kernel, grid, block, dynamic_shared, arguments->pointers.data());
  });
}

// CUlaunchAttribute and CUlaunchConfig.
struct LaunchAttribute {
  int id;
  char padding[4];
  union {
    unsigned cluster[3];
    int flag;
    char bytes[64];
  } value;
};
struct LaunchConfig {
  SimIndex grid, block;
  unsigned dynamic_shared;
  void* stream;
  const LaunchAttribute* attributes;
  unsigned count;
};

enum LaunchAttributeId { IGNORE = 0, CLUSTER_DIMENSION = 4, PROGRAMMATIC_STREAM_SERIALIZATION = 6 };

// A grid may start early under programmatic stream serialisation and has to wait where it needs its forerunner; here
// it starts when the forerunner is over.
static Result honour(const LaunchAttribute& attribute) {
  switch (attribute.id) {
    case IGNORE: return SUCCESS;
    case PROGRAMMATIC_STREAM_SERIALIZATION:
      return attribute.value.flag == 0 || attribute.value.flag == 1 ? SUCCESS : INVALID_VALUE;
    case CLUSTER_DIMENSION:
      for (unsigned blocks : attribute.value.cluster) {
        if (blocks == 0) return INVALID_CLUSTER_SIZE;
        if (blocks != 1) return complain(NOT_SUPPORTED, "clusters of several blocks are not simulated");
      }
      return SUCCESS;
  }
  return complain(NOT_SUPPORTED, "launch attribute " + std::to_string(attribute.id) + " is not simulated");
}

int enqueue_library(void* stream, const std::string& name, std::function<std::string()> run) {
  return call([&](Context& context) {
    return enqueue(context, stream, [name, run = std::move(run)] {
      if (driver.faults.launch()) return fault(LAUNCH_FAILED, name + ": NEVA_SIM_FAULT lets it fail");
      std::string wrong = run();
      if (!wrong.empty()) fault(ILLEGAL_ADDRESS, name + ": " + wrong);
    });
  });
}

bool on_device(const void* start, size_t bytes) {
  std::lock_guard<std::recursive_mutex> held(driver.lock);
  return driver.context && driver.context->memory.contains(reinterpret_cast<uint64_t>(start), bytes);
}

}  // namespace sim

using namespace sim;

SIM_EXPORT Result cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                 unsigned block_y, unsigned block_z, unsigned dynamic_shared, void* stream,
                                 void** arguments, void** extra) {
  return call([&](Context& context) {
    return launch(context, function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, dynamic_shared, stream,
                  arguments, extra);
  });
}

SIM_EXPORT Result cuLaunchKernelEx(const LaunchConfig* config, void* function, void** arguments, void** extra) {
  return call([&](Context& context) -> Result {
    if (!config) return INVALID_VALUE;
    for (unsigned i = 0; i < config->count; i++)
      if (Result refused = honour(config->attributes[i])) return refused;
    return launch(context, function, config->grid, config->block, config->dynamic_shared, config->stream, arguments,
                  extra);
  });
}
