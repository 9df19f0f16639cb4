// RMSNorm, forward and backward (the equations are in mod.rs).
//
// Mapping   One block per row at a time; thread t takes the 16-byte vectors t, t + blockDim.x, ... of the row, so
//           neighbouring threads read neighbouring vectors. Forward has a block for each row. Backward has a few
//           blocks per multiprocessor that walk over the rows with a stride and keep their share of dw in
//           registers; each ends by writing one row of `partial`, of which column_sum makes dw.
// Tile      fwd: 1 row.
//           bwd: every gridDim.x-th row.
// Memory    A row's first 256 * KEEP vectors (up to 8192 bf16, 4096 f32 values) stay in registers, so x and dy are read
//           once; what lies beyond is read a second time, from L2. w comes from L2 for all rows but the first.
//           Rows that are not 16-byte aligned (odd widths, views) take the same code with vectors of one value.
//           Shared memory: 256 bytes for the block sums. Registers by NVRTC 12.9 in bf16
//           on sm_90a for KEEP = 1, 2, 4: forward 32, 31, 40, backward 64, 72, 122, nothing spilled.
//           A vector of eight columns of `partial` takes two accesses of 16 bytes, and lanes are 32 bytes apart: each
//           access touches twice the sectors that it fills, both the same, so HBM sees them once. Halves exchanged
//           between lanes would mend that for four shuffles a vector; but of 8192 rows of 4096 it is some 3 % of the bytes.
// Hazards   Sums are in f32 in a fixed order: no atomics, the same bits every run. block_sum needs its two arrays
//           (see reduce.cuh). Past the kept columns, dw accumulates in `partial` itself: only its own thread
//           touches a column of a block's row, so this needs no synchronisation.
// Source    Zhang and Sennrich 2019, equation 4. Persistent blocks with partial sums for dw are common practice.
#include "rms_norm.cuh"

#define ENTRIES(T, dtype)                                                                                  \
  KERNEL(NORM_THREADS, rms_norm_fwd_##dtype, const T* x /* (rows, width) */, const T* w /* (width) */,     \
         T* y /* (rows, width) */, float* rstd /* (rows) or null */, i64 rows, u32 width, float eps) {     \
    SMEM_ARRAY(float, sums, 2 * MAX_WARPS);                                                                \
    const T* none = nullptr;                                                                               \
    if (aligned<T>(width, x, w, y))                                                                        \
      rms_norm_forward<T, WIDEST<T>>(x, none, nullptr, w, y, rstd, rows, width, eps, sums);                \
    else rms_norm_forward<T, 1>(x, none, nullptr, w, y, rstd, rows, width, eps, sums);                     \
  }                                                                                                        \
  KERNEL_AT_LEAST(NORM_THREADS, KEEP < 4 ? 3 : 1, rms_norm_bwd_##dtype, const T* x /* (rows, width) */,                \
                  const T* w /* (width) */,                                                                \
         const float* rstd /* (rows) */, const T* dy /* (rows, width) */,                                  \
         T* dx /* (rows, width) or null */, float* partial /* (gridDim.x, width) or null */, i64 rows,     \
         u32 width) {                                                                                      \
    SMEM_ARRAY(float, sums, 2 * MAX_WARPS);                                                                \
    const T* none = nullptr;                                                                               \
    if (aligned<T>(width, x, w, dy, dx) && on_16_bytes(partial))                                                                   \
      rms_norm_backward<T, WIDEST<T>>(x, w, rstd, dy, none, dx, partial, rows, width, sums);               \
    else rms_norm_backward<T, 1>(x, w, rstd, dy, none, dx, partial, rows, width, sums);                    \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
