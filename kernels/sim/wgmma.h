// wgmma: matrix products of a warpgroup that run beside it, from operands in shared memory.
//
// A product reads its operands and writes its accumulators at the wait that it must be over at; from its start until
// then the accumulators are NaN. With `early` it is done when it is started. Each warp computes its own 16 rows when
// it comes, since the instruction promises no synchronisation between the four: that one has waited says nothing of the
// others. That they all issue the same is checked. The functions are called once per warp, by its last lane, and return what is wrong, or nothing.
#pragma once
#include <string>

#include "collective.h"
#include "runtime.h"

namespace sim {

void wgmma_block_begins();
void wgmma_thread_returns();
void wgmma_block_ends();

std::string wgmma_fence();
std::string wgmma_issue(SimLane* const (&lanes)[LANES]);
std::string wgmma_commit();
std::string wgmma_wait(uint32_t newest);

}  // namespace sim
