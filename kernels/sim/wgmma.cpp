#include "wgmma.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "block.h"
#include "checker.h"

namespace sim {
namespace {

constexpr int WARPS = MAX_THREADS / LANES;
constexpr int GROUP_WARPS = 4;  // of a warpgroup
constexpr int ROWS = 16;        // of a warp
constexpr int DEPTH = 16;

// The accumulators of one warp: one array per lane, all of the same length.
struct Accumulators {
  float* of[LANES];
  size_t length;
};

// A product that was started and is not over.
struct Product {
  SimWgmma what;
  Accumulators d;
  uint32_t group;
  checker::Task task;
  // What the accumulators held before, if no product in front of this one writes them.
  std::vector<float> before;
};

struct Warp {
  std::vector<Product> products;
  uint32_t group;  // which the next product belongs to
  bool fenced;     // since the last wait
  size_t issued;
};

struct Machine {
  Warp warps[WARPS];
  std::vector<SimWgmma> issued[WARPS / GROUP_WARPS];  // by each warpgroup, in order
};

Machine& machine = *new Machine;  // never destroyed: see block.cpp

Warp& warp() { return machine.warps[current_thread() / LANES]; }

// A matrix in shared memory with k along rows of 128 bytes, eight of which share a pattern: chunk c of row r lies at
// chunk c ^ (r % 8).
struct Matrix {
  uint32_t start, stride;  // of eight rows

  explicit Matrix(uint64_t descriptor)
      : start((descriptor & 0x3fff) << 4), stride((descriptor >> 32 & 0x3fff) << 4) {}

  uint32_t address(int row, int k) const {
    uint32_t linear = start + row / 8 * stride + row % 8 * 128 + k * 2;
    return linear ^ (linear >> 7 & 7) << 4;
  }

  // Eight values, which the swizzle moves together.
  const unsigned char* piece(int row, int k) const { return shared_memory() + address(row, k); }

  float at(int row, int k) const {
    uint16_t half;
    memcpy(&half, piece(row, k), sizeof half);
    uint32_t bits = uint32_t{half} << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }

  std::string check(uint64_t descriptor, int rows, const char* name) const {
    std::string matrix = std::string("the descriptor of ") + name;
    if (descriptor >> 62 != 1) return matrix + " has another swizzle than that of 128 bytes, which is not simulated";
    if ((descriptor >> 49 & 7) != 0 || (start >> 7 & 7) != 0 || stride % 1024 != 0)
      return matrix + " does not begin where its swizzle does, at a multiple of 1024 bytes";
    for (int row = 0; row < rows; row++)
      for (int k = 0; k < DEPTH; k += 8)
        if (!is_shared(piece(row, k), 16)) return matrix + " reaches beyond shared memory";
    return "";
  }
};

bool same(const SimWgmma& a, const SimWgmma& b) {
  return a.a == b.a && a.b == b.b && a.columns == b.columns && a.accumulate == b.accumulate;
}

// Sets the accumulators to NaN, and says what they held.
std::vector<float> take(const Accumulators& d) {
  std::vector<float> held;
  for (float* lane : d.of) {
    held.insert(held.end(), lane, lane + d.length);
    std::fill_n(lane, d.length, NAN);
  }
  return held;
}

void put_back(const Accumulators& d, const std::vector<float>& held) {
  for (int l = 0; l < LANES; l++) std::copy_n(held.data() + l * d.length, d.length, d.of[l]);
}

// Reads some rows of the operand, for the checker.
void watch_reads(checker::Task& task, const Matrix& matrix, int first, int rows) {
  for (int row = first; row < first + rows; row++)
    for (int k = 0; k < DEPTH; k += 8) task.read(matrix.piece(row, k), 16);
}

void run(Product& product) {
  const Matrix a(product.what.a), b(product.what.b);
  const int columns = product.what.columns, first = current_thread() / LANES % GROUP_WARPS * ROWS;
  if (!product.before.empty()) put_back(product.d, product.before);
  if (checker::races) {
    watch_reads(product.task, a, first, ROWS);
    watch_reads(product.task, b, 0, columns);
  }
  float left[ROWS][DEPTH];
  for (int row = 0; row < ROWS; row++)
    for (int k = 0; k < DEPTH; k++) left[row][k] = a.at(first + row, k);
  for (int column = 0; column < columns; column++) {
    float right[DEPTH];
    for (int k = 0; k < DEPTH; k++) right[k] = b.at(column, k);
    for (int row = 0; row < ROWS; row++) {
      float sum = 0;  // as for mma: the order in which the hardware adds is its own
      for (int k = 0; k < DEPTH; k++) sum += left[row][k] * right[k];
      // Lane 4 (row % 8) + (column % 8) / 2 holds it, two columns and two rows of eight in turn.
      float& d = product.d.of[row % 8 * 4 + column % 8 / 2][column / 8 * 4 + row / 8 * 2 + column % 2];
      d = product.what.accumulate ? d + sum : sum;
    }
  }
}

// Ends what was started before group `end`. What a later product goes on to write stays NaN.
void end_until(Warp& w, uint32_t end) {
  size_t done = 0;
  while (done < w.products.size() && w.products[done].group < end) {
    Product& product = w.products[done++];
    if (!current_settings().early) run(product);
    for (int l = 0; l < LANES; l++) product.task.wait(current_thread() / LANES * LANES + l);
    const Accumulators& d = product.d;
    for (size_t next = done; next < w.products.size(); next++) {
      if (current_settings().early || w.products[next].d.of[0] != d.of[0]) continue;
      w.products[next].before = take(d);
      break;
    }
  }
  w.products.erase(w.products.begin(), w.products.begin() + done);
}

}  // namespace

void wgmma_block_begins() {
  for (Warp& w : machine.warps) {
    w.products.clear();
    w.group = 0;
    w.fenced = false;
    w.issued = 0;
  }
  for (auto& group : machine.issued) group.clear();
}

void wgmma_thread_returns() {
  if (!warp().products.empty())
    fail("thread " + std::to_string(current_thread()) + " returns without waiting for its wgmma");
}

void wgmma_block_ends() {
  for (int w = 0; w * LANES < thread_count(); w++)
    if (machine.warps[w].issued != machine.issued[w / GROUP_WARPS].size())
      fail("warp " + std::to_string(w) + " issued fewer wgmma than others of its warpgroup");
}

std::string wgmma_fence() { return warp().fenced = true, ""; }

std::string wgmma_issue(SimLane* const (&lanes)[LANES]) {
  auto& what = *static_cast<const SimWgmma*>(lanes[0]->in);
  Product product{what, {{}, what.columns / 2}, warp().group, {"wgmma", collective_place()}, {}};
  for (int l = 0; l < LANES; l++) {
    product.task.started_by(current_thread() / LANES * LANES + l);
    if (!same(*static_cast<const SimWgmma*>(lanes[l]->in), what)) return "the lanes of a wgmma differ in its operands";
    product.d.of[l] = static_cast<float*>(lanes[l]->out);
  }
  int number = current_thread() / LANES;
  if (thread_count() < (number / GROUP_WARPS + 1) * GROUP_WARPS * LANES)
    return "wgmma in a warp that is not part of four whole warps";
  auto& issued = machine.issued[number / GROUP_WARPS];
  if (warp().issued == issued.size()) issued.push_back(what);
  if (!same(issued[warp().issued++], what)) return "the warps of a warpgroup issue different wgmma";
  std::string wrong = Matrix(what.a).check(what.a, GROUP_WARPS * ROWS, "a");
  if (wrong.empty()) wrong = Matrix(what.b).check(what.b, what.columns, "b");
  if (!wrong.empty()) return wrong;
  bool chained = false;
  for (const Product& earlier : warp().products) chained |= earlier.d.of[0] == product.d.of[0];
  // Stricter than the hardware, which asks for a fence only if the registers were touched.
  if (!chained && !warp().fenced) return "no wgmma.fence between what the accumulators held and a wgmma";
  if (current_settings().early) run(product);
  else if (!chained) product.before = take(product.d);
  warp().products.push_back(std::move(product));
  return "";
}

std::string wgmma_commit() { return warp().group++, ""; }

std::string wgmma_wait(uint32_t newest) {
  Warp& w = warp();
  if (w.group > newest) end_until(w, w.group - newest);
  w.fenced = false;
  return "";
}

}  // namespace sim
