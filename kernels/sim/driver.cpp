// libcuda.so: initialisation, the device, its context, and the names of errors. The rest of the driver API lies in
// stream.cpp, allocation.cpp, transfer.cpp, module.cpp, launch.cpp, graph.cpp and tensor_map.cpp. A call that is not
// there is not simulated: the client's dlsym says so.
#include "driver.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "block.h"
#include "counters.h"
#include "graph.h"
#include "module.h"
#include "stream.h"

namespace sim {

Driver& driver = *new Driver;  // never destroyed: callers free buffers while the process ends

static thread_local Context* current;

bool context_is_current() { return driver.context && current == driver.context.get(); }

Result complain(Result code, const std::string& message) {
  fprintf(stderr, "simulated GPU: %s\n", message.c_str());
  return code;
}

void fault(Result code, const std::string& message) {
  complain(code, message);
  if (!driver.sticky) driver.sticky = code;
}

// Between allocations where bounds are checked: address space, hardly memory.
static constexpr size_t CHECKED_DISTANCE = 1 << 20;

Context::Context(const Settings& settings)
    : memory(settings.memory_bytes, settings.bounds ? CHECKED_DISTANCE : 0), legacy(std::make_shared<Stream>(true)) {}
Context::~Context() {
  for (auto& [start, pinned_memory] : pinned)
    if (pinned_memory.owned) free(const_cast<unsigned char*>(start));
}

const Memory* device_memory() { return driver.context ? &driver.context->memory : nullptr; }

struct Error {
  Result code;
  const char *name, *text;
};

static const Error ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {JIT_COMPILER_NOT_FOUND, "CUDA_ERROR_JIT_COMPILER_NOT_FOUND", "PTX JIT compiler library not found"},
    {SHARED_OBJECT_INIT_FAILED, "CUDA_ERROR_SHARED_OBJECT_INIT_FAILED", "shared object initialization failed"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {HOST_MEMORY_ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {HOST_MEMORY_NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {STREAM_CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
     "dependency created on uncaptured work in another stream"},
    {STREAM_CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT",
     "operation not permitted on an event last recorded in a capturing stream"},
    {STREAM_CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {INVALID_CLUSTER_SIZE, "CUDA_ERROR_INVALID_CLUSTER_SIZE", "invalid cluster configuration"},
};

static const Error* error(Result code) {
  for (const Error& error : ERRORS)
    if (error.code == code) return &error;
  return nullptr;
}

struct Attribute {
  int number, value;
};

// An H100's, but few multiprocessors, so that kernels which take several rows each do so in small tests.
static const Attribute ATTRIBUTES[] = {
    {1, 1024},        // threads per block
    {2, 1024},        // block x
    {3, 1024},        // block y
    {4, 64},          // block z
    {5, 2147483647},  // grid x
    {6, 65535},       // grid y
    {7, 65535},       // grid z
    {8, 48 << 10},    // shared memory per block, unless a function asks for more
    {9, 64 << 10},    // constant memory
    {10, 32},         // warp size
    {12, 65536},      // registers per block
    {13, 1980000},    // clock rate, kHz
    {15, 1},          // copies overlap with kernels
    {16, 4},          // multiprocessors
    {17, 0},          // kernels may run as long as they like
    {18, 0},          // integrated
    {19, 1},          // can map host memory
    {20, 0},          // compute mode: default
    {31, 1},          // concurrent kernels
    {32, 1},          // ECC
    {33, 0},          // PCI bus
    {34, 0},          // PCI device
    {36, 2619000},    // memory clock rate, kHz
    {37, 5120},       // memory bus width, bits
    {38, 50 << 20},   // L2 cache
    {40, 3},          // copy engines
    {41, 1},          // unified addressing
    {50, 0},          // PCI domain
    {78, 1},          // stream priorities
    {79, 1},          // L1 caches global memory
    {80, 1},          // L1 caches local memory
    {82, 65536},      // registers per multiprocessor
    {83, 0},          // managed memory: not simulated
    {95, 0},          // cooperative launch: not simulated, blocks run one after another
    {99, 1},          // host memory can be registered
    {111, 1 << 10},   // shared memory per block that the system takes
    {115, 1},         // memory pools
    {120, 0},         // launches across clusters: not simulated
};

// Those that follow from the architecture, and from the settings.
static bool of_architecture(int number, int& value) {
  const Architecture& architecture = *driver.settings.architecture;
  switch (number) {
    case 39: return value = architecture.unit_threads, true;
    case 75: return value = architecture.number / 10, true;  // compute capability, major
    case 76: return value = architecture.number % 10, true;  // and minor
    case 81: return value = architecture.unit_shared_bytes, true;
    case 97: return value = driver.settings.shared_bytes, true;  // that a function may ask for
    case 106: return value = architecture.unit_blocks, true;
  }
  return false;
}

static void report_waits() {
  fprintf(stderr, "waits=%llu\ndownloaded=%llu\n", static_cast<unsigned long long>(driver.waits),
          static_cast<unsigned long long>(driver.downloaded));
}

}  // namespace sim

using namespace sim;

SIM_EXPORT Result cuInit(unsigned flags) {
  std::lock_guard<std::recursive_mutex> held(driver.lock);
  if (flags != 0) return INVALID_VALUE;
  if (driver.initialised) return SUCCESS;
  if (const char* text = getenv("NEVA_SIM")) {
    std::string wrong = parse(text, driver.settings);
    if (!wrong.empty()) return complain(INVALID_VALUE, "NEVA_SIM: " + wrong);
  }
  if (const char* text = getenv("NEVA_SIM_FAULT")) {
    std::string wrong = driver.faults.parse(text);
    if (!wrong.empty()) return complain(INVALID_VALUE, "NEVA_SIM_FAULT: " + wrong);
  }
  if (driver.settings.waits) atexit(report_waits);
  driver.initialised = true;
  return SUCCESS;
}

SIM_EXPORT Result cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }

// ---- the device ----

static Result on_device(int device) {
  if (!driver.initialised) return NOT_INITIALIZED;
  return device == 0 ? SUCCESS : INVALID_DEVICE;
}

SIM_EXPORT Result cuDeviceGetCount(int* count) { return *count = 1, on_device(0); }
SIM_EXPORT Result cuDeviceGet(int* device, int ordinal) { return *device = 0, on_device(ordinal); }
SIM_EXPORT Result cuDeviceGetName(char* name, int size, int device) {
  if (Result wrong = on_device(device)) return wrong;
  snprintf(name, size, "simulated sm_%u", driver.settings.architecture->number);
  return SUCCESS;
}
SIM_EXPORT Result cuDeviceGetUuid_v2(char* uuid, int device) {
  if (Result wrong = on_device(device)) return wrong;
  char name[17];  // "simulated sm_120" has 16 characters
  snprintf(name, sizeof name, "simulated sm_%u", driver.settings.architecture->number);
  memcpy(uuid, name, 16);
  return SUCCESS;
}
SIM_EXPORT Result cuDeviceGetUuid(char* uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }
SIM_EXPORT Result cuDeviceTotalMem_v2(size_t* bytes, int device) {
  if (Result wrong = on_device(device)) return wrong;
  return *bytes = driver.settings.memory_bytes, SUCCESS;
}
SIM_EXPORT Result cuDeviceGetAttribute(int* value, int number, int device) {
  if (Result wrong = on_device(device)) return wrong;
  if (of_architecture(number, *value)) return SUCCESS;
  for (const Attribute& attribute : ATTRIBUTES)
    if (attribute.number == number) return *value = attribute.value, SUCCESS;
  return complain(INVALID_VALUE, "device attribute " + std::to_string(number) + " is not simulated");
}

// ---- its context ----

SIM_EXPORT Result cuDevicePrimaryCtxRetain(void** context, int device) {
  std::lock_guard<std::recursive_mutex> held(driver.lock);
  if (Result wrong = on_device(device)) return wrong;
  if (driver.retained++ == 0) driver.context = std::make_unique<Context>(driver.settings);
  return *context = driver.context.get(), SUCCESS;
}

// The last release destroys the context and all that was made in it, once its work is done.
SIM_EXPORT Result cuDevicePrimaryCtxRelease_v2(int device) {
  std::lock_guard<std::recursive_mutex> held(driver.lock);
  if (Result wrong = on_device(device)) return wrong;
  if (driver.retained == 0) return INVALID_CONTEXT;
  if (--driver.retained > 0) return SUCCESS;
  run_all(*driver.context);
  driver.context.reset();
  return SUCCESS;
}

SIM_EXPORT Result cuCtxSetCurrent(void* context) {
  std::lock_guard<std::recursive_mutex> held(driver.lock);
  if (!driver.initialised) return NOT_INITIALIZED;
  if (context && context != driver.context.get()) return INVALID_CONTEXT;
  current = static_cast<Context*>(context);
  return SUCCESS;
}
SIM_EXPORT Result cuCtxGetCurrent(void** context) {
  std::lock_guard<std::recursive_mutex> held(driver.lock);
  if (!driver.initialised) return NOT_INITIALIZED;
  return *context = context_is_current() ? current : nullptr, SUCCESS;
}
SIM_EXPORT Result cuCtxGetDevice(int* device) {
  return call([&](Context&) { return *device = 0, SUCCESS; });
}
SIM_EXPORT Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return call([&](Context&) { return *least = 0, *greatest = -5, SUCCESS; });
}

// ---- what profilers are told: work that was asked for before is not in the range, however late it runs ----

SIM_EXPORT Result cuProfilerStart() {
  return call([&](Context& context) { return run_all(context), counters::in_range = true, SUCCESS; });
}
SIM_EXPORT Result cuProfilerStop() {
  return call([&](Context& context) { return run_all(context), counters::in_range = false, SUCCESS; });
}

// ---- errors ----

SIM_EXPORT Result cuGetErrorName(Result code, const char** name) {
  const Error* known = error(code);
  *name = known ? known->name : nullptr;
  return known ? SUCCESS : INVALID_VALUE;
}
SIM_EXPORT Result cuGetErrorString(Result code, const char** text) {
  const Error* known = error(code);
  *text = known ? known->text : nullptr;
  return known ? SUCCESS : INVALID_VALUE;
}
