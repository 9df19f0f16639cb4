// libcuda.so: the part of the CUDA driver API that NeVA calls, over the simulator. One device of compute
// capability 9.0, one context. Every stream is in order and complete when a call returns, but a kernel that fails
// is reported as the hardware reports it: the launch succeeds, and every later call returns the error.
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "block.h"
#include "memory.h"
#include "settings.h"

using namespace sim;

namespace {

typedef int Result;  // CUresult
typedef uint64_t Pointer;

enum : Result {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  NO_BINARY_FOR_GPU = 209,
  JIT_COMPILER_NOT_FOUND = 221,
  SHARED_OBJECT_INIT_FAILED = 303,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  LAUNCH_OUT_OF_RESOURCES = 701,
  LAUNCH_FAILED = 719,
};

struct Error {
  Result code;
  const char *name, *text;
};
const Error ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {JIT_COMPILER_NOT_FOUND, "CUDA_ERROR_JIT_COMPILER_NOT_FOUND", "PTX JIT compiler library not found"},
    {SHARED_OBJECT_INIT_FAILED, "CUDA_ERROR_SHARED_OBJECT_INIT_FAILED", "shared object initialization failed"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
};

// What kernels register into while cuModuleLoadData opens their shared object.
struct Module {
  void* object = nullptr;
  int file = -1;
  std::vector<std::unique_ptr<Kernel>> kernels;
};

struct Driver {
  std::mutex lock;
  Settings settings;
  std::unique_ptr<Memory> memory;  // exists after cuInit
  Result sticky = SUCCESS;         // what a failed kernel left behind
  Module* loading = nullptr;
};

Driver& driver = *new Driver;  // never destroyed: callers free buffers while the process ends

}  // namespace

const Memory* sim::device_memory() { return driver.memory.get(); }

namespace {

Result complain(Result code, const std::string& message) {
  fprintf(stderr, "simulated GPU: %s\n", message.c_str());
  return code;
}

// Runs `body` under the lock, unless the driver is not initialised or a kernel has failed.
template <class F>
Result call(F body) {
  std::lock_guard<std::mutex> held(driver.lock);
  if (!driver.memory) return NOT_INITIALIZED;
  return driver.sticky ? driver.sticky : body();
}

Result copy(void* to, const void* from, size_t bytes, Pointer device_side) {
  return call([&] {
    if (!driver.memory->contains(device_side, bytes)) return INVALID_VALUE;
    memcpy(to, from, bytes);
    return SUCCESS;
  });
}

void* host(Pointer p) { return reinterpret_cast<void*>(p); }

#if defined(__x86_64__)
constexpr int THIS_MACHINE = EM_X86_64;
#else
constexpr int THIS_MACHINE = EM_AARCH64;
#endif
constexpr int CUDA_MACHINE = 190;  // EM_CUDA: real SASS

// What the driver would say to this image, were it a GPU whose instructions are this machine's.
Result inspect(const unsigned char* image) {
  if (memcmp(image, "//", 2) == 0 || memcmp(image, ".version", 8) == 0) return JIT_COMPILER_NOT_FOUND;
  if (memcmp(image, ELFMAG, SELFMAG) != 0) return INVALID_IMAGE;
  int machine = reinterpret_cast<const Elf64_Ehdr*>(image)->e_machine;
  if (machine == CUDA_MACHINE) return NO_BINARY_FOR_GPU;
  return machine == THIS_MACHINE ? SUCCESS : INVALID_IMAGE;
}

// The image comes without its size; a linker puts the section table last.
size_t size_of(const unsigned char* image) {
  auto* header = reinterpret_cast<const Elf64_Ehdr*>(image);
  return header->e_shoff + size_t{header->e_shnum} * header->e_shentsize;
}

bool write_all(int file, const unsigned char* bytes, size_t n) {
  while (n > 0) {
    ssize_t written = write(file, bytes, n);
    if (written <= 0) return false;
    bytes += written, n -= written;
  }
  return true;
}

void close_module(Module* module) {
  if (module->object) dlclose(module->object);
  if (module->file >= 0) close(module->file);
  delete module;
}

}  // namespace

void sim_register(const char* name, unsigned max_threads, void (*invoke)(void**)) {
  if (driver.loading) driver.loading->kernels.emplace_back(new Kernel{name, max_threads, invoke});
}

// ---- device and context ----

SIM_EXPORT Result cuInit(unsigned) {
  std::lock_guard<std::mutex> held(driver.lock);
  if (driver.memory) return SUCCESS;
  if (const char* text = getenv("NEVA_SIM")) {
    std::string wrong = parse(text, driver.settings);
    if (!wrong.empty()) return complain(INVALID_VALUE, "NEVA_SIM: " + wrong);
  }
  driver.memory = std::make_unique<Memory>(driver.settings.memory_bytes);
  return SUCCESS;
}

SIM_EXPORT Result cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
SIM_EXPORT Result cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
SIM_EXPORT Result cuDeviceGet(int* device, int ordinal) {
  *device = 0;
  return ordinal == 0 ? SUCCESS : INVALID_DEVICE;
}
SIM_EXPORT Result cuDeviceGetName(char* name, int size, int) {
  snprintf(name, size, "simulated sm_90");
  return SUCCESS;
}
SIM_EXPORT Result cuDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 16: *value = 4; return SUCCESS;   // multiprocessors: few, so that persistent kernels take several rows each
    case 75: *value = 9; return SUCCESS;   // compute capability, major
    case 76: *value = 0; return SUCCESS;   // and minor
    case 115: *value = 1; return SUCCESS;  // memory pools
  }
  return complain(INVALID_VALUE, "device attribute " + std::to_string(attribute) + " is not simulated");
}
SIM_EXPORT Result cuDevicePrimaryCtxRetain(void** context, int) { return *context = &driver, SUCCESS; }
SIM_EXPORT Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
SIM_EXPORT Result cuCtxSetCurrent(void*) { return SUCCESS; }

// ---- streams ----

SIM_EXPORT Result cuStreamCreate(void** stream, unsigned) {
  return call([&] { return *stream = &driver, SUCCESS; });
}
SIM_EXPORT Result cuStreamDestroy_v2(void*) { return SUCCESS; }
SIM_EXPORT Result cuStreamSynchronize(void*) {
  return call([] { return SUCCESS; });
}

// ---- memory ----

SIM_EXPORT Result cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = &driver, SUCCESS; }
SIM_EXPORT Result cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }  // nothing to cache, nothing to trim
SIM_EXPORT Result cuMemAllocAsync(Pointer* pointer, size_t bytes, void*) {
  return call([&] {
    if (bytes == 0) return INVALID_VALUE;
    *pointer = driver.memory->allocate(bytes);
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
  });
}
SIM_EXPORT Result cuMemFreeAsync(Pointer pointer, void*) {
  return call([&] { return driver.memory->release(pointer) ? SUCCESS : INVALID_VALUE; });
}
SIM_EXPORT Result cuMemGetInfo_v2(size_t* free, size_t* total) {
  return call([&] {
    *free = driver.memory->free_bytes();
    *total = driver.memory->capacity();
    return SUCCESS;
  });
}
SIM_EXPORT Result cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, void*) {
  return call([&] {
    if (!driver.memory->contains(to, bytes)) return INVALID_VALUE;
    memset(host(to), value, bytes);
    return SUCCESS;
  });
}
SIM_EXPORT Result cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void*) {
  return copy(host(to), from, bytes, to);
}
SIM_EXPORT Result cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void*) {
  return copy(to, host(from), bytes, from);
}
SIM_EXPORT Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void*) {
  return call([&] {
    if (!driver.memory->contains(to, bytes) || !driver.memory->contains(from, bytes)) return INVALID_VALUE;
    memmove(host(to), host(from), bytes);
    return SUCCESS;
  });
}

// ---- modules and launches ----

SIM_EXPORT Result cuModuleLoadData(void** result, const void* data) {
  return call([&]() -> Result {
    auto* image = static_cast<const unsigned char*>(data);
    if (Result refused = inspect(image)) return refused;
    auto* module = new Module;
    // The file stays open: a second one must not get this one's number, or dlopen would know its path already.
    module->file = memfd_create("kernels", MFD_CLOEXEC);
    if (module->file >= 0 && write_all(module->file, image, size_of(image))) {
      driver.loading = module;
      module->object = dlopen(("/proc/self/fd/" + std::to_string(module->file)).c_str(), RTLD_NOW | RTLD_LOCAL);
      driver.loading = nullptr;
    }
    if (!module->object) {
      const char* why = dlerror();
      close_module(module);
      return complain(SHARED_OBJECT_INIT_FAILED, why ? why : "cannot write a module to memory");
    }
    *result = module;
    return SUCCESS;
  });
}

SIM_EXPORT Result cuModuleUnload(void* module) {
  std::lock_guard<std::mutex> held(driver.lock);
  close_module(static_cast<Module*>(module));
  return SUCCESS;
}

SIM_EXPORT Result cuModuleGetFunction(void** function, void* module, const char* name) {
  return call([&] {
    for (auto& kernel : static_cast<Module*>(module)->kernels) {
      if (kernel->name != name) continue;
      *function = kernel.get();
      return SUCCESS;
    }
    return NOT_FOUND;
  });
}

SIM_EXPORT Result cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                 unsigned block_y, unsigned block_z, unsigned shared_bytes, void*, void** arguments,
                                 void**) {
  return call([&]() -> Result {
    const Kernel& kernel = *static_cast<Kernel*>(function);
    uint64_t blocks = uint64_t{grid_x} * grid_y * grid_z, threads = uint64_t{block_x} * block_y * block_z;
    bool fits = blocks > 0 && blocks < uint64_t{1} << 31 && grid_y < 65536 && grid_z < 65536 && threads > 0 &&
                threads <= MAX_THREADS && shared_bytes <= DYNAMIC_SHARED_BYTES;
    if (!fits) return INVALID_VALUE;
    if (threads > kernel.max_threads) return LAUNCH_OUT_OF_RESOURCES;
    if (threads % 32 != 0) return complain(INVALID_VALUE, kernel.name + ": blocks are whole warps here");
    SimIndex grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    bool ran = run_grid(kernel, grid, block, shared_bytes, arguments, driver.settings);
    std::string overrun = driver.memory->overrun();
    if (!overrun.empty()) complain(LAUNCH_FAILED, "kernel " + kernel.name + " " + overrun);
    if (!ran || !overrun.empty()) driver.sticky = LAUNCH_FAILED;
    return SUCCESS;  // a launch is asynchronous: what went wrong comes back with the next call
  });
}

// ---- errors ----

static const Error* find(Result code) {
  for (const Error& error : ERRORS)
    if (error.code == code) return &error;
  return nullptr;
}
SIM_EXPORT Result cuGetErrorName(Result code, const char** name) {
  const Error* error = find(code);
  *name = error ? error->name : nullptr;
  return error ? SUCCESS : INVALID_VALUE;
}
SIM_EXPORT Result cuGetErrorString(Result code, const char** text) {
  const Error* error = find(code);
  *text = error ? error->text : nullptr;
  return error ? SUCCESS : INVALID_VALUE;
}
