// One launch over many tensors of any sizes: each is cut into chunks, and a block does one chunk, so blocks are equally
// long whatever the tensors are. A table in global memory has a record per tensor, in the order of their chunks;
// device/tensors.rs writes it.
#pragma once
#include "elementwise.cuh"

constexpr u32 CHUNK = 16 * 1024;  // elements; device/tensors.rs has the same number
constexpr u32 CHUNK_THREADS = 256;

// What a record begins with; addresses follow.
struct Extent {
  u64 elements;
  u64 first_chunk;
};

// The record of the tensor that a chunk belongs to: nine loads from cache for 300 tensors.
template <class Record>
DEV Record record_of(const Record* table, u32 tensors, u32 chunk) {
  u32 low = 0;
  for (u32 count = tensors; count > 1;) {
    const u32 half = count / 2;
    if (table[low + half].extent.first_chunk <= chunk) low += half, count -= half;
    else count = half;
  }
  return table[low];
}

// Which elements of its tensor a chunk has.
struct Range {
  u64 first;
  u32 count;
};

DEV Range range_of(const Extent& extent, u32 chunk) {
  const u64 first = (chunk - extent.first_chunk) * CHUNK, left = extent.elements - first;
  return {first, (u32)min(left, (u64)CHUNK)};
}
