// Each function is written from the instruction's definition in the PTX ISA manual, chapter 9.7.
#include "collective.h"

#include <cstring>

#include "wgmma.h"

namespace sim {
namespace {

struct Call {
  uint32_t mask;
  SimLane* const (&lanes)[LANES];

  bool has(int lane) const { return mask >> lane & 1; }
  bool whole() const { return mask == ~0u; }
};

std::string shuffle(const Call& call) {
  for (int l = 0; l < LANES; l++) {
    if (!call.has(l)) continue;
    const SimLane& lane = *call.lanes[l];
    if (!call.has(lane.source))
      return "lane " + std::to_string(l) + " shuffles from lane " + std::to_string(lane.source) +
             ", which is not in the mask";
    memcpy(lane.out, call.lanes[lane.source]->in, lane.bytes);
  }
  return "";
}

std::string ballot(const Call& call) {
  uint32_t votes = 0;
  for (int l = 0; l < LANES; l++)
    if (call.has(l)) votes |= *static_cast<const uint32_t*>(call.lanes[l]->in) << l;
  for (int l = 0; l < LANES; l++)
    if (call.has(l)) memcpy(call.lanes[l]->out, &votes, sizeof votes);
  return "";
}

// A lane's `in` is the row it points to, already read; `out` is one register per matrix.
std::string ldmatrix(const Call& call, bool transposed) {
  for (int l = 0; l < LANES; l++) {
    auto* registers = static_cast<uint32_t*>(call.lanes[l]->out);
    for (int matrix = 0; matrix < 4; matrix++) {
      uint16_t pair[2];
      for (int e = 0; e < 2; e++) {
        int row = l / 4, column = l % 4 * 2 + e;
        if (transposed) std::swap(row, column);
        pair[e] = static_cast<const uint16_t*>(call.lanes[matrix * 8 + row]->in)[column];
      }
      registers[matrix] = pair[0] | uint32_t{pair[1]} << 16;
    }
  }
  return "";
}

float widen(uint32_t half) {
  uint32_t bits = half << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// A lane's `in` is a[0..4], b0, b1; `out` is d[0..4], to be added to.
std::string mma_bf16(const Call& call) {
  float a[16][16], b[8][16];
  for (int l = 0; l < LANES; l++) {
    auto* in = static_cast<const uint32_t*>(call.lanes[l]->in);
    int g = l / 4, t = l % 4 * 2;
    for (int e = 0; e < 2; e++) {
      auto half = [&](int i) { return widen(in[i] >> (16 * e) & 0xffff); };
      a[g][t + e] = half(0);
      a[g + 8][t + e] = half(1);
      a[g][t + 8 + e] = half(2);
      a[g + 8][t + 8 + e] = half(3);
      b[g][t + e] = half(4);
      b[g][t + 8 + e] = half(5);
    }
  }
  for (int l = 0; l < LANES; l++) {
    auto* d = static_cast<float*>(call.lanes[l]->out);
    for (int i = 0; i < 4; i++) {
      int row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
      float sum = 0;  // products are exact in f32; the order in which the hardware adds them is its own
      for (int k = 0; k < 16; k++) sum += a[row][k] * b[column][k];
      d[i] += sum;
    }
  }
  return "";
}

}  // namespace

const char* name_of(SimCollective op) {
  switch (op) {
    case SIM_SYNCWARP: return "__syncwarp";
    case SIM_SHUFFLE: return "a shuffle";
    case SIM_BALLOT: return "__ballot_sync";
    case SIM_LDMATRIX: return "ldmatrix";
    case SIM_LDMATRIX_TRANS: return "ldmatrix.trans";
    case SIM_MMA_BF16: return "mma";
    case SIM_SETMAXNREG: return "setmaxnreg";
    case SIM_WGMMA: return "wgmma";
    case SIM_WGMMA_FENCE: return "wgmma.fence";
    case SIM_WGMMA_COMMIT: return "wgmma.commit_group";
    case SIM_WGMMA_WAIT: return "wgmma.wait_group";
  }
  return "?";
}

std::string compute(SimCollective op, uint32_t mask, SimLane* const (&lanes)[LANES]) {
  Call call{mask, lanes};
  switch (op) {
    case SIM_SYNCWARP: return "";
    case SIM_SHUFFLE: return shuffle(call);
    case SIM_BALLOT: return ballot(call);
    case SIM_LDMATRIX: return ldmatrix(call, false);
    case SIM_LDMATRIX_TRANS: return ldmatrix(call, true);
    case SIM_MMA_BF16: return mma_bf16(call);
    case SIM_SETMAXNREG: return "";  // registers are not counted here
    case SIM_WGMMA: return wgmma_issue(lanes);
    case SIM_WGMMA_FENCE: return wgmma_fence();
    case SIM_WGMMA_COMMIT: return wgmma_commit();
    case SIM_WGMMA_WAIT: return wgmma_wait(lanes[0]->source);
  }
  return "an unknown collective";
}

}  // namespace sim
