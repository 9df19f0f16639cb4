// Residual sum and RMSNorm in one, forward and backward (the equations are in mod.rs).
//
// Mapping   That of rms_norm.cu, whose code this is (rms_norm.cuh): one block per row at a time, vectors of 16 bytes;
//           backward with persistent blocks that keep their share of dw.
// Tile      fwd: 1 row.
//           bwd: every gridDim.x-th row.
// Memory    Forward reads x and the residual once, writes r over x, and norms it out of registers: 8 bytes per element
//           in bf16. Backward reads r, dy and dr once and writes the gradient over dr: 8 too. Beyond 256 * KEEP
//           vectors of a row (up to 8192 bf16, 4096 f32 values), what is needed again is read again, from L2.
//           Shared memory: 256 bytes for the block sums. Registers by NVRTC 12.9 in bf16 on sm_90a
//           for KEEP = 1, 2, 4: forward 40, 48, 73, backward 56, 72, 121, nothing spilled.
//           A vector of eight columns of `partial` takes two accesses of 16 bytes, and lanes are 32 bytes apart: each
//           access touches twice the sectors that it fills, both the same, so HBM sees them once. Halves exchanged
//           between lanes would mend that for four shuffles a vector; but of 8192 rows of 4096 it is some 3 % of the bytes.
// Hazards   In place: the thread that reads a vector of x or dr is the one that rewrites it, and that reads it again.
//           Otherwise as rms_norm.cu.
// Source    Zhang and Sennrich 2019, equation 4.
#include "rms_norm.cuh"

#define ENTRIES(T, dtype)                                                                                           \
  KERNEL(NORM_THREADS, add_rms_norm_fwd_##dtype, T* r /* (rows, width): x, becomes r */,                            \
         const T* residual /* (rows, width) */, const T* w /* (width) */, T* y /* (rows, width) */,                 \
         float* rstd /* (rows) or null */, i64 rows, u32 width, float eps) {                                        \
    SMEM_ARRAY(float, sums, 2 * MAX_WARPS);                                                                         \
    if (aligned<T>(width, r, residual, w, y))                                                                       \
      rms_norm_forward<T, WIDEST<T>>(r, residual, r, w, y, rstd, rows, width, eps, sums);                           \
    else rms_norm_forward<T, 1>(r, residual, r, w, y, rstd, rows, width, eps, sums);                                \
  }                                                                                                                 \
  KERNEL(NORM_THREADS, add_rms_norm_bwd_##dtype, const T* r /* (rows, width) */, const T* w /* (width) */,          \
         const float* rstd /* (rows) */, const T* dy /* (rows, width) */, const T* dr /* (rows, width) or null */,  \
         T* dx /* (rows, width) or null; may be dr */, float* partial /* (gridDim.x, width) or null */, i64 rows,   \
         u32 width) {                                                                                               \
    SMEM_ARRAY(float, sums, 2 * MAX_WARPS);                                                                         \
    if (aligned<T>(width, r, w, dy, dr, dx) && on_16_bytes(partial))                                                                        \
      rms_norm_backward<T, WIDEST<T>>(r, w, rstd, dy, dr, dx, partial, rows, width, sums);                          \
    else rms_norm_backward<T, 1>(r, w, rstd, dy, dr, dx, partial, rows, width, sums);                               \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
