// Images as rows of patches, and back (mod.rs has the layout).
//
// Mapping   Forward: a block per patch, that is per row of y. Backward: a block per line of an image, which looks up
//           where each of its pixels lies in y; what no patch reaches becomes zero.
// Tile      fwd: 1 patch.
//           bwd: 1 line of an image.
// Memory    A vector never leaves one line of one patch, so its width is what divides the patch and the image line: 16
//           bytes for patch 16, 4 for patch 14 in bf16, less if an address is not aligned. Writes are contiguous.
//           Reads are contiguous over a line of a patch; the block of the neighbouring patch finds the rest of a
//           sector in the second-level cache. Registers by NVRTC 12.9: at most 40, none spilled.
// Hazards   None: each element has one writer.
// Source    Our own.
#include "vector.cuh"

constexpr int THREADS = 128;

// How images are cut: `down` by `across` patches with a side of `patch` pixels.
struct Layout {
  u32 channels, height, width, patch, down, across;
};

template <class T, int N>
DEV void forward(const T* pixels, T* y, i64 rows, const Layout& l) {
  typedef Vector<T, N> V;
  const u32 run = l.patch / N, vectors = l.channels * l.patch * run;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    const i64 image = row / (l.down * l.across);
    const u32 place = row % (l.down * l.across), i = place / l.across, j = place % l.across;
    const T* corner = pixels + (image * l.channels * l.height + i * l.patch) * l.width + j * l.patch;
    V* to = (V*)(y + row * vectors * N);
    for (u32 v = threadIdx.x; v < vectors; v += blockDim.x) {
      const u32 line = v / run, channel = line / l.patch;
      const u64 at = (u64)(channel * l.height + line % l.patch) * l.width;
      to[v] = ((const V*)(corner + at))[v % run];
    }
  }
}

template <class T, int N>
DEV void backward(const T* dy, T* dx, i64 lines, const Layout& l) {
  typedef Vector<T, N> V;
  const u32 run = l.patch / N, vectors = l.width / N;
  const u64 row = (u64)l.channels * l.patch * l.patch;
  V zero;
#pragma unroll
  for (int n = 0; n < N; n++) store(zero.at[n], 0.0f);
  for (i64 n = blockIdx.x; n < lines; n += gridDim.x) {
    const u64 image = n / l.height / l.channels;
    const u32 channel = n / l.height % l.channels, line = n % l.height, i = line / l.patch;
    const T* first = dy + (image * l.down + i) * l.across * row + (channel * l.patch + line % l.patch) * l.patch;
    V* to = (V*)(dx + n * l.width);
    for (u32 v = threadIdx.x; v < vectors; v += blockDim.x) {
      const u32 j = v / run;
      to[v] = i < l.down && j < l.across ? ((const V*)(first + j * row))[v % run] : zero;
    }
  }
}

// Whether vectors of N values stay within the lines of patches and images, and both addresses allow them.
template <class T, int N>
DEV bool fits(const Layout& l, const T* a, const T* b) {
  return l.patch % N == 0 && l.width % N == 0 && ((u64)a | (u64)b) % (N * sizeof(T)) == 0;
}

#define WIDTHS(function, T, from, to, count, l)                                                      \
  if (WIDEST<T> == 8 && fits<T, WIDEST<T>>(l, from, to)) function<T, WIDEST<T>>(from, to, count, l); \
  else if (fits<T, 4>(l, from, to)) function<T, 4>(from, to, count, l);                              \
  else if (fits<T, 2>(l, from, to)) function<T, 2>(from, to, count, l);                              \
  else function<T, 1>(from, to, count, l);

#define ENTRIES(T, dtype)                                                                               \
  KERNEL(THREADS, patchify_fwd_##dtype, const T* pixels /* (images, channels, height, width) */,        \
         T* y /* (rows, channels patch patch) */, i64 rows, u32 channels, u32 height, u32 width,        \
         u32 patch) {                                                                                   \
    const Layout l = {channels, height, width, patch, height / patch, width / patch};                   \
    WIDTHS(forward, T, pixels, y, rows, l)                                                              \
  }                                                                                                     \
  KERNEL(THREADS, patchify_bwd_##dtype, const T* dy /* (images down across, channels patch patch) */,   \
         T* dx /* (images, channels, height, width) */, i64 lines /* images channels height */,         \
         u32 channels, u32 height, u32 width, u32 patch) {                                              \
    const Layout l = {channels, height, width, patch, height / patch, width / patch};                   \
    WIDTHS(backward, T, dy, dx, lines, l)                                                               \
  }
ENTRIES(float, f32)
ENTRIES(bf16, bf16)
