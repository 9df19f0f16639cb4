// A fiber: a stack of its own and a hand-written switch, so that a thousand CUDA threads cost a thousand stacks
// and no kernel scheduling. Switching takes well under 100 ns.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sim {

// Room for a kernel's registers and local arrays, unoptimised builds included. Pages are committed when touched.
constexpr size_t STACK_BYTES = 256 << 10;

// A stack with a guard page below it: an overflow faults instead of writing into a neighbour.
class Stack {
 public:
  Stack();
  ~Stack();
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  // Lays out a first frame so that switching to the returned stack pointer enters `entry`, which never returns.
  void* prepare(void (*entry)());
  uint64_t start() const { return reinterpret_cast<uint64_t>(base_); }

 private:
  unsigned char* base_;
};

// Saves the callee-saved registers on the current stack and its pointer in `*save`, then continues at `to`.
extern "C" void sim_switch(void** save, void* to);

}  // namespace sim
