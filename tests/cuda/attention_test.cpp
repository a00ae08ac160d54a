// Attention of the CUDA device: infinite scores, and what is refused. tests/operators compares values and gradients.

#include <cmath>

#include "attention_operands.h"
#include "cbtm/base/error.h"
#include "cbtm/device/model_operators.h"

namespace cbtm {
namespace {

constexpr int64_t kHeadDim = 32;

/// One head: the last query sees all keys, each query before it one less.
std::vector<float> attention_of(TensorView query, TensorView key, TensorView value) {
  const std::vector<int32_t> queries = {0, static_cast<int32_t>(query.rows)},
                             keys = {0, static_cast<int32_t>(key.rows)};
  Matrix output(DType::f32, query.rows, kHeadDim, kHeadDim, 0);
  cuda_device().model_operators().attention_forward({.shape = {.query_offsets = queries,
                                                               .key_offsets = keys,
                                                               .num_heads = 1,
                                                               .head_dim = kHeadDim,
                                                               .scale = 1 / std::sqrt(static_cast<float>(kHeadDim))},
                                                     .query = query,
                                                     .key = key,
                                                     .value = value,
                                                     .output = output.cuda(),
                                                     .log_sum_exp = {}});
  return output.from_cuda();
}

TEST_CASE("scores of minus infinity have no weight, and a row of nothing else is not a number") {
  constexpr int64_t kRows = 70;
  Matrix query(DType::f32, kRows, kHeadDim, kHeadDim, 0), key(DType::f32, kRows, kHeadDim, kHeadDim, 0),
      value(DType::f32, kRows, kHeadDim, kHeadDim, 0);
  query.randomize(1), key.randomize(2), value.randomize(3);
  for (int64_t row = 0; row < kRows; ++row) query.at(row, 4) = 1;
  key.at(0, 4) = key.at(kRows - 1, 4) = -INFINITY;
  query.upload();
  key.upload();
  const std::vector<float> got = attention_of(query.cuda(), key.cuda(), value.cuda());
  CHECK(std::isnan(got[0]));
  // The same without those keys: for the queries in between, and for the last one, which saw both.
  const TensorView keys = key.cuda().row_range(1, kRows - 2), values = value.cuda().row_range(1, kRows - 2);
  std::vector<float> want = attention_of(query.cuda().row_range(1, kRows - 2), keys, values);
  const std::vector<float> last = attention_of(query.cuda().row_range(kRows - 1, 1), keys, values);
  want.insert(want.end(), last.begin(), last.end());
  // No value is larger than 1, so an output is off by the relative error of the probabilities: that of a score, whose
  // products add up to head_dim at most, in the exponential and in the sum, and a unit or two for each key
  // (tests/operators/attention_reference.h). Both computations are off.
  const double u = 0x1p-24, score_error = (kHeadDim + 4) * u * std::sqrt(static_cast<double>(kHeadDim));
  const double tolerance = 2 * (2 * score_error + (32 + 2 * kRows) * u);
  CHECK(error_in_tolerances({got.begin() + kHeadDim, got.end()}, want, std::vector<double>(want.size(), tolerance)) <=
        1);
}

TEST_CASE("heads that are too wide are refused") {
  Matrix wide(DType::f32, 2, 264, 264, 0);
  wide.randomize(1);
  const std::vector<int32_t> offsets = {0, 2};
  CHECK_THROWS_AS(cuda_device().model_operators().attention_forward(
                      {.shape = {.query_offsets = offsets, .key_offsets = offsets, .num_heads = 1, .head_dim = 264},
                       .query = wide.cuda(),
                       .key = wide.cuda(),
                       .value = wide.cuda(),
                       .output = wide.cuda(),
                       .log_sum_exp = {}}),
                  Error);
}

}  // namespace
}  // namespace cbtm
