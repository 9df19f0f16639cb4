// Runs a grid: block after block, each CUDA thread a fiber.
#pragma once
#include <cstddef>
#include <string>

#include "runtime.h"
#include "settings.h"

namespace sim {

constexpr int MAX_THREADS = 1024;                   // per block
constexpr size_t STATIC_SHARED_BYTES = 48 << 10;    // the most that static arrays of one block may take
constexpr size_t STATIC_ARENA_BYTES = 64 << 10;     // what they take here, with gaps
constexpr size_t DYNAMIC_SHARED_BYTES = 227 << 10;  // what sm_90 allows at most

class Memory;
class Regions;

struct Kernel {
  std::string name;
  unsigned max_threads;  // its launch bound
  void (*invoke)(void** arguments);
  const SimParameter* parameters;
  std::string declared;  // their types and names
  size_t dynamic_limit = STATIC_SHARED_BYTES;  // how much dynamic shared memory a launch may ask for
  bool limit_set = false;  // by the program; until then static arrays take their part of it
};

// Runs every block to its end. False if one of them deadlocked or diverged, or a check found something; the report is
// on standard error. One grid at a time: the caller holds a lock.
bool run_grid(const Kernel& kernel, SimIndex grid, SimIndex block, size_t dynamic_shared, void** arguments,
              Memory& memory, const Settings& settings);

// ---- the block that runs now, for the other files of the simulator ----

// The thread that runs now, and how many there are, counted as warps are made of them.
int current_thread();
int thread_count();
const Kernel& current_kernel();
// What addresses belong to, where kernels are instrumented.
Regions& current_regions();

// The launched bytes of dynamic shared memory; where shared memory begins, static arrays behind the dynamic part.
size_t dynamic_shared_bytes();
unsigned char* shared_memory();
// Whether [address, address + bytes) lies in shared memory that this block has: dynamic or a static array.
bool is_shared(const void* address, size_t bytes);

const Settings& current_settings();
uint64_t next_random();

// Where in the kernel the last lane of a collective was that now runs: a return address.
const void* collective_place();

// Ends the grid: reports, and abandons every thread where it stands.
[[noreturn]] void fail(const std::string& message);
std::string place(const char* file, int line);

// What the thread does now, for the report of a deadlock; over with wait_over.
void wait_in(const char* what, const char* file, int line);
void wait_over();
// Lets others run until somebody makes this thread ready again.
void block_here();
void make_ready(int thread);
// After this thread made others ready: whoever the schedule prefers goes first.
void yield();

}  // namespace sim
