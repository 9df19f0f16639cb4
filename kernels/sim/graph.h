// Graphs: what a stream was asked to do while it was recorded, to be asked again.
#pragma once
#include "stream.h"

namespace sim {

// Memory that a graph allocates and frees itself. It has its addresses for as long as the graph exists.
class GraphMemory {
 public:
  GraphMemory(Context& context, std::map<Pointer, size_t> allocations)
      : context_(context), allocations_(std::move(allocations)) {}
  GraphMemory(const GraphMemory&) = delete;
  ~GraphMemory();

 private:
  Context& context_;  // which owns every graph
  std::map<Pointer, size_t> allocations_;
};

struct Graph {
  std::vector<Work> work;
  std::shared_ptr<GraphMemory> memory;
};

// cuMemAllocAsync and cuMemFreeAsync on a stream that is being recorded.
Result record_allocation(Context& context, Capture& capture, Pointer address, size_t bytes);
Result record_free(Capture& capture, Pointer address);

}  // namespace sim
