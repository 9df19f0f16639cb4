// cuTensorMapEncodeTiled, with the rules its documentation gives.
#include "tensor_map.h"

#include <string>

#include "driver.h"

namespace sim {

static constexpr unsigned BYTES[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};  // of each CUtensorMapDataType
static constexpr int FIRST_FLOAT = 6, TYPES = sizeof BYTES / sizeof *BYTES;

static std::string at(const char* what, unsigned i, uint64_t value, const std::string& rule) {
  return std::string(what) + "[" + std::to_string(i) + "] is " + std::to_string(value) + ": expected " + rule;
}

// What is wrong with the arguments, or an empty string.
static std::string refuse(int type, unsigned rank, uint64_t address, const uint64_t* dims, const uint64_t* strides,
                          const uint32_t* box, const uint32_t* steps, int interleave, int swizzle, int promotion,
                          int fill) {
  if (type < 0 || type >= TYPES) return "data type " + std::to_string(type) + " is unknown";
  if (rank < 1 || rank > 5) return "rank is " + std::to_string(rank) + ": expected 1 to 5";
  if (interleave != 0) return "interleaved layouts are not simulated";
  if (swizzle < 0 || swizzle > 3) return "swizzle " + std::to_string(swizzle) + " is not simulated";
  if (promotion < 0 || promotion > 3) return "L2 promotion " + std::to_string(promotion) + " is unknown";
  if (fill < 0 || fill > 1) return "fill " + std::to_string(fill) + " is unknown";
  if (fill == 1 && type < FIRST_FLOAT) return "only floating-point elements are filled with NaN";
  if (address % 16 != 0) return "the global address is not aligned to 16 bytes";
  uint64_t bytes = BYTES[type];
  for (unsigned i = 0; i < rank; i++) {
    if (dims[i] == 0 || dims[i] > uint64_t{1} << 32) return at("globalDim", i, dims[i], "1 to 2^32");
    if (box[i] == 0 || box[i] > 256) return at("boxDim", i, box[i], "1 to 256");
    if (steps[i] == 0 || steps[i] > 8) return at("elementStrides", i, steps[i], "1 to 8");
  }
  uint64_t inner = box[0] * bytes;
  if (inner % 16 != 0) return "boxDim[0] is " + std::to_string(inner) + " bytes: expected a multiple of 16";
  uint64_t span = uint64_t{16} << swizzle;
  if (swizzle != 0 && inner > span)
    return "boxDim[0] is " + std::to_string(inner) + " bytes: expected at most the swizzle's " + std::to_string(span);
  uint64_t least = dims[0] * bytes;
  for (unsigned i = 0; i + 1 < rank; i++) {
    if (strides[i] % 16 != 0 || strides[i] >= uint64_t{1} << 40)
      return at("globalStrides", i, strides[i], "a multiple of 16 below 2^40");
    if (strides[i] < least) return at("globalStrides", i, strides[i], "at least " + std::to_string(least));
    least = dims[i + 1] * strides[i];
  }
  return "";
}

}  // namespace sim

using namespace sim;

SIM_EXPORT Result cuTensorMapEncodeTiled(SimTensorMap* map, int type, unsigned rank, void* global, const uint64_t* dims,
                                         const uint64_t* strides, const uint32_t* box, const uint32_t* steps,
                                         int interleave, int swizzle, int promotion, int fill) {
  return call([&](Context&) -> Result {
    if (reinterpret_cast<uint64_t>(map) % alignof(SimTensorMap) != 0)
      return complain(INVALID_VALUE, "cuTensorMapEncodeTiled: the map is not aligned to 64 bytes");
    auto address = reinterpret_cast<uint64_t>(global);
    std::string wrong =
        refuse(type, rank, address, dims, strides, box, steps, interleave, swizzle, promotion, fill);
    if (!wrong.empty()) return complain(INVALID_VALUE, "cuTensorMapEncodeTiled: " + wrong);
    *map = SimTensorMap{};
    map->magic = SimTensorMap::MAGIC;
    map->address = address;
    map->rank = rank, map->type = type, map->element_bytes = BYTES[type];
    map->interleave = interleave, map->swizzle = swizzle, map->nan_fill = fill;
    for (unsigned i = 0; i < rank; i++) {
      map->last[i] = static_cast<uint32_t>(dims[i] - 1);
      map->box[i] = box[i];
      map->element_strides[i] = steps[i];
      if (i > 0) map->strides[i - 1] = strides[i - 1];
    }
    return SUCCESS;
  });
}
