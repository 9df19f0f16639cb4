// Activation function CURVE, forward and backward (mod.rs and cuda/curve.cuh have the equations).
//
// Mapping   One grid-stride loop over vectors of 16 bytes (elementwise.cuh).
// Tile      fwd, bwd: {ELEMENTWISE_THREADS * IN_FLIGHT} vectors at a time.
// Memory    Forward reads x and writes y, 4 bytes per element in bf16; backward reads x and dy and writes dx over dy, 6
//           bytes. Four vectors of each are on their way per thread. What is left of a last vector, and views that
//           are not 16-byte aligned, go one value at a time. Registers by NVRTC 12.9 in
//           bf16, gelu: forward 56, backward 72, nothing spilled.
// Hazards   Backward is in place: the thread that reads a value of dy rewrites it.
// Source    See activation/curve.rs.
#include "curve.cuh"
#include "elementwise.cuh"

#define ENTRIES(T, dtype)                                                                                       \
  KERNEL(ELEMENTWISE_THREADS, activation_fwd_##dtype, const T* x /* (n) */, T* y /* (n) */, i64 n) {            \
    map(y, x, n, [](float v) { return CURVE::value(v); });                                                      \
  }                                                                                                             \
  KERNEL(ELEMENTWISE_THREADS, activation_bwd_##dtype, const T* x /* (n) */, T* d /* (n): dy, becomes dx */,     \
         i64 n) {                                                                                               \
    map(d, x, d, n, [](float v, float dy) { return dy * CURVE::slope(v); });                                    \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
