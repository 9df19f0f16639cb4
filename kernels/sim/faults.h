// What NEVA_SIM_FAULT asks to go wrong, to see a program through it: comma-separated KIND:N pairs.
//
//   launch:N   the N-th kernel that runs in this process fails, as if it had faulted
//   alloc:N    the N-th allocation of device memory finds no room
#pragma once
#include <cstdint>
#include <set>
#include <string>

namespace sim {

class Faults {
 public:
  // Reads `text`; returns what is wrong with it, or an empty string.
  std::string parse(const char* text);
  // Counts a kernel or an allocation; whether it is to fail.
  bool launch() { return launches_.count(++launched_) > 0; }
  bool allocation() { return allocations_.count(++allocated_) > 0; }

 private:
  std::set<uint64_t> launches_, allocations_;
  uint64_t launched_ = 0, allocated_ = 0;
};

}  // namespace sim
