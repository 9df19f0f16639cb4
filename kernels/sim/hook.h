// What libcublasLt.so needs of libcuda.so: NVIDIA's library launches kernels, ours queues its own code.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#define SIM_HOOK __attribute__((visibility("default")))

namespace sim {

// Queues `run` on a stream as if it were a kernel of this name; returns a CUresult. `run` says what is wrong, an
// access to memory that is not there, say, or nothing.
SIM_HOOK int enqueue_library(void* stream, const std::string& name, std::function<std::string()> run);

// Whether all of [start, start + bytes) lies in one allocation of the device.
SIM_HOOK bool on_device(const void* start, size_t bytes);

}  // namespace sim
