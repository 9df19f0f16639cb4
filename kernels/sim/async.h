// What runs beside the threads of a block: mbarrier objects in shared memory, and the TMA engine, which copies tiles
// between global and shared memory.
//
// A load poisons its destination when it is started and copies as late as it may: when all threads wait. A store reads
// its source at the wait that says it has been read, and writes at the one that says it has been written. With `early`
// all of it happens at once. The tensor map is copied when a copy is started.
#pragma once
#include <string>

namespace sim {

void async_block_begins();
// A thread returns; then all have. Both fail if a copy may still touch shared memory that then is another block's.
void async_thread_returns();
void async_block_ends();

// Of each mbarrier that threads wait at, what its phase misses, for the report of a deadlock.
std::string mbarriers();

// Whether the engine has a load to do; does one, chosen by the schedule, and says whether there was any.
bool engine_busy();
bool engine_step();

}  // namespace sim
