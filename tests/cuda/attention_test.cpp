// Attention of the CUDA device: infinite scores, sequences side by side, and what is refused. tests/operators compares
// values and gradients.

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "attention/attention_hopper.h"
#include "attention_operands.h"
#include "cbtm/base/error.h"
#include "cbtm/device/model_operators.h"
#include "device_context.h"
#include "half_precision.h"
#include "hopper/available.h"

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

TEST_CASE("the kernels for Hopper take what they can") {
  if (std::getenv("CBTM_ATTENTION") != nullptr) return;  // others are asked for
  const cuda::DeviceContext context(0);
  const auto taken = [&](DType dtype, int32_t head_dim, bool aligned, const int32_t* block_table) {
    cuda::AttentionParams params;
    params.head_dim = head_dim;
    params.vectorised = aligned;
    params.block_table = block_table;
    return cuda::runs_on_hopper(context, dtype, params);
  };
  const bool here = cuda::hopper::is_built() && context.compute_capability == 90;
  for (const int32_t head_dim : {64, 80, 128})
    for (const DType dtype : {DType::bf16, DType::f16}) CHECK(taken(dtype, head_dim, true, nullptr) == here);
  const int32_t page = 0;
  CHECK(!taken(DType::f32, 64, true, nullptr));
  CHECK(!taken(DType::bf16, 96, true, nullptr));
  CHECK(!taken(DType::bf16, 64, false, nullptr));
  CHECK(!taken(DType::bf16, 64, true, &page));
}

TEST_CASE("tiles of the backward pass for Hopper") {
  const std::vector<int32_t> query_offsets = {0, 70, 70, 71, 400}, key_offsets = {0, 70, 130, 350, 679};
  constexpr int32_t kQueries = 64, kKeys = 128;
  const cuda::AttentionBackwardTiles tiles = cuda::attention_backward_tiles(
      {.query_offsets = query_offsets, .key_offsets = key_offsets, .cached_lengths = {}}, kQueries, kKeys);
  REQUIRE(tiles.queries.size() == 2 + 0 + 1 + 6);
  std::vector<int32_t> next_key(4, 0);  // of each sequence
  int32_t longest = tiles.keys.front().query_count;
  for (const cuda::AttentionBackwardTile& tile : tiles.keys) {
    CHECK(tile.query_count <= longest);
    longest = tile.query_count;
    const auto s = static_cast<size_t>(std::upper_bound(key_offsets.begin(), key_offsets.end(), tile.key_row) -
                                       key_offsets.begin() - 1);
    // A block waits for that of the keys before its own, which therefore must come earlier.
    CHECK(tile.key_first == next_key[s]);
    CHECK(tile.key_row == key_offsets[s] + tile.key_first);
    next_key[s] += tile.key_count;
    const int32_t queries = query_offsets[s + 1] - query_offsets[s];
    if (tile.query_count == 0) {
      CHECK(queries == 0);
      continue;
    }
    const cuda::AttentionQueryTile& first = tiles.queries[static_cast<size_t>(tile.query_tile)];
    CHECK(first.query_row == tile.query_row);
    CHECK(tile.query_row + tile.query_count == query_offsets[s + 1]);
    CHECK(first.first_visible - 1 == tile.seen_before + tile.key_first);  // the last key that its first query sees
    CHECK(tile.seen_before + first.query_count > 0);                      // one of its queries sees one of the keys
  }
  for (size_t s = 0; s < next_key.size(); ++s) CHECK(next_key[s] == key_offsets[s + 1] - key_offsets[s]);
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
