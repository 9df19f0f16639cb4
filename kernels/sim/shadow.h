// What the checker remembers of memory: for every two bytes, the last write and the reads since.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace sim {

constexpr size_t GRANULE = 2;  // bytes a cell stands for: a bfloat16

// Accesses are dated by ticks of the checker's clock (order.h); 0: there was none.
struct Cell {
  uint32_t write_tick;
  uint32_t read_tick;
  uint64_t write;  // its place in the code, 48 bits; the actor, 16 bits
  uint64_t read;   // the place of one read, 48 bits; its warp, 8 bits; flags, 8 bits
  uint32_t read_lanes;  // of that warp, at that tick
  uint32_t more;        // further reads: an index into the checker's list, 0 for none
};

// The cells of one buffer, made when they are first asked for.
class Shadow {
 public:
  // Those of a buffer of `bytes` bytes. Pages of a large one are committed as they are touched.
  Cell* cells(size_t bytes) {
    if (!cells_) cells_.reset(static_cast<Cell*>(calloc(bytes / GRANULE + 1, sizeof(Cell))));
    return cells_.get();
  }

 private:
  struct Free {
    void operator()(Cell* cells) const { free(cells); }
  };
  std::unique_ptr<Cell, Free> cells_;
};

}  // namespace sim
