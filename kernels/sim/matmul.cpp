#include "matmul.h"

#include <algorithm>
#include <cmath>

#include "hook.h"

namespace blas {

// ---- numbers ----

static float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
static uint32_t to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static float from_half(uint16_t bits) {
  float magnitude = (bits & 0x7c00) == 0x7c00 ? from_bits(0x7f800000u | (bits & 0x3ffu) << 13)
                                              : std::ldexp(from_bits((bits & 0x7fffu) << 13), 112);
  return bits & 0x8000 ? -magnitude : magnitude;
}
// To nearest, ties to even.
static uint16_t to_half(float value) {
  uint16_t sign = to_bits(value) >> 16 & 0x8000;
  float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7fff;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  // The spacing of halves at this magnitude, then a whole number of it: nearbyint rounds to even.
  int exponent = std::max(magnitude == 0 ? -14 : std::ilogb(magnitude), -14);
  auto steps = static_cast<uint16_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return sign | static_cast<uint16_t>(((exponent + 14) << 10) + steps);  // a carry moves into the exponent
}

static float from_bf16(uint16_t bits) { return from_bits(static_cast<uint32_t>(bits) << 16); }
static uint16_t to_bf16(float value) {
  uint32_t bits = to_bits(value);
  if (std::isnan(value)) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// To 10 bits of mantissa, ties away from zero (cvt.rna.tf32.f32).
static float to_tf32(float value) {
  if (!std::isfinite(value)) return value;
  return from_bits((to_bits(value) + 0x1000) & 0xffffe000u);
}

static float load(const char* base, DataType type, uint64_t index) {
  if (type == R_32F) {
    float value;
    memcpy(&value, base + index * 4, 4);
    return value;
  }
  uint16_t bits;
  memcpy(&bits, base + index * 2, 2);
  return type == R_16F ? from_half(bits) : from_bf16(bits);
}
static void store(char* base, DataType type, uint64_t index, float value) {
  if (type == R_32F) {
    memcpy(base + index * 4, &value, 4);
    return;
  }
  uint16_t bits = type == R_16F ? to_half(value) : to_bf16(value);
  memcpy(base + index * 2, &bits, 2);
}

// ---- descriptors ----

uint64_t Matrix::bytes() const {
  return ((batches - 1) * static_cast<uint64_t>(batch_offset) + at(rows - 1, cols - 1) + 1) * element_bytes();
}

static std::string text(int64_t number) { return std::to_string(number); }

static Status read_layout(const char* name, const Attributes& layout, Matrix& matrix) {
  std::string of = std::string("the layout of ") + name + ": ";
  int64_t type = layout[LAYOUT_TYPE], order = layout[LAYOUT_ORDER];
  if (type != R_32F && type != R_16F && type != R_16BF) return complain(NOT_SUPPORTED, of + "type " + text(type));
  if (order != COLUMN && order != ROW) return complain(NOT_SUPPORTED, of + "order " + text(order));
  matrix = {static_cast<DataType>(type),
            order == ROW,
            static_cast<uint64_t>(layout[LAYOUT_ROWS]),
            static_cast<uint64_t>(layout[LAYOUT_COLS]),
            layout[LAYOUT_LD],
            static_cast<int32_t>(layout[LAYOUT_BATCH_COUNT]),
            layout[LAYOUT_BATCH_OFFSET]};
  if (matrix.rows == 0 || matrix.cols == 0) return complain(INVALID_VALUE, of + "it is empty");
  int64_t least = matrix.row_major ? matrix.cols : matrix.rows;
  if (matrix.ld < least)
    return complain(INVALID_VALUE, of + "leading dimension " + text(matrix.ld) + " is less than " + text(least));
  if (matrix.batches < 1 || matrix.batch_offset < 0) return complain(INVALID_VALUE, of + "its batch");
  return SUCCESS;
}

static std::string shape(const Matrix& matrix, bool transpose) {
  return text(transpose ? matrix.cols : matrix.rows) + " x " + text(transpose ? matrix.rows : matrix.cols);
}

Status Problem::read(const Attributes& desc, const Attributes& a_layout, const Attributes& b_layout,
                     const Attributes& c_layout, const Attributes& d_layout) {
  int other = desc.changed({DESC_COMPUTE_TYPE, DESC_SCALE_TYPE, DESC_POINTER_MODE, DESC_TRANSA, DESC_TRANSB,
                            DESC_EPILOGUE, DESC_BIAS_POINTER, DESC_BIAS_BATCH_STRIDE, DESC_BIAS_DATA_TYPE});
  if (other >= 0) return complain(NOT_SUPPORTED, "descriptor attribute " + text(other) + " is not simulated");
  compute = static_cast<ComputeType>(desc[DESC_COMPUTE_TYPE]);
  if (compute != COMPUTE_32F && compute != COMPUTE_32F_PEDANTIC && compute != COMPUTE_32F_FAST_TF32)
    return complain(NOT_SUPPORTED, "compute type " + text(compute) + " is not simulated");
  if (desc[DESC_SCALE_TYPE] != R_32F) return complain(NOT_SUPPORTED, "sums in f32 are scaled in f32");
  pointer_mode = static_cast<PointerMode>(desc[DESC_POINTER_MODE]);
  if (pointer_mode != HOST && pointer_mode != DEVICE)
    return complain(NOT_SUPPORTED, "pointer mode " + text(pointer_mode) + " is not simulated");
  for (int transpose : {DESC_TRANSA, DESC_TRANSB})
    if (desc[transpose] != 0 && desc[transpose] != 1)
      return complain(NOT_SUPPORTED, "transposition " + text(desc[transpose]) + " of real matrices");
  transpose_a = desc[DESC_TRANSA], transpose_b = desc[DESC_TRANSB];

  if (Status wrong = read_layout("A", a_layout, a)) return wrong;
  if (Status wrong = read_layout("B", b_layout, b)) return wrong;
  if (Status wrong = read_layout("C", c_layout, c)) return wrong;
  if (Status wrong = read_layout("D", d_layout, d)) return wrong;
  m = transpose_a ? a.cols : a.rows, k = transpose_a ? a.rows : a.cols, n = transpose_b ? b.rows : b.cols;
  bool fits = (transpose_b ? b.cols : b.rows) == k && c.rows == m && c.cols == n && d.rows == m && d.cols == n;
  if (!fits)
    return complain(INVALID_VALUE, "op(A) is " + shape(a, transpose_a) + ", op(B) " + shape(b, transpose_b) + ", C " +
                                       shape(c, false) + ", D " + shape(d, false));
  for (const Matrix* matrix : {&b, &c, &d})
    if (matrix->batches != a.batches) return complain(INVALID_VALUE, "the batches have different counts");
  uint64_t one = Matrix{d.type, d.row_major, d.rows, d.cols, d.ld, 1, 0}.bytes() / d.element_bytes();
  if (d.batches > 1 && static_cast<uint64_t>(d.batch_offset) < one)
    return complain(INVALID_VALUE, "the matrices of the batch D overlap");

  // The documented combinations for sums in f32.
  bool half = a.type == R_16F || a.type == R_16BF;
  bool types = a.type == b.type && c.type == d.type && (c.type == R_32F || (half && c.type == a.type));
  if (!types || (compute == COMPUTE_32F_FAST_TF32 && half))
    return complain(NOT_SUPPORTED, "types " + text(a.type) + ", " + text(b.type) + ", " + text(c.type) + ", " +
                                       text(d.type) + " of A, B, C, D");

  epilogue = static_cast<Epilogue>(desc[DESC_EPILOGUE]);
  switch (epilogue) {
    case DEFAULT: case RELU: case BIAS: case RELU_BIAS: case GELU: case GELU_BIAS: case GRADIENT_A: case GRADIENT_B:
      break;
    default: return complain(NOT_SUPPORTED, "epilogue " + text(epilogue) + " is not simulated");
  }
  if (epilogue != DEFAULT && d.row_major) return complain(NOT_SUPPORTED, "an epilogue on a row-major result");
  bias = reinterpret_cast<char*>(desc[DESC_BIAS_POINTER]);
  bias_type = static_cast<DataType>(desc[DESC_BIAS_DATA_TYPE]);
  if (bias_type == UNSET) bias_type = d.type;
  bias_batch_stride = desc[DESC_BIAS_BATCH_STRIDE];
  if (!has_bias() && !has_gradient()) return SUCCESS;
  if (!bias) return complain(INVALID_VALUE, "the epilogue needs a bias pointer");
  if (bias_type != d.type) return complain(NOT_SUPPORTED, "a bias of another type than D");
  return SUCCESS;
}

// ---- algorithms ----

// They differ in what they need and in the order of the sum over k, so that a program that confuses them is found out.
enum : uint32_t { ASCENDING = 0, SPLIT = 1, DESCENDING = 2 };
static constexpr uint64_t MAGIC = 0x6f676c41746c6173;
static constexpr uint32_t WIDE = 16;  // bytes of an aligned access

std::string Problem::refuse(const Algorithm& algorithm) const {
  if (algorithm.magic != MAGIC || algorithm.id > DESCENDING) return "that is no algorithm of this library";
  if (algorithm.id == SPLIT && algorithm.workspace != m * n * sizeof(float))
    return "the algorithm is for another shape";
  for (const Matrix* matrix : {&a, &b, &c, &d}) {
    uint64_t bytes = matrix->element_bytes();
    bool wide = matrix->ld * bytes % WIDE == 0 && (matrix->batches == 1 || matrix->batch_offset * bytes % WIDE == 0);
    if (algorithm.alignment == WIDE && !wide) return "the algorithm needs columns that are aligned to 16 bytes";
  }
  return "";
}

std::vector<Algorithm> Problem::algorithms(const uint32_t (&alignments)[4], uint64_t workspace,
                                           uint32_t reductions) const {
  uint32_t least = *std::min_element(std::begin(alignments), std::end(alignments));
  if (bias && reinterpret_cast<uint64_t>(bias) % WIDE != 0) least = std::min(least, WIDE - 1);
  std::vector<Algorithm> all;
  for (Algorithm algorithm : {Algorithm{MAGIC, SPLIT, WIDE, m * n * sizeof(float), {}},
                              Algorithm{MAGIC, ASCENDING, WIDE, 0, {}}, Algorithm{MAGIC, DESCENDING, 2, 0, {}}}) {
    if (algorithm.id == SPLIT && !(reductions & REDUCE_IN_COMPUTE_TYPE)) continue;
    if (algorithm.workspace <= workspace && algorithm.alignment <= least && refuse(algorithm).empty())
      all.push_back(algorithm);
  }
  return all;
}

// ---- the product ----

// op(X) as rows of k values each: `outer` is the dimension that stays.
static std::vector<float> pack(const char* base, const Matrix& x, bool outer_is_rows, ComputeType compute) {
  uint64_t outer = outer_is_rows ? x.rows : x.cols, inner = outer_is_rows ? x.cols : x.rows;
  std::vector<float> packed(outer * inner);
  for (uint64_t o = 0; o < outer; o++)
    for (uint64_t i = 0; i < inner; i++) {
      float value = load(base, x.type, outer_is_rows ? x.at(o, i) : x.at(i, o));
      packed[o * inner + i] = compute == COMPUTE_32F_FAST_TF32 ? to_tf32(value) : value;
    }
  return packed;
}

// A tensor core adds the products of some k exactly enough, and the sums in f32.
static constexpr uint64_t STEP = 16;

static float step(const float* a, const float* b, uint64_t begin, uint64_t end) {
  double sum = 0;
  for (uint64_t i = begin; i < end; i++) sum += static_cast<double>(a[i]) * b[i];
  return static_cast<float>(sum);
}

static float dot(const float* a, const float* b, uint64_t begin, uint64_t end, bool descending) {
  float sum = 0;
  uint64_t steps = (end - begin + STEP - 1) / STEP;
  for (uint64_t s = 0; s < steps; s++) {
    uint64_t from = begin + (descending ? steps - 1 - s : s) * STEP;
    sum += step(a, b, from, std::min(from + STEP, end));
  }
  return sum;
}

static float finish(Epilogue epilogue, float value) {
  constexpr float SQRT_2_OVER_PI = 0.79788456f;
  switch (epilogue) {
    case RELU: case RELU_BIAS: return value > 0 ? value : 0;
    case GELU: case GELU_BIAS:
      return 0.5f * value * (1 + std::tanh(SQRT_2_OVER_PI * (value + 0.044715f * value * value * value)));
    default: return value;
  }
}

// The sums over k of the rows of a packed matrix: the gradient of a bias.
static void sum_rows(const std::vector<float>& packed, uint64_t outer, uint64_t inner, char* to, DataType type) {
  for (uint64_t o = 0; o < outer; o++) {
    double sum = 0;
    for (uint64_t i = 0; i < inner; i++) sum += packed[o * inner + i];
    store(to, type, o, static_cast<float>(sum));
  }
}

std::string multiply(const Problem& p, const Algorithm& algorithm, const Operands& operands, float alpha, float beta) {
  auto absent = [](const char* name, const char* start, uint64_t bytes) {
    if (sim::on_device(start, bytes)) return std::string();
    return std::string(name) + " reaches beyond its allocation: " + text(bytes) + " bytes from its start on";
  };
  std::string wrong = absent("A", operands.a, p.a.bytes());
  if (wrong.empty()) wrong = absent("B", operands.b, p.b.bytes());
  if (wrong.empty() && beta != 0) wrong = absent("C", operands.c, p.c.bytes());
  if (wrong.empty()) wrong = absent("D", operands.d, p.d.bytes());
  if (wrong.empty() && algorithm.workspace > 0)
    wrong = absent("the workspace", operands.workspace, algorithm.workspace);
  uint64_t bias_bytes = p.bias_type == R_32F ? 4 : 2;
  uint64_t bias_elements = p.bias_length() + (p.d.batches - 1) * p.bias_batch_stride;
  if (wrong.empty() && (p.has_bias() || p.has_gradient()))
    wrong = absent("the bias", p.bias, bias_elements * bias_bytes);
  if (!wrong.empty()) return wrong;

  for (int32_t batch = 0; batch < p.d.batches; batch++) {
    auto of = [batch](const Matrix& x) { return batch * x.batch_offset * x.element_bytes(); };
    std::vector<float> a = pack(operands.a + of(p.a), p.a, !p.transpose_a, p.compute);
    std::vector<float> b = pack(operands.b + of(p.b), p.b, p.transpose_b, p.compute);
    const char* c = operands.c + of(p.c);
    char* d = operands.d + of(p.d);
    char* bias = p.bias + batch * p.bias_batch_stride * bias_bytes;
    uint64_t middle = algorithm.id == SPLIT ? p.k / 2 / STEP * STEP : 0;
    auto* partial = reinterpret_cast<float*>(operands.workspace);
    auto row = [&](uint64_t i) { return a.data() + i * p.k; };
    auto column = [&](uint64_t j) { return b.data() + j * p.k; };
    if (algorithm.id == SPLIT)
      for (uint64_t j = 0; j < p.n; j++)
        for (uint64_t i = 0; i < p.m; i++) partial[i + j * p.m] = dot(row(i), column(j), 0, middle, false);
    for (uint64_t j = 0; j < p.n; j++)
      for (uint64_t i = 0; i < p.m; i++) {
        float sum = dot(row(i), column(j), middle, p.k, algorithm.id == DESCENDING);
        if (algorithm.id == SPLIT) sum += partial[i + j * p.m];
        float value = alpha * sum;
        if (beta != 0) value += beta * load(c, p.c.type, p.c.at(i, j));
        if (p.has_bias()) value += load(bias, p.bias_type, i);
        store(d, p.d.type, p.d.at(i, j), finish(p.epilogue, value));
      }
    if (p.epilogue == GRADIENT_A) sum_rows(a, p.m, p.k, bias, p.bias_type);
    if (p.epilogue == GRADIENT_B) sum_rows(b, p.n, p.k, bias, p.bias_type);
  }
  return "";
}

}  // namespace blas
