// D = epilogue(alpha op(A) op(B) + beta C): what cublasLtMatmul is asked for, checked and computed.
#pragma once
#include <vector>

#include "blas.h"

namespace blas {

struct Matrix {
  DataType type;
  bool row_major;
  uint64_t rows, cols;
  int64_t ld;
  int32_t batches;
  int64_t batch_offset;  // elements from one matrix of a batch to the next

  uint64_t element_bytes() const { return type == R_32F ? 4 : 2; }
  uint64_t at(uint64_t row, uint64_t col) const { return row_major ? row * ld + col : row + col * ld; }
  // Bytes from the first element of the first matrix to behind the last of the last.
  uint64_t bytes() const;
};

struct Problem {
  ComputeType compute;
  bool transpose_a, transpose_b;
  Epilogue epilogue;
  PointerMode pointer_mode;
  char* bias;  // null without one
  DataType bias_type;
  int64_t bias_batch_stride;
  Matrix a, b, c, d;
  uint64_t m, n, k;

  // Reads descriptors; says what the documentation forbids, and what it allows and this library cannot do.
  Status read(const Attributes& desc, const Attributes& a, const Attributes& b, const Attributes& c,
              const Attributes& d);
  bool has_bias() const { return epilogue & BIAS; }
  bool has_gradient() const { return epilogue == GRADIENT_A || epilogue == GRADIENT_B; }
  uint64_t bias_length() const { return epilogue == GRADIENT_B ? n : m; }

  // What could run it, best first, where the matrices are aligned as `alignments` says (A, B, C, D) and of the ways to
  // put a sum together those in the mask `reductions` are allowed.
  std::vector<Algorithm> algorithms(const uint32_t (&alignments)[4], uint64_t workspace, uint32_t reductions) const;
  // Why `algorithm` cannot run it, or an empty string.
  std::string refuse(const Algorithm& algorithm) const;
};

struct Operands {
  const char *a, *b, *c;
  char *d, *workspace;
};

// Runs on the device. Returns what memory is not there, or an empty string.
std::string multiply(const Problem& problem, const Algorithm& algorithm, const Operands& operands, float alpha,
                     float beta);

}  // namespace blas
