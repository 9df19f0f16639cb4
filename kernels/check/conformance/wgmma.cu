// A kernel for each wrapper of the tensor cores of sm_90a, and of how registers are shared out; see wrappers.cu.
//
// Mapping   One block of a warpgroup, or of two.
// Memory    Operands are the dynamic shared memory: a, then b, each row of 64 values swizzled.
// Hazards   What threads wrote to shared memory needs fence_async_proxy before wgmma reads it.
// Source    The comments of ptx.cuh.
#include "ptx.cuh"

// d (+)= a b^T over 64 values of k; a (64 x 64) and b (columns x 64) as they lie in shared memory.
#define PRODUCT(columns)                                                                                          \
  KERNEL_AT_LEAST(128, 1, conformance_wgmma_bf16_##columns,                                                       \
                  const u32* in /* accumulate, (64, 32), (columns, 32), (128, columns / 2) */,                    \
                  u32* out /* (128, columns / 2) */) {                                                            \
    DYN_SMEM(operands);                                                                                           \
    const u32 words = (64 + columns) * 32;                                                                        \
    for (u32 i = threadIdx.x; i < words; i += 128) ((u32*)operands)[i] = in[1 + i];                               \
    fence_async_proxy();                                                                                          \
    __syncthreads();                                                                                              \
    float d[columns / 2];                                                                                         \
    _Pragma("unroll") for (u32 i = 0; i < columns / 2; i++)                                                       \
        d[i] = __uint_as_float(in[1 + words + threadIdx.x * (columns / 2) + i]);                                  \
    const u64 a = wgmma_descriptor(operands), b = wgmma_descriptor(operands + 64 * 128);                          \
    wgmma_fence(d);                                                                                               \
    wgmma_bf16(d, a, b, in[0] != 0);                                                                              \
    for (u32 k = 2; k < 8; k += 2) wgmma_bf16(d, a + k, b + k, true);                                             \
    wgmma_commit();                                                                                               \
    wgmma_wait<0>(d);                                                                                             \
    _Pragma("unroll") for (u32 i = 0; i < columns / 2; i++)                                                       \
        out[threadIdx.x * (columns / 2) + i] = __float_as_uint(d[i]);                                             \
  }
PRODUCT(64)
PRODUCT(128)
PRODUCT(256)

// Two products (64 x 64, 64 values of k) of the same a, in two groups; the first is read while the second may run.
KERNEL_AT_LEAST(128, 1, conformance_wgmma_groups, const u32* in /* (64, 32), (2, 64, 32) */,
                u32* out /* (2, 128, 32) */) {
  DYN_SMEM(operands);
  for (u32 i = threadIdx.x; i < 3 * 64 * 32; i += 128) ((u32*)operands)[i] = in[i];
  fence_async_proxy();
  __syncthreads();
  float first[32], second[32];
  const u64 a = wgmma_descriptor(operands), b = wgmma_descriptor(operands + 8192), c = wgmma_descriptor(operands + 16384);
  wgmma_fence(first);
  wgmma_fence(second);
  for (u32 k = 0; k < 8; k += 2) wgmma_bf16(first, a + k, b + k, k > 0);
  wgmma_commit();
  for (u32 k = 0; k < 8; k += 2) wgmma_bf16(second, a + k, c + k, k > 0);
  wgmma_commit();
  wgmma_wait<1>(first);
#pragma unroll
  for (u32 i = 0; i < 32; i++) out[threadIdx.x * 32 + i] = __float_as_uint(first[i]);
  wgmma_wait<0>(second);
#pragma unroll
  for (u32 i = 0; i < 32; i++) out[(128 + threadIdx.x) * 32 + i] = __float_as_uint(second[i]);
}

// A warpgroup gives registers away, another one takes them; both go on.
KERNEL_AT_LEAST(256, 1, conformance_setmaxnreg, const u32* in /* (256) */, u32* out /* (256) */) {
  u32 value = in[threadIdx.x];
  if (threadIdx.x < 128) {
    setmaxnreg_dec<40>();
    value += 1;
  } else {
    setmaxnreg_inc<232>();
    value += 2;
  }
  out[threadIdx.x] = value;
}
