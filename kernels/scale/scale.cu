// Product with a constant, in place; forward and backward are the same.
//
// Mapping   One grid-stride loop over vectors of 16 bytes (elementwise.cuh).
// Tile      fwd: {ELEMENTWISE_THREADS * IN_FLIGHT} vectors at a time.
// Memory    One read and one write per element, four vectors of a thread on their way. What is left of a last vector,
//           and views that are not 16-byte aligned, go one value at a time. Registers by NVRTC 12.9 on sm_90a:
//           at most 40.
// Hazards   None: the thread that reads a value rewrites it.
// Source    Elementary.
#include "elementwise.cuh"

#define ENTRY(T, dtype)                                                                                   \
  KERNEL(ELEMENTWISE_THREADS, scale_fwd_##dtype, T* x /* (n), becomes x * factor */, i64 n, float factor) { \
    map(x, x, n, [=](float v) { return v * factor; });                                                    \
  }
ENTRY(float, f32)
ENTRY(bf16, bf16)
