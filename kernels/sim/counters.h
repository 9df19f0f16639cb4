// What a profiler would show of a kernel, counted from its addresses. A table on standard error when the process ends,
// one line per fact, sorted, over all launches of a kernel; words are key=value, the first is `count`:
//
//   count kernel=K launches=N blocks=N
//   count kernel=K buffer=B read=R read_least=R0 written=W written_least=W0
//   count kernel=K place=P space=global access=read width=16 requests=N bytes=B sectors=N sectors_least=N
//   count kernel=K place=P space=shared access=write width=4 requests=N bytes=B passes=N passes_least=N ways=N
//   count kernel=K place=P instruction=mma threads=N
//
// - K: the kernel's name. P: a line of the source; behind < where it was inlined.
// - A request is one instruction of a warp: the n-th time that its lanes do the access, for each n.
// - buffer: B names the arguments that point into it (? if none does). R: bytes that requests ask for; a byte that
//   several lanes of one ask for counts once. R0: bytes that are asked for at all, in each launch: R = R0 where each
//   byte is read once. W and W0 likewise.
// - bytes: that the requests ask for; a byte that several lanes of one ask for counts once.
// - sectors: of 32 bytes, that the requests touch; least: as many as the bytes they ask for fill.
// - passes: how often the banks of shared memory (32, of 4 bytes) are gone through. A request of 4 or fewer bytes per
//   lane needs one, one of 8 bytes two (a half warp each), one of 16 bytes four (eight lanes each, as ldmatrix's rows);
//   more where lanes want different words of one bank. least: without such conflicts. ways: the worst, 1 is none.
// - threads: how many threads executed a wrapper of ptx.cuh: by 32, how many warps did.
//
// An access is what the source says: a vector that is copied is one of 16 bytes; its elements, read through a reference to
// it, are so many accesses, though a compiler may join them. Accesses of the TMA engine and of wgmma are not counted.
#pragma once
#include <cstddef>
#include <cstdint>

#include "block.h"

namespace sim::counters {

// Whether the launch that runs is counted: the functions below need not be called if not.
extern bool on;

// Whether the program is between cuProfilerStart and cuProfilerStop.
extern bool in_range;

void grid_begins(const Settings& settings, uint64_t blocks);
void grid_ends();
void block_ends();

// The running thread accesses memory. `natural`: in one access, not as many as its alignment needs.
void access(uint64_t address, size_t bytes, bool write, bool natural, const void* place);
// Threads execute a wrapper.
void instruction(const char* name, int threads, const void* place);

// A module is unloaded: its addresses may become another's.
void forget_places();

}  // namespace sim::counters
