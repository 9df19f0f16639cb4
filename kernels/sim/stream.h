// Streams: queues of work. `late` (see settings.h) lets work wait until the program may rely on it: a stream, event or
// context that is waited for, a blocking copy, a full queue. `early` runs it where it is queued. A program that is
// right under both has not leaned on when the device works.
#pragma once
#include <chrono>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "driver.h"

namespace sim {

// A place in a stream: reached when the work that was queued before it is done.
struct Point {
  std::shared_ptr<Stream> stream;
  uint64_t index = 0;

  bool reached() const;
  void reach() const;  // runs what has to run for it
};

struct Work {
  std::function<void()> run;  // under the driver's lock; may run more than once, in a graph
  std::vector<Point> after;   // what other streams have to do before
};

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  explicit Stream(bool blocking) : blocking(blocking) {}

  void push(Work work);
  Point end() { return {shared_from_this(), pushed_}; }  // behind everything queued so far
  bool idle() const { return queue_.empty(); }
  void run_one();
  void run_to(uint64_t index);

  const bool blocking;               // waits for the legacy stream and is waited for by it
  std::shared_ptr<Capture> capture;  // that records this stream, if one does

 private:
  friend struct Point;
  std::deque<Work> queue_;
  uint64_t pushed_ = 0, done_ = 0;
};

typedef std::chrono::steady_clock Clock;

struct Event {
  bool timed = true;
  bool recorded = false;
  Point point;                           // of the last recording
  std::shared_ptr<Clock::time_point> at; // when it was reached
  std::weak_ptr<Capture> capture;        // that the last recording belongs to
};

// Whose calls a capture forbids that might wait: everyone's, its own thread's, nobody's.
enum CaptureMode { GLOBAL = 0, THREAD_LOCAL = 1, RELAXED = 2 };

// A stream that is being recorded into a graph.
struct Capture {
  std::shared_ptr<Stream> origin;
  int mode;
  std::thread::id thread;
  bool invalid = false;
  std::vector<Work> work;
  std::map<Pointer, size_t> allocations;  // memory of the graph itself
  std::set<Pointer> unfreed;              // of it, what the graph has not freed
};

// The stream behind a handle; null if there is none.
std::shared_ptr<Stream> stream_of(Context& context, void* handle);

// Queues `run` on a stream, or records it.
Result enqueue(Context& context, void* stream, std::function<void()> run);

// Runs everything that is queued anywhere.
void run_all(Context& context);

// What a call is answered that could make the program wait for a stream that is being recorded: it would wait for
// ever. Invalidates the captures it would disturb.
Result refuse_in_capture(Context& context);

Result invalidate(Capture& capture, Result code);

}  // namespace sim
