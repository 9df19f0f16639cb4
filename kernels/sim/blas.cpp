// libcublasLt.so: matrix products by their descriptors, after NVIDIA's documentation of them. What the documentation
// forbids is INVALID_VALUE, what it allows and this library cannot do NOT_SUPPORTED, both with a line on standard
// error. A descriptor that is allowed and wrong gives a wrong result, as on a card.
#include "blas.h"

#include <cstdio>
#include <memory>

#include "hook.h"
#include "matmul.h"
#include "runtime.h"

namespace blas {

Status complain(Status status, const std::string& message) {
  fprintf(stderr, "simulated cuBLASLt: %s\n", message.c_str());
  return status;
}

Status Attributes::set(int attribute, const void* value, size_t bytes) {
  auto it = values_.find(attribute);
  if (it == values_.end()) return complain(INVALID_VALUE, "attribute " + std::to_string(attribute) + " is unknown");
  if (!value || bytes != it->second.bytes)
    return complain(INVALID_VALUE, "attribute " + std::to_string(attribute) + " has " +
                                       std::to_string(it->second.bytes) + " bytes, not " + std::to_string(bytes));
  int32_t narrow;
  switch (bytes) {
    case 1: it->second.now = *static_cast<const int8_t*>(value); break;
    case 4: memcpy(&narrow, value, bytes), it->second.now = narrow; break;
    default: memcpy(&it->second.now, value, bytes);
  }
  return SUCCESS;
}

Status Attributes::get(int attribute, void* value, size_t bytes, size_t* written) const {
  auto it = values_.find(attribute);
  if (it == values_.end()) return INVALID_VALUE;
  if (written) *written = it->second.bytes;
  if (bytes == 0) return written ? SUCCESS : INVALID_VALUE;
  if (!value || bytes != it->second.bytes) return INVALID_VALUE;
  memcpy(value, &it->second.now, bytes);  // of a little-endian machine
  return SUCCESS;
}

int Attributes::changed(const std::initializer_list<int>& known) const {
  for (auto& [attribute, value] : values_) {
    bool is_known = false;
    for (int k : known) is_known |= k == attribute;
    if (!is_known && value.now != value.first) return attribute;
  }
  return -1;
}

static Attributes* new_desc(int compute, int scale) {
  auto* desc = new Attributes;
  desc->define(DESC_COMPUTE_TYPE, 4, compute);
  desc->define(DESC_SCALE_TYPE, 4, scale);
  for (int zero : {DESC_POINTER_MODE, DESC_TRANSA, DESC_TRANSB, DESC_TRANSC}) desc->define(zero, 4, 0);
  constexpr int FULL = 2;
  desc->define(DESC_FILL_MODE, 4, FULL);
  desc->define(DESC_EPILOGUE, 4, DEFAULT);
  for (int eight : {DESC_BIAS_POINTER, DESC_BIAS_BATCH_STRIDE}) desc->define(eight, 8, 0);
  desc->define(DESC_BIAS_DATA_TYPE, 4, UNSET);
  // Known, and refused when they are used: auxiliary outputs (11 to 14, 22 to 24), scales (17 to 21).
  for (int eight : {11, 12, 13, 14, 17, 18, 19, 20, 21, 23, 24}) desc->define(eight, 8, 0);
  desc->define(15, 4, 0);  // how many multiprocessors to aim at
  desc->define(22, 4, UNSET);
  desc->define(25, 1, 0);  // fast accumulation of 8-bit floats
  return desc;
}

static Attributes* new_layout(int type, uint64_t rows, uint64_t cols, int64_t ld) {
  auto* layout = new Attributes;
  layout->define(LAYOUT_TYPE, 4, type);
  layout->define(LAYOUT_ORDER, 4, COLUMN);
  layout->define(LAYOUT_ROWS, 8, rows);
  layout->define(LAYOUT_COLS, 8, cols);
  layout->define(LAYOUT_LD, 8, ld);
  layout->define(LAYOUT_BATCH_COUNT, 4, 1);
  layout->define(LAYOUT_BATCH_OFFSET, 8, 0);
  return layout;
}

static Attributes* new_preference() {
  constexpr int SEARCH_MODE = 0, MOST_WAVES = 9, IMPLEMENTATIONS = 12;
  auto* preference = new Attributes;
  preference->define(SEARCH_MODE, 4, 0);
  preference->define(PREFERENCE_WORKSPACE, 8, 0);
  preference->define(PREFERENCE_REDUCTIONS, 4, REDUCE_ANY);
  for (int i = 0; i < 4; i++) preference->define(PREFERENCE_ALIGNMENT_A + i, 4, 256);
  preference->define(MOST_WAVES, 4, 0);
  preference->define(IMPLEMENTATIONS, 8, -1);
  return preference;
}

// cublasLtMatmulHeuristicResult_t.
struct Heuristic {
  Algorithm algorithm;
  size_t workspace;
  Status state;
  float waves;
  int reserved[4];
};

static uint32_t alignment_of(const void* pointer) {
  auto address = reinterpret_cast<uint64_t>(pointer);
  return address == 0 ? 256 : static_cast<uint32_t>(std::min<uint64_t>(address & -address, 256));
}

// The handle; there is nothing in it.
static char library;

}  // namespace blas

using namespace blas;

SIM_EXPORT Status cublasLtCreate(void** handle) { return *handle = &library, SUCCESS; }
SIM_EXPORT Status cublasLtDestroy(void* handle) { return handle == &library ? SUCCESS : INVALID_VALUE; }
SIM_EXPORT size_t cublasLtGetVersion() { return 130000; }
SIM_EXPORT size_t cublasLtGetCudartVersion() { return 13000; }
SIM_EXPORT Status cublasLtGetProperty(int property, int* value) {
  constexpr int VERSION[] = {13, 0, 0};
  if (property < 0 || property > 2 || !value) return INVALID_VALUE;
  return *value = VERSION[property], SUCCESS;
}

SIM_EXPORT const char* cublasLtGetStatusName(Status status) {
  switch (status) {
    case SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
    case INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case ARCH_MISMATCH: return "CUBLAS_STATUS_ARCH_MISMATCH";
    case MAPPING_ERROR: return "CUBLAS_STATUS_MAPPING_ERROR";
    case EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case INTERNAL_ERROR: return "CUBLAS_STATUS_INTERNAL_ERROR";
    case NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    case LICENSE_ERROR: return "CUBLAS_STATUS_LICENSE_ERROR";
  }
  return "unknown";
}
SIM_EXPORT const char* cublasLtGetStatusString(Status status) {
  switch (status) {
    case SUCCESS: return "success";
    case NOT_INITIALIZED: return "the library was not initialized";
    case ALLOC_FAILED: return "the resource allocation failed";
    case INVALID_VALUE: return "an invalid value was used as an argument";
    case ARCH_MISMATCH: return "the device is too old";
    case MAPPING_ERROR: return "an access to GPU memory space failed";
    case EXECUTION_FAILED: return "the function failed to launch on the GPU";
    case INTERNAL_ERROR: return "an internal operation failed";
    case NOT_SUPPORTED: return "the functionality is not supported";
    case LICENSE_ERROR: return "the functionality needs a license";
  }
  return "unknown";
}

// ---- descriptors ----

SIM_EXPORT Status cublasLtMatmulDescCreate(Attributes** desc, int compute, int scale) {
  return *desc = new_desc(compute, scale), SUCCESS;
}
SIM_EXPORT Status cublasLtMatmulDescDestroy(Attributes* desc) { return delete desc, SUCCESS; }
SIM_EXPORT Status cublasLtMatmulDescSetAttribute(Attributes* desc, int attribute, const void* value, size_t bytes) {
  return desc ? desc->set(attribute, value, bytes) : INVALID_VALUE;
}
SIM_EXPORT Status cublasLtMatmulDescGetAttribute(Attributes* desc, int attribute, void* value, size_t bytes,
                                                 size_t* written) {
  return desc ? desc->get(attribute, value, bytes, written) : INVALID_VALUE;
}

SIM_EXPORT Status cublasLtMatrixLayoutCreate(Attributes** layout, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  return *layout = new_layout(type, rows, cols, ld), SUCCESS;
}
SIM_EXPORT Status cublasLtMatrixLayoutDestroy(Attributes* layout) { return delete layout, SUCCESS; }
SIM_EXPORT Status cublasLtMatrixLayoutSetAttribute(Attributes* layout, int attribute, const void* value, size_t bytes) {
  return layout ? layout->set(attribute, value, bytes) : INVALID_VALUE;
}
SIM_EXPORT Status cublasLtMatrixLayoutGetAttribute(Attributes* layout, int attribute, void* value, size_t bytes,
                                                   size_t* written) {
  return layout ? layout->get(attribute, value, bytes, written) : INVALID_VALUE;
}

SIM_EXPORT Status cublasLtMatmulPreferenceCreate(Attributes** preference) {
  return *preference = new_preference(), SUCCESS;
}
SIM_EXPORT Status cublasLtMatmulPreferenceDestroy(Attributes* preference) { return delete preference, SUCCESS; }
SIM_EXPORT Status cublasLtMatmulPreferenceSetAttribute(Attributes* preference, int attribute, const void* value,
                                                       size_t bytes) {
  return preference ? preference->set(attribute, value, bytes) : INVALID_VALUE;
}
SIM_EXPORT Status cublasLtMatmulPreferenceGetAttribute(Attributes* preference, int attribute, void* value, size_t bytes,
                                                       size_t* written) {
  return preference ? preference->get(attribute, value, bytes, written) : INVALID_VALUE;
}

// ---- choosing an algorithm ----

SIM_EXPORT Status cublasLtMatmulAlgoGetHeuristic(void* handle, Attributes* desc, Attributes* a, Attributes* b,
                                                 Attributes* c, Attributes* d, Attributes* preference, int wanted,
                                                 Heuristic* results, int* found) {
  if (handle != &library) return NOT_INITIALIZED;
  if (!desc || !a || !b || !c || !d || !preference || wanted <= 0 || !results || !found) return INVALID_VALUE;
  *found = 0;
  int other = preference->changed({PREFERENCE_WORKSPACE, PREFERENCE_REDUCTIONS, 5, 6, 7, 8});
  if (other >= 0) return complain(NOT_SUPPORTED, "preference " + std::to_string(other) + " is not simulated");
  Problem problem;
  if (Status wrong = problem.read(*desc, *a, *b, *c, *d)) return wrong;
  uint32_t alignments[4];
  for (int i = 0; i < 4; i++) alignments[i] = static_cast<uint32_t>((*preference)[PREFERENCE_ALIGNMENT_A + i]);
  auto reductions = static_cast<uint32_t>((*preference)[PREFERENCE_REDUCTIONS]);
  for (auto& algorithm : problem.algorithms(alignments, (*preference)[PREFERENCE_WORKSPACE], reductions)) {
    if (*found == wanted) break;
    results[(*found)++] = {algorithm, algorithm.workspace, SUCCESS, 1.0f, {}};
  }
  return *found > 0 ? SUCCESS : NOT_SUPPORTED;
}

SIM_EXPORT Status cublasLtMatmulAlgoCheck(void* handle, Attributes* desc, Attributes* a, Attributes* b, Attributes* c,
                                          Attributes* d, const Algorithm* algorithm, Heuristic* result) {
  if (handle != &library) return NOT_INITIALIZED;
  if (!desc || !a || !b || !c || !d || !algorithm || !result) return INVALID_VALUE;
  Problem problem;
  if (Status wrong = problem.read(*desc, *a, *b, *c, *d)) return wrong;
  std::string why = problem.refuse(*algorithm);
  if (!why.empty()) return complain(NOT_SUPPORTED, why);
  return *result = {*algorithm, algorithm->workspace, SUCCESS, 1.0f, {}}, SUCCESS;
}

// ---- the product ----

// What may not be where it is, or an empty string.
static std::string misplaced(const Problem& problem, const Algorithm& algorithm, const Operands& at, bool reads_c) {
  struct Place {
    const char *name, *start;
    const Matrix& matrix;
  };
  const Place places[] = {
      {"A", at.a, problem.a}, {"B", at.b, problem.b}, {"C", at.c, problem.c}, {"D", at.d, problem.d}};
  for (const Place& place : places) {
    if (&place.matrix == &problem.c && !reads_c) continue;
    if (!place.start) return std::string(place.name) + " is null";
    if (alignment_of(place.start) < std::max<uint64_t>(algorithm.alignment, place.matrix.element_bytes()))
      return std::string(place.name) + " is less aligned than the algorithm needs: " +
             std::to_string(algorithm.alignment) + " bytes";
  }
  auto overlaps = [&](const char* start, uint64_t bytes) {
    return start < at.d + problem.d.bytes() && at.d < start + bytes;
  };
  bool in_place = at.c == at.d && problem.c.ld == problem.d.ld && problem.c.row_major == problem.d.row_major &&
                  (problem.c.batches == 1 || problem.c.batch_offset == problem.d.batch_offset);
  if (overlaps(at.a, problem.a.bytes())) return "D overlaps A";
  if (overlaps(at.b, problem.b.bytes())) return "D overlaps B";
  if (reads_c && !in_place && overlaps(at.c, problem.c.bytes())) return "D overlaps C and is not C";
  if (algorithm.workspace > 0 && alignment_of(at.workspace) < 256) return "the workspace is not aligned to 256 bytes";
  if (algorithm.workspace > 0 && overlaps(at.workspace, algorithm.workspace)) return "D overlaps the workspace";
  if (problem.bias && algorithm.alignment > alignment_of(problem.bias))
    return "the bias is less aligned than the algorithm needs";
  return "";
}

SIM_EXPORT Status cublasLtMatmul(void* handle, Attributes* desc, const void* alpha, const char* a, Attributes* a_layout,
                                 const char* b, Attributes* b_layout, const void* beta, const char* c,
                                 Attributes* c_layout, char* d, Attributes* d_layout, const Algorithm* chosen,
                                 char* workspace, size_t workspace_bytes, void* stream) {
  if (handle != &library) return NOT_INITIALIZED;
  if (!desc || !a_layout || !b_layout || !c_layout || !d_layout || !alpha || !beta) return INVALID_VALUE;
  Problem problem;
  if (Status wrong = problem.read(*desc, *a_layout, *b_layout, *c_layout, *d_layout)) return wrong;
  for (const void* scalar : {alpha, beta})
    if (sim::on_device(scalar, 4) != (problem.pointer_mode == DEVICE))
      return complain(INVALID_VALUE, "alpha or beta is not where the pointer mode says");
  float scalars[2] = {0, 1};  // of the device's nothing is known yet, so C counts as read
  if (problem.pointer_mode == HOST) memcpy(&scalars[0], alpha, 4), memcpy(&scalars[1], beta, 4);

  Operands operands{a, b, c, d, workspace};
  Algorithm algorithm;
  if (chosen) {
    algorithm = *chosen;
  } else {
    uint32_t alignments[] = {alignment_of(a), alignment_of(b), alignment_of(c), alignment_of(d)};
    auto all = problem.algorithms(alignments, workspace_bytes, REDUCE_ANY);
    if (all.empty()) return complain(NOT_SUPPORTED, "no algorithm takes matrices of so little alignment");
    algorithm = all[0];
  }
  std::string why = problem.refuse(algorithm);
  if (!why.empty()) return complain(NOT_SUPPORTED, why);
  if (algorithm.workspace > workspace_bytes)
    return complain(INVALID_VALUE, "the algorithm needs a workspace of " + std::to_string(algorithm.workspace) +
                                       " bytes, not " + std::to_string(workspace_bytes));
  why = misplaced(problem, algorithm, operands, scalars[1] != 0);
  if (!why.empty()) return complain(INVALID_VALUE, why);

  bool on_host = problem.pointer_mode == HOST;
  float host_alpha = scalars[0], host_beta = scalars[1];
  int result = sim::enqueue_library(stream, "cublasLtMatmul", [=]() -> std::string {
    if (on_host) return multiply(problem, algorithm, operands, host_alpha, host_beta);
    if (!sim::on_device(alpha, 4) || !sim::on_device(beta, 4)) return "alpha or beta was freed";
    return multiply(problem, algorithm, operands, *static_cast<const float*>(alpha), *static_cast<const float*>(beta));
  });
  return result ? EXECUTION_FAILED : SUCCESS;
}
