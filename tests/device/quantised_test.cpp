// int8 and int4 weights: what quantising loses.

#include <limits>

#include "cbtm/device/linear_operands.h"
#include "cbtm/device/quantise.h"
#include "tests/device/operands.h"

namespace cbtm {
namespace {

struct Int4Matrix {
  Int4Matrix(const std::vector<float>& weights, int64_t out)
      : in_(static_cast<int64_t>(weights.size()) / out), meant(weights.size()) {
    codes.resize(static_cast<size_t>(out * int4_groups(in_) * kInt4GroupBytes));
    scales.resize(static_cast<size_t>(out * int4_groups(in_)));
    for (int64_t o = 0; o < out; ++o) {
      uint8_t* row = codes.data() + o * int4_groups(in_) * kInt4GroupBytes;
      f16* row_scales = scales.data() + o * int4_groups(in_);
      REQUIRE(quantise_int4(weights.data() + o * in_, in_, row, row_scales));
      dequantise_int4(row, row_scales, in_, meant.data() + o * in_);
    }
  }

  int64_t in_;
  std::vector<uint8_t> codes;
  std::vector<f16> scales;
  std::vector<float> meant;
};

struct Int8Matrix {
  Int8Matrix(const std::vector<float>& weights, int64_t out) : codes(weights.size()), meant(weights.size()) {
    scales.resize(static_cast<size_t>(out));
    const int64_t in = static_cast<int64_t>(weights.size()) / out;
    for (int64_t o = 0; o < out; ++o) {
      float& scale = scales[static_cast<size_t>(o)];
      REQUIRE(quantise_int8(weights.data() + o * in, in, codes.data() + o * in, scale));
      for (auto i = static_cast<size_t>(o * in); i < static_cast<size_t>((o + 1) * in); ++i)
        meant[i] = scale * static_cast<float>(codes[i]);
    }
  }

  std::vector<int8_t> codes;
  std::vector<float> scales, meant;
};

TEST_CASE("int8 rows are off by half a step, whatever their size") {
  for (const float size : {1.0f, 1e-6f, 1e6f}) {
    const std::vector<float> row = random_values(333, 1, size);
    const Int8Matrix matrix(row, 1);
    for (size_t i = 0; i < row.size(); ++i) CHECK(std::abs(matrix.meant[i] - row[i]) <= matrix.scales[0] * 0.50001f);
  }
  const Int8Matrix zero(std::vector<float>(5), 1), outlier({1000, 1, -1}, 1);
  CHECK(zero.meant == std::vector<float>(5));
  CHECK(outlier.codes == std::vector<int8_t>{127, 0, 0});
}

TEST_CASE("int4 groups: codes worked out by hand, error of normal and of extreme values, the padding is zero") {
  // -8 .. 7 in steps of 0.5, twice: scale 0.5 is exact.
  std::vector<float> exact;
  for (int i = 0; i < 32; ++i) exact.push_back(0.5f * static_cast<float>(i % 16 - 8));
  const Int4Matrix matrix(exact, 1);
  CHECK(to_float(matrix.scales[0]) == 0.5f);
  CHECK(matrix.meant == exact);
  for (size_t b = 0; b < 16; ++b) CHECK(matrix.codes[b] == b + 16 * b);

  for (const int64_t in : {1, 31, 33, 320})
    for (const float size : {1.0f, 1e-3f, 300.0f}) {
      std::vector<float> weights = random_values(3 * in, 5, size);
      weights[0] = 20 * size;
      const Int4Matrix quantised(weights, 3);
      for (int64_t o = 0; o < 3; ++o)
        for (int64_t first = 0; first < in; first += kInt4Group) {
          double largest = 0, squares = 0;
          for (int64_t i = first; i < std::min(in, first + kInt4Group); ++i) {
            const auto at = static_cast<size_t>(o * in + i);
            largest = std::max(largest, std::abs(static_cast<double>(weights[at])));
            squares += std::pow(static_cast<double>(quantised.meant[at] - weights[at]), 2);
          }
          // Scales are rounded to float16.
          CHECK(squares <= static_cast<double>(kInt4Group) * std::pow(largest / 14 * (1 + 0x1p-8), 2));
        }
      double error = 0, square = 0;
      for (size_t i = 1; i < weights.size(); ++i) {
        if (i < kInt4Group) continue;  // the outlier's group
        error += std::pow(static_cast<double>(quantised.meant[i] - weights[i]), 2);
        square += std::pow(static_cast<double>(weights[i]), 2);
      }
      // Uniform values in steps of 1/8 of the largest: error 1/8 / sqrt(12) of a root mean square of 1 / sqrt(3).
      if (in > 200) CHECK(std::sqrt(error / square) < 0.0625);
      // What lies beyond `in` has code 8, value 0.
      for (int64_t i = in; i < int4_groups(in) * kInt4Group; ++i) {
        const uint8_t byte =
            quantised.codes[static_cast<size_t>(i / kInt4Group * kInt4GroupBytes + i % kInt4GroupBytes)];
        CHECK((i % kInt4Group < kInt4GroupBytes ? byte & 15 : byte >> 4) == 8);
      }
    }
}

TEST_CASE("what is not finite is not quantised") {
  int8_t codes8[4];
  uint8_t codes4[16];
  f16 scales[1];
  float scale = 0;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const float row[] = {1, bad, 2, 3};
    CHECK(!quantise_int8(row, 4, codes8, scale));
    CHECK(!quantise_int4(row, 4, codes4, scales));
  }
  const float large[] = {1e6f};
  CHECK(!quantise_int4(large, 1, codes4, scales));
}

}  // namespace
}  // namespace cbtm
