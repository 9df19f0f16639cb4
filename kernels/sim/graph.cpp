// Stream capture and graphs.
#include "graph.h"

#include <cstring>

namespace sim {

GraphMemory::~GraphMemory() {
  for (auto [address, bytes] : allocations_) {
    context_.memory.release(address);
    context_.pool.give(bytes);
  }
}

Result record_allocation(Context& context, Capture& capture, Pointer address, size_t bytes) {
  capture.allocations[address] = bytes;
  capture.unfreed.insert(address);
  // Each launch finds what a fresh allocation holds.
  capture.work.push_back({[&context, address, bytes] { context.memory.poison(address, bytes); }, {}});
  return SUCCESS;
}

// A graph frees what it allocates itself, nothing else.
Result record_free(Capture& capture, Pointer address) {
  return capture.unfreed.erase(address) ? SUCCESS : invalidate(capture, INVALID_VALUE);
}

}  // namespace sim

using namespace sim;

SIM_EXPORT Result cuStreamBeginCapture_v2(void* handle, int mode) {
  return call([&](Context& context) -> Result {
    auto stream = stream_of(context, handle);
    if (!stream) return INVALID_HANDLE;
    if (mode < 0 || mode > RELAXED) return INVALID_VALUE;
    if (stream == context.legacy) return STREAM_CAPTURE_UNSUPPORTED;
    if (stream->capture) return ILLEGAL_STATE;
    auto capture = std::make_shared<Capture>();
    capture->origin = stream, capture->mode = mode, capture->thread = std::this_thread::get_id();
    context.captures.insert(capture);
    return stream->capture = capture, SUCCESS;
  });
}

SIM_EXPORT Result cuStreamIsCapturing(void* handle, int* status) {
  constexpr int NONE = 0, ACTIVE = 1, INVALIDATED = 2;
  return call([&](Context& context) -> Result {
    auto stream = stream_of(context, handle);
    if (!stream) return INVALID_HANDLE;
    *status = !stream->capture ? NONE : stream->capture->invalid ? INVALIDATED : ACTIVE;
    return SUCCESS;
  });
}

SIM_EXPORT Result cuStreamEndCapture(void* handle, void** graph_handle) {
  return call([&](Context& context) -> Result {
    auto stream = stream_of(context, handle);
    if (!stream) return INVALID_HANDLE;
    auto capture = stream->capture;
    if (!capture) return ILLEGAL_STATE;
    if (capture->mode != RELAXED && capture->thread != std::this_thread::get_id()) {
      return invalidate(*capture, STREAM_CAPTURE_WRONG_THREAD);
    }
    stream->capture = nullptr;
    context.captures.erase(capture);
    *graph_handle = nullptr;
    auto memory = std::make_shared<GraphMemory>(context, std::move(capture->allocations));
    if (capture->invalid) return STREAM_CAPTURE_INVALIDATED;
    if (!capture->unfreed.empty())
      return complain(NOT_SUPPORTED, "a graph that does not free all the memory it allocates is not simulated");
    auto graph = std::make_shared<Graph>(Graph{std::move(capture->work), memory});
    context.graphs[graph.get()] = graph;
    return *graph_handle = graph.get(), SUCCESS;
  });
}

SIM_EXPORT Result cuGraphInstantiateWithFlags(void** executable, void* handle, unsigned long long flags) {
  constexpr unsigned long long AUTO_FREE_ON_LAUNCH = 1, USE_NODE_PRIORITY = 8;
  return call([&](Context& context) -> Result {
    auto graph = find(context.graphs, handle);
    if (!graph) return INVALID_HANDLE;
    if (flags & ~(AUTO_FREE_ON_LAUNCH | USE_NODE_PRIORITY))
      return complain(NOT_SUPPORTED, "graphs that are uploaded or launched by the device are not simulated");
    auto made = std::make_shared<Graph>(*graph);
    context.executables[made.get()] = made;
    return *executable = made.get(), SUCCESS;
  });
}

SIM_EXPORT Result cuGraphLaunch(void* executable, void* stream) {
  return call([&](Context& context) -> Result {
    auto graph = find(context.executables, executable);
    if (!graph) return INVALID_HANDLE;
    // One piece of work, so that nothing of another stream comes between; it holds the graph until it is done.
    return enqueue(context, stream, [graph] {
      for (const Work& work : graph->work)
        if (!driver.sticky) work.run();
    });
  });
}
SIM_EXPORT Result cuGraphUpload(void* executable, void* stream) {
  return call([&](Context& context) -> Result {
    return find(context.executables, executable) && stream_of(context, stream) ? SUCCESS : INVALID_HANDLE;
  });
}

SIM_EXPORT Result cuGraphDestroy(void* graph) {
  return call([&](Context& context) -> Result { return context.graphs.erase(graph) ? SUCCESS : INVALID_HANDLE; });
}
SIM_EXPORT Result cuGraphExecDestroy(void* executable) {
  return call([&](Context& context) -> Result {
    return context.executables.erase(executable) ? SUCCESS : INVALID_HANDLE;
  });
}

// With no array to fill, says how many there are.
SIM_EXPORT Result cuGraphGetNodes(void* handle, void** nodes, size_t* count) {
  return call([&](Context& context) -> Result {
    auto graph = find(context.graphs, handle);
    if (!graph) return INVALID_HANDLE;
    if (nodes) return complain(NOT_SUPPORTED, "the nodes of a graph are not simulated, only their number");
    return *count = graph->work.size(), SUCCESS;
  });
}
