// Attention on the GPU against the CPU device: the same inputs (rounded to the operands' dtype), the same dropout
// masks.
//
// Tolerances. With u the unit roundoff of the dtype, e = 2^-24: a score is off by at most
// score_error = (head_dim + 4) e scale sum |q k|, so a probability by the factor 1 + 2 score_error + 16 e; where it is
// the operand of a tensor core it is rounded to the dtype too: 1 + u. A sum over j of p x is then off by
// (u + 2 score_error + (16 + keys) e) sum p |x|, plus the rounding of the result, u |result|. The sums of absolute
// values are computed here in float64, by the formulas of AttentionShape, not by either device.

#include <algorithm>
#include <string>
#include <utility>

#include "attention_operands.h"
#include "cbtm/base/error.h"
#include "cbtm/device/model_operators.h"
#include "tests/cuda/half_precision.h"

namespace cbtm {
namespace {

struct Case {
  std::string name;
  DType dtype;
  int64_t num_heads;
  int64_t head_dim;
  std::vector<int32_t> queries;  // of each sequence
  std::vector<int32_t> keys;     // empty: as many
  float dropout = 0;
  int64_t slack = 0;         // extra columns of each row, so that rows start at odd multiples
  int64_t first_column = 0;  // of all operands
  float magnitude = 1;       // of queries and keys
};

std::vector<int32_t> offsets_of(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> offsets{0};
  for (const int32_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

/// The operands of a case, queries, keys and values side by side in one matrix as a fused projection writes them.
struct Problem {
  explicit Problem(const Case& c)
      : dtype(c.dtype),
        width(c.num_heads * c.head_dim),
        query_offsets(offsets_of(c.queries)),
        key_offsets(offsets_of(c.keys.empty() ? c.queries : c.keys)),
        query_rows(query_offsets.back()),
        key_rows(key_offsets.back()) {
    const auto matrix = [&](int64_t rows, int64_t parts, int64_t part) {
      return Matrix(dtype, rows, width, parts * width + c.slack, c.first_column + part * width);
    };
    query = matrix(query_rows, 3, 0);
    key = matrix(key_rows, 3, 1);
    value = matrix(key_rows, 3, 2);
    output = matrix(query_rows, 1, 0);
    output_gradient = matrix(query_rows, 1, 0);
    query_gradient = matrix(query_rows, 3, 0);
    key_gradient = matrix(key_rows, 3, 1);
    value_gradient = matrix(key_rows, 3, 2);
    log_sum_exp = Matrix(DType::f32, query_rows, c.num_heads, c.num_heads, 0);
    uint64_t seed = 1;
    query.randomize(seed++, c.magnitude);
    key.randomize(seed++, c.magnitude);
    value.randomize(seed++);
    output_gradient.randomize(seed++);
    for (Matrix* written : {&output, &query_gradient, &key_gradient, &value_gradient}) written->randomize(seed++);
    log_sum_exp.randomize(seed);
    shape = {.query_offsets = query_offsets,
             .key_offsets = c.keys.empty() ? query_offsets : key_offsets,
             .num_heads = c.num_heads,
             .head_dim = c.head_dim,
             .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim))};
    if (c.dropout > 0) {
      shape.dropout = {.probability = c.dropout, .seed = 0x123456789abcdefu, .step = 7, .site = 3, .first_row = 11};
      shape.dropout_columns = 1028;
    }
  }

  AttentionForward forward(bool cuda) {
    return {shape, view(query, cuda), view(key, cuda), view(value, cuda), view(output, cuda), view(log_sum_exp, cuda)};
  }
  AttentionBackward backward(bool cuda) {
    return {shape,
            view(query, cuda),
            view(key, cuda),
            view(value, cuda),
            view(output, cuda),
            view(log_sum_exp, cuda),
            view(output_gradient, cuda),
            view(query_gradient, cuda),
            view(key_gradient, cuda),
            view(value_gradient, cuda)};
  }
  static TensorView view(Matrix& matrix, bool cuda) { return cuda ? matrix.cuda() : matrix.cpu(); }

  DType dtype;
  int64_t width;
  std::vector<int32_t> query_offsets, key_offsets;
  int64_t query_rows, key_rows;
  AttentionShape shape;
  Matrix query, key, value, output, output_gradient, query_gradient, key_gradient, value_gradient, log_sum_exp;
};

/// For each element of each result the largest error that rounding explains.
struct Tolerances {
  std::vector<double> output, log_sum_exp, query_gradient, key_gradient, value_gradient;
};

Tolerances tolerances_of(Problem& p, bool backward) {
  const AttentionShape& shape = p.shape;
  const double u = p.dtype == DType::f32 ? 0 : unit_roundoff(p.dtype);
  const double e = 0x1p-24;
  // 16-bit floats lose absolute accuracy below their normal range; bfloat16 has that of float32.
  const double underflow = p.dtype == DType::f16 ? 0x1p-25 : 0;
  Tolerances t;
  const auto sized = [&](std::vector<double>& v, int64_t rows) {
    v.assign(static_cast<size_t>(rows * p.width), 1e-30);
  };
  sized(t.output, p.query_rows);
  sized(t.query_gradient, p.query_rows);
  sized(t.key_gradient, p.key_rows);
  sized(t.value_gradient, p.key_rows);
  t.log_sum_exp.assign(static_cast<size_t>(p.query_rows * shape.num_heads), 0);
  const auto at = [&](int64_t row, int64_t column) { return static_cast<size_t>(row * p.width + column); };
  const double scale = shape.scale;
  for (size_t s = 0; s + 1 < p.query_offsets.size(); ++s)
    for (int64_t h = 0; h < shape.num_heads; ++h) {
      const int64_t first_column = h * shape.head_dim;
      const int64_t keys = p.key_offsets[s + 1] - p.key_offsets[s];
      const int64_t hidden = keys - (p.query_offsets[s + 1] - p.query_offsets[s]);
      for (int64_t i = p.query_offsets[s]; i < p.query_offsets[s + 1]; ++i) {
        const int64_t seen = i - p.query_offsets[s] + hidden + 1;
        std::vector<double> probability(static_cast<size_t>(seen));
        double score_error = 0, highest = -INFINITY, sum = 0;
        for (int64_t j = 0; j < seen; ++j) {
          double score = 0, magnitude = 0;
          for (int64_t c = first_column; c < first_column + shape.head_dim; ++c) {
            const double product = static_cast<double>(p.query.at(i, c)) * p.key.at(p.key_offsets[s] + j, c);
            score += product;
            magnitude += std::abs(product);
          }
          probability[static_cast<size_t>(j)] = scale * score;
          highest = std::max(highest, scale * score);
          if (std::isfinite(magnitude))
            score_error = std::max(score_error, static_cast<double>(shape.head_dim + 4) * e * scale * magnitude);
        }
        for (double& score : probability) sum += score = std::exp(score - highest);
        t.log_sum_exp[static_cast<size_t>(i * shape.num_heads + h)] =
            2 * score_error + 8 * e * (std::abs(highest) + std::log(sum) + 1);
        const double relative = u + 4 * score_error + static_cast<double>(32 + 2 * seen) * e;
        double row_term = 0;
        if (backward)
          for (int64_t c = first_column; c < first_column + shape.head_dim; ++c)
            row_term += std::abs(static_cast<double>(p.output_gradient.at(i, c)) * p.output.at(i, c));
        for (int64_t j = 0; j < seen; ++j) {
          const int64_t key_row = p.key_offsets[s] + j;
          const double kept = p.shape.dropout.active() ? 1.0 / (1.0 - p.shape.dropout.probability) : 1;  // at most
          const double weight = probability[static_cast<size_t>(j)] / sum;
          double gradient = row_term;
          for (int64_t c = first_column; c < first_column + shape.head_dim; ++c) {
            const double value = std::abs(static_cast<double>(p.value.at(key_row, c)));
            t.output[at(i, c)] += kept * (relative * weight + underflow) * value;
            gradient += kept * value * std::abs(static_cast<double>(p.output_gradient.at(i, c)));
          }
          if (!backward) continue;
          const double score_gradient = weight * gradient;
          for (int64_t c = first_column; c < first_column + shape.head_dim; ++c) {
            t.value_gradient[at(key_row, c)] +=
                kept * (relative * weight + underflow) * std::abs(static_cast<double>(p.output_gradient.at(i, c)));
            t.key_gradient[at(key_row, c)] +=
                scale * (relative * score_gradient + underflow) * std::abs(static_cast<double>(p.query.at(i, c)));
            t.query_gradient[at(i, c)] +=
                scale * (relative * score_gradient + underflow) * std::abs(static_cast<double>(p.key.at(key_row, c)));
          }
        }
      }
    }
  return t;
}

void check_equal(Matrix& matrix, DType dtype, std::vector<double> tolerance, const char* what) {
  CAPTURE(what);
  const std::vector<float> want = matrix.from_cpu();
  for (size_t i = 0; i < want.size(); ++i)
    tolerance[i] +=
        2 * unit_roundoff(dtype) * std::abs(static_cast<double>(want[i])) + (dtype == DType::f16 ? 0x1p-25 : 0);
  CHECK(error_in_tolerances(matrix.from_cuda(), want, tolerance) <= 1);
}

void check_forward(Case c) {
  CAPTURE(c.name);
  c.dtype = computed_type(c.dtype);
  Problem p(c);
  const Tolerances tolerances = tolerances_of(p, false);
  cuda_device().model_operators().attention_forward(p.forward(true));
  bool outside_kept = true;
  p.output.from_cuda(&outside_kept);
  CHECK(outside_kept);
  cpu_device().model_operators().attention_forward(p.forward(false));
  check_equal(p.output, p.dtype, tolerances.output, "output");
  check_equal(p.log_sum_exp, DType::f32, tolerances.log_sum_exp, "log_sum_exp");
}

void check_backward(Case c) {
  CAPTURE(c.name);
  c.dtype = computed_type(c.dtype);
  Problem p(c);
  cpu_device().model_operators().attention_forward(p.forward(false));
  p.output.upload();
  p.log_sum_exp.upload();
  const Tolerances tolerances = tolerances_of(p, true);
  cuda_device().model_operators().attention_backward(p.backward(true));
  bool outside_kept = true;
  for (Matrix* written : {&p.query_gradient, &p.key_gradient, &p.value_gradient}) written->from_cuda(&outside_kept);
  CHECK(outside_kept);
  cpu_device().model_operators().attention_backward(p.backward(false));
  check_equal(p.query_gradient, p.dtype, tolerances.query_gradient, "query_gradient");
  check_equal(p.key_gradient, p.dtype, tolerances.key_gradient, "key_gradient");
  check_equal(p.value_gradient, p.dtype, tolerances.value_gradient, "value_gradient");
}

// Tile widths are 32, 64 and 128: lengths lie on both sides of them, and at 1.
const std::vector<Case> kGeneralCases = {
    {"one token", DType::f32, 1, 32, {1}},
    {"no token", DType::f32, 2, 32, {0}},
    {"small model", DType::f32, 3, 32, {65, 0, 1, 64, 7}},
    {"small model, dropout", DType::f32, 2, 16, {70, 33}, {}, 0.1f},
    {"odd head size", DType::f32, 3, 5, {66}, {}, 0.3f},
    {"rows at odd places", DType::f32, 2, 64, {70, 3}, {}, 0.1f, 1, 1},
    {"wide heads", DType::f32, 1, 80, {67}},
    {"widest heads", DType::f32, 1, 256, {65}},
    {"sharp softmax", DType::f32, 1, 32, {80}, {}, 0, 0, 0, 12.0f},
    {"bfloat16, odd head size", DType::bf16, 2, 24, {66, 5}, {}, 0.1f},
    {"float16, rows at odd places", DType::f16, 2, 64, {66, 5}, {}, 0.1f, 1, 1},
};

const std::vector<Case> kTensorCoreCases = {
    {"one token", DType::bf16, 1, 64, {1}},
    {"bfloat16, 64", DType::bf16, 2, 64, {130, 0, 1, 33}},
    {"bfloat16, 64, dropout", DType::bf16, 2, 64, {131, 20}, {}, 0.1f},
    {"float16, 80, dropout", DType::f16, 2, 80, {129, 7}, {}, 0.2f},
    {"bfloat16, 96", DType::bf16, 1, 96, {130}},
    {"bfloat16, 128, dropout", DType::bf16, 1, 128, {97, 64}, {}, 0.1f},
    {"float16, 32, sharp", DType::f16, 3, 32, {70}, {}, 0, 0, 0, 8.0f},
};

}  // namespace

TEST_CASE("attention forward on tensor cores equals the CPU") {
  for (const Case& c : kTensorCoreCases) check_forward(c);
  check_forward({"more keys than queries", DType::bf16, 2, 64, {3, 1, 66}, {70, 1, 200}});
}

TEST_CASE("attention backward on tensor cores equals the CPU") {
  for (const Case& c : kTensorCoreCases) check_backward(c);
  check_backward({"more keys than queries", DType::bf16, 2, 64, {3, 1, 66}, {70, 1, 200}, 0.2f});
}

TEST_CASE("attention forward equals the CPU: any head size, alignment, dtype") {
  for (const Case& c : kGeneralCases) check_forward(c);
}

TEST_CASE("attention backward equals the CPU: any head size, alignment, dtype") {
  for (const Case& c : kGeneralCases) check_backward(c);
}

TEST_CASE("attention with more keys than queries") {
  check_forward({"float32", DType::f32, 2, 32, {3, 1, 66}, {70, 1, 100}});
  check_backward({"float32", DType::f32, 2, 32, {3, 1, 66}, {70, 1, 100}, 0.2f});
}

TEST_CASE("scores of minus infinity have no weight, and a row of nothing else is not a number") {
  for (const DType dtype : {DType::f32}) {
    Problem p({"", dtype, 1, 32, {70}});
    for (int64_t row = 0; row < 70; ++row) p.query.at(row, 4) = 1;
    p.key.at(0, 4) = p.key.at(69, 4) = -INFINITY;
    p.query.upload();
    p.key.upload();
    const Tolerances tolerances = tolerances_of(p, false);
    cuda_device().model_operators().attention_forward(p.forward(true));
    cpu_device().model_operators().attention_forward(p.forward(false));
    CHECK(std::isnan(p.output.from_cuda()[0]));
    std::vector<double> tolerance = tolerances.output;
    for (double& t : tolerance) t = std::isnan(t) ? 1e-30 : t;  // the row that is not a number
    check_equal(p.output, dtype, tolerance, "output");
  }
}

TEST_CASE("attention is the same bits every time") {
  Problem p({"", DType::f32, 2, 32, {100}, {}, 0.1f});
  cuda_device().model_operators().attention_forward(p.forward(true));
  cuda_device().model_operators().attention_backward(p.backward(true));
  const auto first = std::tuple(p.output.from_cuda(), p.query_gradient.from_cuda(), p.key_gradient.from_cuda());
  cuda_device().model_operators().attention_forward(p.forward(true));
  cuda_device().model_operators().attention_backward(p.backward(true));
  CHECK(first == std::tuple(p.output.from_cuda(), p.query_gradient.from_cuda(), p.key_gradient.from_cuda()));
}

TEST_CASE("heads that are too wide are refused") {
  Problem p({"", DType::f32, 1, 264, {2}});
  CHECK_THROWS_AS(cuda_device().model_operators().attention_forward(p.forward(true)), Error);
}

}  // namespace cbtm
