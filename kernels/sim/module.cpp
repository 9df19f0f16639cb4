// Modules and functions.
#include "module.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "counters.h"
#include "driver.h"
#include "stream.h"

namespace sim {

Module::~Module() {
  counters::forget_places();
  if (object) dlclose(object);
  if (file >= 0) close(file);
}

#if defined(__x86_64__)
static constexpr int THIS_MACHINE = EM_X86_64;
#else
static constexpr int THIS_MACHINE = EM_AARCH64;
#endif
static constexpr int CUDA_MACHINE = 190;  // EM_CUDA: real SASS

// What the driver would say to this image, were it a GPU whose instructions are this machine's.
static Result inspect(const unsigned char* image) {
  if (memcmp(image, "//", 2) == 0 || memcmp(image, ".version", 8) == 0) return JIT_COMPILER_NOT_FOUND;
  if (memcmp(image, ELFMAG, SELFMAG) != 0) return INVALID_IMAGE;
  int machine = reinterpret_cast<const Elf64_Ehdr*>(image)->e_machine;
  if (machine == CUDA_MACHINE) return NO_BINARY_FOR_GPU;
  return machine == THIS_MACHINE ? SUCCESS : INVALID_IMAGE;
}

// The image comes without its size; a linker puts the section table last.
static size_t size_of(const unsigned char* image) {
  auto* header = reinterpret_cast<const Elf64_Ehdr*>(image);
  return header->e_shoff + size_t{header->e_shnum} * header->e_shentsize;
}

static bool write_all(int file, const unsigned char* bytes, size_t n) {
  while (n > 0) {
    ssize_t written = write(file, bytes, n);
    if (written <= 0) return false;
    bytes += written, n -= written;
  }
  return true;
}

// Opens `image`; `log` gets what the loader says if it cannot.
static Result load(Context& context, void** handle, const void* data, std::string& log) {
  if (Result refused = refuse_in_capture(context)) return refused;
  auto* image = static_cast<const unsigned char*>(data);
  if (Result refused = inspect(image)) return refused;
  auto module = std::make_shared<Module>();
  // The file stays open: a second one must not get this one's number, or dlopen would know its path already.
  module->file = memfd_create("kernels", MFD_CLOEXEC);
  if (module->file >= 0 && write_all(module->file, image, size_of(image))) {
    driver.loading = module.get();
    module->object = dlopen(("/proc/self/fd/" + std::to_string(module->file)).c_str(), RTLD_NOW | RTLD_LOCAL);
    driver.loading = nullptr;
  }
  if (!module->object) {
    const char* why = dlerror();
    log = why ? why : "cannot write a module to memory";
    return complain(SHARED_OBJECT_INIT_FAILED, log);
  }
  if (!module->of_this_kind) return INVALID_IMAGE;
  context.modules[module.get()] = module;
  return *handle = module.get(), SUCCESS;
}

// The buffers among the options of cuModuleLoadDataEx. The other options are the JIT compiler's, which has nothing to
// do for an image of machine code.
enum JitOption { INFO_LOG = 3, INFO_LOG_BYTES = 4, ERROR_LOG = 5, ERROR_LOG_BYTES = 6 };

// Fills a log buffer, if the options name one, and says how much of it is used.
static void write_log(const std::string& text, int buffer_option, unsigned count, const int* options, void** values) {
  char* buffer = nullptr;
  void** size = nullptr;
  for (unsigned i = 0; i < count; i++) {
    if (options[i] == buffer_option) buffer = static_cast<char*>(values[i]);
    if (options[i] == buffer_option + 1) size = &values[i];
  }
  if (!buffer || !size || !*size) return;
  size_t n = std::min(text.size(), reinterpret_cast<size_t>(*size) - 1);
  memcpy(buffer, text.data(), n);
  buffer[n] = 0;
  *size = reinterpret_cast<void*>(n);
}

}  // namespace sim

using namespace sim;

void sim_register(const SimKernel& kernel) {
  if (!driver.loading) return;
  driver.loading->kernels.emplace_back(
      new Kernel{kernel.name, kernel.max_threads, kernel.invoke, kernel.parameters, kernel.declared});
  driver.loading->of_this_kind &= kernel.instrumented == driver.settings.instrumented();
}

SIM_EXPORT Result cuModuleLoadData(void** module, const void* image) {
  std::string log;
  return call([&](Context& context) { return load(context, module, image, log); });
}

SIM_EXPORT Result cuModuleLoadDataEx(void** module, const void* image, unsigned count, int* options, void** values) {
  std::string log;
  Result result = call([&](Context& context) { return load(context, module, image, log); });
  write_log("", INFO_LOG, count, options, values);
  write_log(log, ERROR_LOG, count, options, values);
  return result;
}

// Launches that have not run yet keep the code.
SIM_EXPORT Result cuModuleUnload(void* handle) {
  return call([&](Context& context) -> Result {
    auto module = find(context.modules, handle);
    if (!module) return INVALID_HANDLE;
    for (auto& kernel : module->kernels) context.functions.erase(kernel.get());
    context.modules.erase(handle);
    return SUCCESS;
  });
}

SIM_EXPORT Result cuModuleGetFunction(void** function, void* handle, const char* name) {
  return call([&](Context& context) -> Result {
    auto module = find(context.modules, handle);
    if (!module) return INVALID_HANDLE;
    for (auto& kernel : module->kernels) {
      if (kernel->name != name) continue;
      context.functions[kernel.get()] = std::shared_ptr<Kernel>(module, kernel.get());
      return *function = kernel.get(), SUCCESS;
    }
    return NOT_FOUND;
  });
}

// There are none to find: kernels here declare no variables outside functions, ptx.cuh has no word for them.
SIM_EXPORT Result cuModuleGetGlobal_v2(Pointer*, size_t*, void* handle, const char*) {
  return call([&](Context& context) -> Result { return find(context.modules, handle) ? NOT_FOUND : INVALID_HANDLE; });
}

// ---- functions ----

enum FunctionAttribute {
  MAX_THREADS_PER_BLOCK = 0,
  CONST_BYTES = 2,
  LOCAL_BYTES = 3,
  PTX_VERSION = 5,
  BINARY_VERSION = 6,
  CACHE_MODE_CA = 7,
  MAX_DYNAMIC_SHARED_BYTES = 8,
  SHARED_CARVEOUT = 9,
};

SIM_EXPORT Result cuFuncGetAttribute(int* value, int attribute, void* function) {
  return call([&](Context& context) -> Result {
    auto kernel = find(context.functions, function);
    if (!kernel) return INVALID_HANDLE;
    switch (attribute) {
      case MAX_THREADS_PER_BLOCK: return *value = kernel->max_threads, SUCCESS;
      case PTX_VERSION:
      case BINARY_VERSION: return *value = 90, SUCCESS;
      case MAX_DYNAMIC_SHARED_BYTES: return *value = kernel->dynamic_limit, SUCCESS;
      case CONST_BYTES:
      case LOCAL_BYTES:
      case CACHE_MODE_CA: return *value = 0, SUCCESS;
      case SHARED_CARVEOUT: return *value = -1, SUCCESS;  // the driver's choice
    }
    // Registers and static shared memory: a compiler for another machine does not tell.
    return complain(INVALID_VALUE, "function attribute " + std::to_string(attribute) + " is not simulated");
  });
}

SIM_EXPORT Result cuFuncSetAttribute(void* function, int attribute, int value) {
  return call([&](Context& context) -> Result {
    auto kernel = find(context.functions, function);
    if (!kernel) return INVALID_HANDLE;
    if (attribute == SHARED_CARVEOUT) return value >= -1 && value <= 100 ? SUCCESS : INVALID_VALUE;  // a wish
    if (attribute != MAX_DYNAMIC_SHARED_BYTES) return INVALID_VALUE;
    if (value < 0 || static_cast<size_t>(value) > driver.settings.shared_bytes) return INVALID_VALUE;
    kernel->dynamic_limit = value, kernel->limit_set = true;
    return SUCCESS;
  });
}
SIM_EXPORT Result cuFuncSetCacheConfig(void* function, int) {
  return call([&](Context& context) -> Result { return find(context.functions, function) ? SUCCESS : INVALID_HANDLE; });
}

// By threads, dynamic shared memory and the limit of blocks. Registers and static shared memory are not known here, so
// a card may run fewer.
SIM_EXPORT Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* function, int threads,
                                                              size_t dynamic_shared) {
  constexpr size_t RESERVED = 1 << 10, GRAIN = 128;
  return call([&](Context& context) -> Result {
    auto kernel = find(context.functions, function);
    if (!kernel) return INVALID_HANDLE;
    if (threads <= 0) return INVALID_VALUE;
    *blocks = 0;
    if (static_cast<unsigned>(threads) > kernel->max_threads || dynamic_shared > kernel->dynamic_limit) return SUCCESS;
    int whole_warps = (threads + 31) / 32 * 32;
    size_t shared = (dynamic_shared + GRAIN - 1) / GRAIN * GRAIN + RESERVED;
    const Architecture& unit = *driver.settings.architecture;
    *blocks = std::min({static_cast<int>(unit.unit_blocks), static_cast<int>(unit.unit_threads) / whole_warps,
                        static_cast<int>(unit.unit_shared_bytes / shared)});
    return SUCCESS;
  });
}
SIM_EXPORT Result cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* function, int threads,
                                                                       size_t dynamic_shared, unsigned) {
  return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, dynamic_shared);
}
