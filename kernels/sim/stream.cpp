// Streams and events.
#include "stream.h"

#include <algorithm>

namespace sim {

// How much a card's own queue takes before a launch waits for room.
static constexpr size_t QUEUE = 1024;

bool Point::reached() const { return !stream || stream->done_ >= index; }

void Point::reach() const {
  if (stream) stream->run_to(index);
}

void Stream::push(Work work) {
  queue_.push_back(std::move(work));
  pushed_++;
  if (driver.settings.early) run_to(pushed_);
  if (queue_.size() > QUEUE) run_one();
}

void Stream::run_one() {
  Work work = std::move(queue_.front());
  queue_.pop_front();
  for (const Point& point : work.after) point.reach();
  if (!driver.sticky) work.run();  // a device that has faulted does nothing any more
  done_++;
}

void Stream::run_to(uint64_t index) {
  while (done_ < index) run_one();
}

std::shared_ptr<Stream> stream_of(Context& context, void* handle) {
  bool legacy = handle == nullptr || handle == reinterpret_cast<void*>(1);  // CU_STREAM_LEGACY
  return legacy ? context.legacy : find(context.streams, handle);
}

// Queues on a stream that is not being recorded.
static void queue(Context& context, Stream& stream, std::function<void()> run) {
  Work work{std::move(run), {}};
  auto follow = [&](Stream& other) {
    if (!other.idle()) work.after.push_back(other.end());
  };
  if (&stream == context.legacy.get()) {
    for (auto& entry : context.streams)
      if (entry.second->blocking) follow(*entry.second);
    for (auto& other : context.destroyed)
      if (other->blocking) follow(*other);
  } else if (stream.blocking) {
    follow(*context.legacy);
  }
  stream.push(std::move(work));
}

Result enqueue(Context& context, void* handle, std::function<void()> run) {
  auto stream = stream_of(context, handle);
  if (!stream) return INVALID_HANDLE;
  if (auto& capture = stream->capture) {
    if (capture->invalid) return STREAM_CAPTURE_INVALIDATED;
    capture->work.push_back({std::move(run), {}});
    return SUCCESS;
  }
  if (stream == context.legacy) {
    for (auto& capture : context.captures)
      if (capture->origin->blocking) return invalidate(*capture, STREAM_CAPTURE_IMPLICIT);
  }
  queue(context, *stream, std::move(run));
  return SUCCESS;
}

void run_all(Context& context) {
  auto drain = [](Stream& stream) { stream.end().reach(); };
  // Nothing orders streams but events; so their order here is a schedule's too.
  if (driver.settings.schedule == Schedule::Highest) {
    for (auto it = context.streams.rbegin(); it != context.streams.rend(); ++it) drain(*it->second);
  } else {
    for (auto& entry : context.streams) drain(*entry.second);
  }
  for (auto& stream : context.destroyed) drain(*stream);
  context.destroyed.clear();
  drain(*context.legacy);
}

Result invalidate(Capture& capture, Result code) {
  capture.invalid = true;
  return code;
}

Result refuse_in_capture(Context& context) {
  Result result = SUCCESS;
  for (auto& capture : context.captures) {
    bool disturbed = capture->mode == GLOBAL ||
                     (capture->mode == THREAD_LOCAL && capture->thread == std::this_thread::get_id());
    if (disturbed) result = invalidate(*capture, STREAM_CAPTURE_UNSUPPORTED);
  }
  return result;
}

// The program waits: what the pool has cached beyond its threshold goes back.
static Result waited(Context& context) {
  context.pool.trim(context.pool.threshold);
  return driver.sticky;
}

// A stream that is to be waited for, or asked: no capture may hold it.
static Result for_waiting(Context& context, void* handle, std::shared_ptr<Stream>& stream) {
  stream = stream_of(context, handle);
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) return invalidate(*stream->capture, STREAM_CAPTURE_UNSUPPORTED);
  return refuse_in_capture(context);
}

static Result for_waiting(Context& context, void* handle, std::shared_ptr<Event>& event) {
  event = find(context.events, handle);
  if (!event) return INVALID_HANDLE;
  if (auto capture = event->capture.lock()) return invalidate(*capture, CAPTURED_EVENT);
  return refuse_in_capture(context);
}

static Result create_stream(void** handle, unsigned flags) {
  return call([&](Context& context) -> Result {
    if (flags > 1) return INVALID_VALUE;
    auto stream = std::make_shared<Stream>(flags == 0);
    context.streams[stream.get()] = stream;
    return *handle = stream.get(), SUCCESS;
  });
}

// An answer of "not yet" lets the device go on by one step, so that asking again comes to an end.
static Result answer(const Point& point) {
  if (point.reached()) return driver.sticky;
  point.stream->run_one();
  return driver.sticky ? driver.sticky : Result{NOT_READY};
}

}  // namespace sim

using namespace sim;

SIM_EXPORT Result cuStreamCreate(void** stream, unsigned flags) { return create_stream(stream, flags); }
SIM_EXPORT Result cuStreamCreateWithPriority(void** stream, unsigned flags, int) {
  return create_stream(stream, flags);  // a priority is a wish
}

// Returns at once; the work that is left runs all the same.
SIM_EXPORT Result cuStreamDestroy_v2(void* handle) {
  return call([&](Context& context) -> Result {
    auto stream = find(context.streams, handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) context.captures.erase(stream->capture), stream->capture = nullptr;
    context.streams.erase(handle);
    if (!stream->idle()) context.destroyed.push_back(stream);
    return SUCCESS;
  });
}

SIM_EXPORT Result cuStreamSynchronize(void* handle) {
  return call([&](Context& context) {
    std::shared_ptr<Stream> stream;
    if (Result refused = for_waiting(context, handle, stream)) return refused;
    driver.waits++;
    stream->end().reach();
    return waited(context);
  });
}

SIM_EXPORT Result cuStreamQuery(void* handle) {
  return call([&](Context& context) {
    std::shared_ptr<Stream> stream;
    if (Result refused = for_waiting(context, handle, stream)) return refused;
    return answer(stream->end());
  });
}

SIM_EXPORT Result cuCtxSynchronize() {
  return call([](Context& context) {
    if (Result refused = refuse_in_capture(context)) return refused;
    driver.waits++;
    run_all(context);
    return waited(context);
  });
}

SIM_EXPORT Result cuStreamWaitEvent(void* handle, void* event_handle, unsigned flags) {
  return call([&](Context& context) -> Result {
    auto stream = stream_of(context, handle);
    auto event = find(context.events, event_handle);
    if (!stream || !event) return INVALID_HANDLE;
    if (flags != 0) return INVALID_VALUE;
    if (auto capture = event->capture.lock()) {
      if (stream->capture == capture) return SUCCESS;  // the recorded order is the order of the calls
      return complain(NOT_SUPPORTED, "a capture that spreads over several streams is not simulated");
    }
    if (stream->capture && event->recorded) return invalidate(*stream->capture, STREAM_CAPTURE_ISOLATION);
    if (!event->point.reached()) stream->push({[] {}, {event->point}});
    return SUCCESS;
  });
}

// ---- events ----

SIM_EXPORT Result cuEventCreate(void** handle, unsigned flags) {
  constexpr unsigned BLOCKING_SYNC = 1, DISABLE_TIMING = 2;
  return call([&](Context& context) -> Result {
    if (flags & ~(BLOCKING_SYNC | DISABLE_TIMING)) return INVALID_VALUE;
    auto event = std::make_shared<Event>();
    event->timed = !(flags & DISABLE_TIMING);
    context.events[event.get()] = event;
    return *handle = event.get(), SUCCESS;
  });
}

SIM_EXPORT Result cuEventDestroy_v2(void* handle) {
  return call([&](Context& context) { return context.events.erase(handle) ? SUCCESS : INVALID_HANDLE; });
}

SIM_EXPORT Result cuEventRecord(void* handle, void* stream_handle) {
  return call([&](Context& context) -> Result {
    auto event = find(context.events, handle);
    auto stream = stream_of(context, stream_handle);
    if (!event || !stream) return INVALID_HANDLE;
    event->capture = stream->capture;
    if (stream->capture) return stream->capture->invalid ? STREAM_CAPTURE_INVALIDATED : SUCCESS;
    auto at = std::make_shared<Clock::time_point>();
    if (Result refused = enqueue(context, stream_handle, [at] { *at = Clock::now(); })) return refused;
    event->recorded = true;
    event->at = at;
    event->point = stream->end();
    return SUCCESS;
  });
}

SIM_EXPORT Result cuEventQuery(void* handle) {
  return call([&](Context& context) {
    std::shared_ptr<Event> event;
    if (Result refused = for_waiting(context, handle, event)) return refused;
    return answer(event->point);
  });
}

SIM_EXPORT Result cuEventSynchronize(void* handle) {
  return call([&](Context& context) {
    std::shared_ptr<Event> event;
    if (Result refused = for_waiting(context, handle, event)) return refused;
    driver.waits++;
    event->point.reach();
    return waited(context);
  });
}

SIM_EXPORT Result cuEventElapsedTime_v2(float* milliseconds, void* start_handle, void* end_handle) {
  return call([&](Context& context) -> Result {
    auto start = find(context.events, start_handle), end = find(context.events, end_handle);
    for (auto& event : {start, end})
      if (!event || !event->timed || !event->recorded) return INVALID_HANDLE;
    if (!start->point.reached() || !end->point.reached()) return NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(*end->at - *start->at).count();
    return SUCCESS;
  });
}
SIM_EXPORT Result cuEventElapsedTime(float* milliseconds, void* start, void* end) {
  return cuEventElapsedTime_v2(milliseconds, start, end);
}
