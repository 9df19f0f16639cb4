// Tiles of bf16 in shared memory as the matrix instructions want them: filled by cp.async, read by ldmatrix.
//
// A tile has rows of WIDTH values, WIDTH a multiple of 32. Within a row the 16-byte chunks are permuted by an
// exclusive or with the row ("swizzled"), so that the eight rows of one 8x8 matrix, at the same chunk, lie in eight
// different groups of four banks: neither ldmatrix nor the 16-byte stores of a copy meet a bank conflict. Rows of 64
// values or a multiple of it all begin in bank 0, and take the exclusive or with row % 8; the others begin in banks 0
// and 16 by turns, and take it with row / 2 % 4.
#pragma once
#include "vector.cuh"

template <int WIDTH>
DEV u32 swizzle(u32 row) {
  static_assert(WIDTH % 32 == 0, "the swizzle permutes groups of four or eight chunks");
  return WIDTH % 64 == 0 ? row % 8 : row / 2 % 4;
}

// Chunk `chunk` (8 values) of row `row`.
template <int WIDTH>
DEV bf16* chunk_at(bf16* tile, u32 row, u32 chunk) {
  return tile + row * WIDTH + (chunk ^ swizzle<WIDTH>(row)) * 8;
}

// Starts copying a tile of ROWS rows from global memory, where rows lie `stride` values apart: `rows` of them, `width`
// values of each (a multiple of 8, addresses aligned to 16). The rest of the tile is zeroed. Takes all THREADS threads.
//
// Eight (or four) neighbouring threads read neighbouring chunks of a row. A thread keeps its place among them for all
// rows and all groups of chunks, so that one address and constants added to it serve them all.
template <int ROWS, int WIDTH, int THREADS>
DEV void copy_tile(bf16* tile, const bf16* from, u64 stride, u32 rows, u32 width) {
  constexpr u32 GROUP = WIDTH % 64 == 0 ? 8 : 4, STEP = THREADS / GROUP;
  static_assert(ROWS % STEP == 0 && STEP % 8 == 0, "a pass takes whole rows, and the same swizzle");
  const u32 thread = fresh_thread_index(), place = thread % GROUP;
  const bf16* source = from + thread / GROUP * stride + place * 8;
#pragma unroll
  for (u32 r = 0; r < ROWS / STEP; r++, source += STEP * stride) {
    const u32 row = r * STEP + thread / GROUP;
#pragma unroll
    for (u32 first = 0; first < WIDTH / 8; first += GROUP) {
      const bool inside = row < rows && (first + place) * 8 < width;
      cp_async_16(chunk_at<WIDTH>(tile, row, first + place), inside ? source + first * 8 : from, inside ? 16 : 0);
    }
  }
}

// In the four loads below, first rows are multiples of 16 and first columns too, known at compile time or uniform: the
// part of an address that depends on the lane is then the same in all of them.

// mma's a: rows `row`.. + 16, columns `column`.. + 16.
template <int WIDTH>
DEV void load_a(u32 (&a)[4], bf16* tile, u32 row, u32 column) {
  const u32 lane = threadIdx.x % 32, r = lane % 16;
  ldmatrix_x4(a, tile + row * WIDTH + r * WIDTH + (column / 8 ^ (lane / 16 ^ swizzle<WIDTH>(r))) * 8);
}

// The same of a tile that holds a's rows as columns: columns `column`.. + 16 of rows `row`.. + 16.
template <int WIDTH>
DEV void load_a_columns(u32 (&a)[4], bf16* tile, u32 row, u32 column) {
  const u32 lane = threadIdx.x % 32, r = lane % 8 + lane / 16 * 8;
  ldmatrix_x4_trans(a, tile + row * WIDTH + r * WIDTH + (column / 8 ^ (lane / 8 % 2 ^ swizzle<WIDTH>(r))) * 8);
}

// mma's b, twice, of a tile that holds b's rows as rows: b[0], b[1] from rows `row`.. + 8, b[2], b[3] from the next 8;
// columns `column`.. + 16.
template <int WIDTH>
DEV void load_b(u32 (&b)[4], bf16* tile, u32 row, u32 column) {
  const u32 lane = threadIdx.x % 32, r = lane % 8 + lane / 16 * 8;
  ldmatrix_x4(b, tile + row * WIDTH + r * WIDTH + (column / 8 ^ (lane / 8 % 2 ^ swizzle<WIDTH>(r))) * 8);
}

// The same of a tile that holds b's rows as columns: b[0], b[1] from columns `column`.. + 8, b[2], b[3] from the next
// 8; rows `row`.. + 16.
template <int WIDTH>
DEV void load_b_columns(u32 (&b)[4], bf16* tile, u32 row, u32 column) {
  const u32 lane = threadIdx.x % 32, r = lane % 16;
  ldmatrix_x4_trans(b, tile + row * WIDTH + r * WIDTH + (column / 8 ^ (lane / 16 ^ swizzle<WIDTH>(r))) * 8);
}

// mma's a from two neighbouring results d (16 x 8 each), rounded to bf16: a lane already holds the right elements.
DEV void pack_a(u32 (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = bf16_pair(left[0], left[1]);
  a[1] = bf16_pair(left[2], left[3]);
  a[2] = bf16_pair(right[0], right[1]);
  a[3] = bf16_pair(right[2], right[3]);
}

template <u32 M, u32 N>
DEV void zero(float (&d)[M][N][4]) {
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 n = 0; n < N; n++)
#pragma unroll
      for (u32 i = 0; i < 4; i++) d[m][n][i] = 0;
}

// d = a b^T for 16 M rows of a tile `a` and 8 N rows of a tile `b`, over their whole width.
template <int WIDTH, u32 M, u32 N>
DEV void multiply(float (&d)[M][N][4], bf16* a, bf16* b) {
  zero(d);
#pragma unroll
  for (u32 k = 0; k < WIDTH / 16; k++) {
    u32 rows[M][4];
#pragma unroll
    for (u32 m = 0; m < M; m++) load_a<WIDTH>(rows[m], a, m * 16, k * 16);
#pragma unroll
    for (u32 n = 0; n < N / 2; n++) {
      u32 columns[4];
      load_b<WIDTH>(columns, b, n * 16, k * 16);
#pragma unroll
      for (u32 m = 0; m < M; m++) {
        mma_bf16(d[m][2 * n], rows[m], columns[0], columns[1]);
        mma_bf16(d[m][2 * n + 1], rows[m], columns[2], columns[3]);
      }
    }
  }
}

// d += a b for a in registers (16 M rows, 16 K columns) and, of a tile `b` of 16 K rows, the 8 N columns from `first`.
template <int WIDTH, u32 M, u32 N, u32 K>
DEV void accumulate(float (&d)[M][N][4], const u32 (&a)[M][K][4], bf16* b, u32 first) {
#pragma unroll
  for (u32 k = 0; k < K; k++)
#pragma unroll
    for (u32 n = 0; n < N / 2; n++) {
      u32 columns[4];
      load_b_columns<WIDTH>(columns, b, k * 16, first + n * 16);
#pragma unroll
      for (u32 m = 0; m < M; m++) {
        mma_bf16(d[m][2 * n], a[m][k], columns[0], columns[1]);
        mma_bf16(d[m][2 * n + 1], a[m][k], columns[2], columns[3]);
      }
    }
}

// A warp moves `rows` of the 16 rows of its results d (N blocks of 8 columns; scaled by `scale` per half, the rows g
// and g + 8 of a lane) to global memory, where rows lie `stride` values apart, `width` values of each. They are put in
// order in the 16 rows of a tile that begin at `tile`, which no other warp uses, and leave in 16-byte stores.
template <int WIDTH, u32 N>
DEV void store_rows(bf16* to, u64 stride, u32 rows, u32 width, const float (&d)[N][4], const float (&scale)[2],
                    bf16* tile) {
  const u32 lane = fresh_thread_index() % 32, g = lane / 4, t = lane % 4 * 2;
  __syncwarp();
#pragma unroll
  for (u32 n = 0; n < N; n++) {
    *(u32*)(chunk_at<WIDTH>(tile, g, n) + t) = bf16_pair(d[n][0] * scale[0], d[n][1] * scale[0]);
    *(u32*)(chunk_at<WIDTH>(tile, g + 8, n) + t) = bf16_pair(d[n][2] * scale[1], d[n][3] * scale[1]);
  }
  __syncwarp();
  for (u32 i = lane; i < 16 * N; i += 32) {
    const u32 row = i / N, chunk = i % N;
    if (row < rows && chunk * 8 < width)
      *(Vector<bf16, 8>*)(to + row * stride + chunk * 8) = *(const Vector<bf16, 8>*)chunk_at<WIDTH>(tile, row, chunk);
  }
}
