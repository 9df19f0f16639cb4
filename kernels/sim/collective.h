// What the collectives of a warp compute once every lane of the mask has come.
#pragma once
#include <string>

#include "runtime.h"

namespace sim {

constexpr int LANES = 32;

const char* name_of(SimCollective op);

// Computes the results of all lanes in `mask` from what they bring. Returns what is wrong, or an empty string.
std::string compute(SimCollective op, uint32_t mask, SimLane* const (&lanes)[LANES]);

}  // namespace sim
