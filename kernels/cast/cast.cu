// Conversion between f32 and bf16.
//
// Mapping   One grid-stride loop over vectors of four values (elementwise.cuh).
// Tile      fwd: {ELEMENTWISE_THREADS * IN_FLIGHT * 4} elements at a time.
// Memory    One read and one write per element: 16-byte accesses on the side of f32 and 8-byte ones on that of bf16,
//           four of each per thread on their way. Registers by NVRTC 12.9 on sm_90a: 32. What is left of a last vector, and views that are not 16-byte aligned, go
//           one value at a time.
// Hazards   None.
// Source    Elementary. Rounding is that of cvt.rn.bf16.f32: to nearest, ties to even.
#include "elementwise.cuh"

KERNEL(ELEMENTWISE_THREADS, cast_fwd_to_bf16_f32, const float* x /* (n) */, bf16* y /* (n) */, i64 n) {
  map(y, x, n, [](float v) { return v; });
}
KERNEL(ELEMENTWISE_THREADS, cast_fwd_to_f32_bf16, const bf16* x /* (n) */, float* y /* (n) */, i64 n) {
  map(y, x, n, [](float v) { return v; });
}
