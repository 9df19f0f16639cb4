// What a tensor map (CUtensorMap, 128 opaque bytes) holds here: cuTensorMapEncodeTiled writes it, the TMA engine of
// async.cpp reads it. The names are those of the call's arguments.
#pragma once
#include <cstdint>

struct alignas(64) SimTensorMap {
  static constexpr uint64_t MAGIC = 0x7061'4d72'6f73'6e54;

  uint64_t magic;              // MAGIC: made by the call
  uint64_t address;            // of the first element
  uint64_t strides[4];         // bytes from one row to the next, of dimensions 1 and up
  uint32_t last[5];            // size - 1 of each dimension, the contiguous one first
  uint16_t box[5];             // elements of a tile
  uint8_t element_strides[5];  // of the tile's elements in memory
  uint8_t rank;
  uint8_t type;                // CUtensorMapDataType
  uint8_t element_bytes;       // of that type
  uint8_t interleave;          // CUtensorMapInterleave
  uint8_t swizzle;             // CUtensorMapSwizzle: 0 none, 1, 2, 3: within 32, 64, 128 bytes
  uint8_t nan_fill;            // whether elements outside the tensor read as NaN, not as 0
  uint8_t reserved[39];
};
static_assert(sizeof(SimTensorMap) == 128, "as large as CUtensorMap");
