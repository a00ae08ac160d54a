// Attention of the CUDA device: infinite scores, sequences side by side, and what is refused. tests/operators compares
// values and gradients.

#include <algorithm>
#include <cmath>

#include "attention_operands.h"
#include "cbtm/base/error.h"
#include "cbtm/device/model_operators.h"
#include "half_precision.h"

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

TEST_CASE("what is not a number in one sequence stays there") {
  // Tiles are copied past the last row of a sequence; a probability of zero times infinity would not be zero.
  constexpr int64_t kHeads = 2, kFirst = 70, kSecond = 137, kThird = 65, kRows = kFirst + kSecond + kThird;
  const std::vector<int32_t> offsets = {0, kFirst, kFirst + kSecond, kRows};
  for (const int64_t head_dim : {int64_t{32}, int64_t{64}, int64_t{80}, int64_t{128}}) {
    CAPTURE(head_dim);
    const int64_t width = kHeads * head_dim;
    const AttentionShape shape{.query_offsets = offsets,
                               .key_offsets = offsets,
                               .num_heads = kHeads,
                               .head_dim = head_dim,
                               .scale = 1 / std::sqrt(static_cast<float>(head_dim))};
    // What comes out for the second sequence: output and gradients, row by row.
    const auto second_sequence = [&](float in_the_others) {
      Matrix in[4], out[4];
      for (int i = 0; i < 4; ++i) {
        in[i] = Matrix(half_type(), kRows, width, width, 0);
        in[i].randomize(static_cast<uint64_t>(i) + 1);
        for (int64_t row = 0; row < kRows; ++row)
          for (int64_t column = 0; column < width && (row < kFirst || row >= kFirst + kSecond); ++column)
            if (!std::isfinite(in_the_others)) in[i].at(row, column) = in_the_others;
        in[i].upload();
        out[i] = Matrix(half_type(), kRows, width, width, 0);
        out[i].upload();
      }
      Matrix log_sum_exp(DType::f32, kRows, kHeads, kHeads, 0);
      log_sum_exp.upload();
      ModelOperators& operators = cuda_device().model_operators();
      operators.attention_forward({shape, in[0].cuda(), in[1].cuda(), in[2].cuda(), out[0].cuda(), log_sum_exp.cuda()});
      operators.attention_backward({shape, in[0].cuda(), in[1].cuda(), in[2].cuda(), out[0].cuda(), log_sum_exp.cuda(),
                                    in[3].cuda(), out[1].cuda(), out[2].cuda(), out[3].cuda()});
      std::vector<float> result;
      for (Matrix& matrix : out) {
        const std::vector<float> values = matrix.from_cuda();
        result.insert(result.end(), values.begin() + kFirst * width, values.begin() + (kFirst + kSecond) * width);
      }
      return result;
    };
    const std::vector<float> want = second_sequence(0);
    CHECK(std::all_of(want.begin(), want.end(), [](float value) { return std::isfinite(value); }));
    CHECK(second_sequence(INFINITY) == want);
    CHECK(second_sequence(NAN) == want);
  }
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
