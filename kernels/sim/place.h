// Where in its source an instruction of a kernel lies.
#pragma once
#include <map>
#include <string>
#include <vector>

namespace sim {

// "rms_norm.cu:31", or with what was inlined there "reduce.cuh:12, inlined at rms_norm.cu:31"; `places` are return
// addresses of hooks. One process per module is run to find out, so ask for many at once.
std::map<const void*, std::string> places_of(const std::vector<const void*>& places);
std::string place_of(const void* place);

}  // namespace sim
