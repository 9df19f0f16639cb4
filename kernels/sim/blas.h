// What the files of libcublasLt.so share: the status codes, the enumerations of its interface that mean something
// here, and its objects, each a table of attributes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <map>
#include <string>

namespace blas {

typedef int Status;  // cublasStatus_t
enum : Status {
  SUCCESS = 0,
  NOT_INITIALIZED = 1,
  ALLOC_FAILED = 3,
  INVALID_VALUE = 7,
  ARCH_MISMATCH = 8,
  MAPPING_ERROR = 11,
  EXECUTION_FAILED = 13,
  INTERNAL_ERROR = 14,
  NOT_SUPPORTED = 15,
  LICENSE_ERROR = 16,
};

enum DataType { R_32F = 0, R_16F = 2, R_16BF = 14, UNSET = -1 };
enum ComputeType { COMPUTE_32F = 68, COMPUTE_32F_PEDANTIC = 69, COMPUTE_32F_FAST_TF32 = 77 };
enum PointerMode { HOST = 0, DEVICE = 1 };
enum Order { COLUMN = 0, ROW = 1 };
enum Epilogue {
  DEFAULT = 1,
  RELU = 2,
  BIAS = 4,
  RELU_BIAS = 6,
  GELU = 32,
  GELU_BIAS = 36,
  GRADIENT_A = 256,
  GRADIENT_B = 512,
};

// How the parts of a sum over k are put together, where it is cut in parts: a mask of what is allowed.
enum Reduction : uint32_t {
  REDUCE_IN_PLACE = 1,
  REDUCE_IN_COMPUTE_TYPE = 2,
  REDUCE_IN_OUTPUT_TYPE = 4,
  REDUCE_ANY = 7,
};

enum DescAttribute {
  DESC_COMPUTE_TYPE = 0,
  DESC_SCALE_TYPE = 1,
  DESC_POINTER_MODE = 2,
  DESC_TRANSA = 3,
  DESC_TRANSB = 4,
  DESC_TRANSC = 5,
  DESC_FILL_MODE = 6,
  DESC_EPILOGUE = 7,
  DESC_BIAS_POINTER = 8,
  DESC_BIAS_BATCH_STRIDE = 10,
  DESC_BIAS_DATA_TYPE = 26,
};
enum LayoutAttribute {
  LAYOUT_TYPE = 0,
  LAYOUT_ORDER = 1,
  LAYOUT_ROWS = 2,
  LAYOUT_COLS = 3,
  LAYOUT_LD = 4,
  LAYOUT_BATCH_COUNT = 5,
  LAYOUT_BATCH_OFFSET = 6,
};
enum PreferenceAttribute {
  PREFERENCE_WORKSPACE = 1,
  PREFERENCE_REDUCTIONS = 3,
  PREFERENCE_ALIGNMENT_A = 5,  // then B, C and D
};

// A descriptor, a layout or a preference: values by attribute, each of a fixed size.
class Attributes {
 public:
  // An attribute that every object of the kind has.
  void define(int attribute, size_t bytes, int64_t value) { values_[attribute] = {bytes, value, value}; }

  Status set(int attribute, const void* value, size_t bytes);
  Status get(int attribute, void* value, size_t bytes, size_t* written) const;
  int64_t operator[](int attribute) const { return values_.at(attribute).now; }
  void assign(int attribute, int64_t value) { values_.at(attribute).now = value; }
  // An attribute other than those `known` that is not what it was at first, or -1.
  int changed(const std::initializer_list<int>& known) const;

 private:
  struct Value {
    size_t bytes;
    int64_t first, now;
  };
  std::map<int, Value> values_;
};

// cublasLtMatmulAlgo_t: 64 bytes that the program may keep, in a file too.
struct Algorithm {
  uint64_t magic;
  uint32_t id;
  uint32_t alignment;  // that it needs of every matrix and of the bias
  uint64_t workspace;  // bytes
  uint64_t unused[5];
};
static_assert(sizeof(Algorithm) == 64, "as large as cublasLtMatmulAlgo_t");

Status complain(Status status, const std::string& message);

}  // namespace blas
