// Products with bf16 and int8 weights against what docs/numerics.md says about them, worked out value by value. Of int8
// weights every instruction set gives the same bits, so these must be met exactly.

#include <cstring>
#include <limits>
#include <string>

#include "cbtm/base/half_types.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/device/quantise.h"
#include "tests/device/operands.h"

namespace cbtm {
namespace {

constexpr int64_t kChunk = 1024, kGroups = 16;

/// A row of activations as int8: x[i] stands for scale of its chunk * 2^shift * value.
struct QuantisedRow {
  std::vector<int64_t> shifted;  ///< 2^shift * value
  std::vector<float> scales;
};

QuantisedRow quantised(const float* x, int64_t in) {
  QuantisedRow row;
  for (int64_t begin = 0; begin < in; begin += kChunk) {
    const int64_t end = std::min(begin + kChunk, in);
    float largest[kGroups] = {}, of_chunk = 0;
    bool finite = true;
    for (int64_t i = begin; i < end; ++i) {
      float& of_group = largest[i / 4 % kGroups];
      of_group = std::max(of_group, std::abs(x[i]));
      of_chunk = std::max(of_chunk, of_group);
      finite = finite && std::isfinite(x[i]);
    }
    const bool usable = finite && of_chunk >= 0x1p-100f;
    const float inverse = usable ? 16256.0f / of_chunk : 0.0f;
    row.scales.push_back(usable ? of_chunk / 16256.0f : finite ? 0.0f : std::numeric_limits<float>::quiet_NaN());
    for (int64_t i = begin; i < end; ++i) {
      int64_t steps = 1;
      while (steps < 128 && largest[i / 4 % kGroups] * inverse > static_cast<float>(127 * steps)) steps *= 2;
      const float scaled = x[i] * (inverse / static_cast<float>(steps));
      row.shifted.push_back(usable ? steps * static_cast<int64_t>(std::nearbyint(scaled)) : 0);
    }
  }
  return row;
}

/// One value. The steps are volatile, so that no compiler joins a product and a sum.
float int8_product(const QuantisedRow& row, const int8_t* weight, float scale) {
  volatile float sum = 0;
  for (size_t chunk = 0; chunk < row.scales.size(); ++chunk) {
    int64_t total = 0;
    const size_t begin = chunk * kChunk, end = std::min(begin + kChunk, row.shifted.size());
    for (size_t i = begin; i < end; ++i) total += row.shifted[i] * weight[i];
    REQUIRE(std::abs(total) < int64_t{1} << 31);
    volatile float product = static_cast<float>(total) * row.scales[chunk];
    sum = sum + product;
  }
  return sum * scale;
}

/// Activations of every kind, row by row: uniform, with outliers, of one magnitude, tiny, zero, not finite.
std::vector<float> rows_of_every_kind(int64_t rows, int64_t in) {
  std::vector<float> x = random_values(rows * in, 5);
  for (int64_t r = 0; r < rows; ++r) {
    float* row = x.data() + r * in;
    for (int64_t i = 0; i < in; ++i) {
      if (r % 7 == 1 && i % 97 == 0) row[i] *= 60;
      if (r % 7 == 2) row[i] = row[i] < 0 ? -3.0f : 3.0f;
      if (r % 7 == 3) row[i] *= i < in / 2 ? 1e-36f : 1e-28f;
      if (r % 7 == 4) row[i] = std::pow(row[i], 9.0f);
      if (r % 7 == 5) row[i] = 0;
    }
  }
  return x;
}

const std::vector<int64_t> kRows = {1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 50};

TEST_CASE("int8 weights: the bits are those of the definition, for every number of rows") {
  for (const auto& [in, out] : {std::pair<int64_t, int64_t>{1, 1},
                                {63, 5},
                                {64, 16},
                                {65, 33},
                                {300, 17},
                                {768, 70},
                                {1023, 31},
                                {1024, 32},
                                {1025, 18},
                                {2500, 35}})
    for (const int64_t rows : kRows) {
      CAPTURE(in);
      CAPTURE(out);
      CAPTURE(rows);
      std::vector<float> x = rows_of_every_kind(rows, in);
      std::vector<int8_t> weight(static_cast<size_t>(out * in));
      const std::vector<float> drawn = random_values(out * in, 6, 127.49f);
      for (size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<int8_t>(std::lrint(drawn[i]));
      // The largest sums there are: -128 is no code that cbtm makes, but fits.
      for (int64_t i = 0; i < in; ++i) weight[static_cast<size_t>(i)] = x[static_cast<size_t>(i)] < 0 ? 127 : -128;
      std::vector<float> scales = random_values(out, 7, 0.01f), output(static_cast<size_t>(rows * out));
      device_under_test().model_operators().linear_forward({.input = as_matrix(x, rows),
                                                            .weight = view_of(weight.data(), out, in),
                                                            .bias = {},
                                                            .output = as_matrix(output, rows),
                                                            .weight_scales = as_matrix(scales, 1)});
      int wrong = 0;
      for (int64_t r = 0; r < rows; ++r) {
        const QuantisedRow row = quantised(x.data() + r * in, in);
        for (int64_t o = 0; o < out; ++o) {
          const float want = int8_product(row, weight.data() + o * in, scales[static_cast<size_t>(o)]);
          wrong += want != output[static_cast<size_t>(r * out + o)];
        }
      }
      CHECK(wrong == 0);
    }
}

TEST_CASE("bf16 weights: sums of products of bf16 numbers where the processor has them, else of float32 and bf16") {
  const bool rounds = device_under_test().description().find("BF16") != std::string::npos;
  for (const auto& [in, out] :
       {std::pair<int64_t, int64_t>{1, 1}, {31, 5}, {32, 16}, {33, 33}, {100, 17}, {768, 70}, {2500, 35}})
    for (const int64_t rows : kRows)
      for (const RowSums row_sums : {RowSums::any, RowSums::decode, RowSums::prompt}) {
        CAPTURE(in);
        CAPTURE(out);
        CAPTURE(rows);
        std::vector<float> x = rows_of_every_kind(rows, in), output(static_cast<size_t>(rows * out));
        std::vector<bf16> weight;
        for (const float value : random_values(out * in, 6)) weight.push_back(to_bf16(value));
        device_under_test().model_operators().linear_forward({.input = as_matrix(x, rows),
                                                              .weight = view_of(weight.data(), out, in),
                                                              .bias = {},
                                                              .output = as_matrix(output, rows),
                                                              .row_sums = row_sums});
        int wrong = 0;
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t o = 0; o < out; ++o) {
            double sum = 0, size = 0;
            for (int64_t i = 0; i < in; ++i) {
              const float value = x[static_cast<size_t>(r * in + i)];
              const double product = static_cast<double>(rounds ? to_float(to_bf16(value)) : value) *
                                     static_cast<double>(to_float(weight[static_cast<size_t>(o * in + i)]));
              sum += product;
              size += std::abs(product);
            }
            // Every addition rounds what it adds to by u = 2^-24 at most; what is below 2^-126 may become 0.
            const double bound = static_cast<double>(in + 1) * (0x1p-24 * size + 0x1p-126);
            wrong += !(std::abs(static_cast<double>(output[static_cast<size_t>(r * out + o)]) - sum) <= bound);
          }
        CHECK(wrong == 0);
      }
}

TEST_CASE("narrow weights: what is not finite stays so, in its own row") {
  constexpr int64_t kIn = 1100, kOut = 20;
  std::vector<int8_t> bytes(kOut * kIn, 3);
  std::vector<bf16> halves(kOut * kIn, to_bf16(0.5f));
  std::vector<float> scales(kOut, 0.25f);
  for (const int64_t rows : kRows)
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
      for (const bool int8 : {false, true}) {
        CAPTURE(rows);
        CAPTURE(int8);
        std::vector<float> x = random_values(rows * kIn, 5), output(static_cast<size_t>(rows * kOut));
        x[static_cast<size_t>((rows - 1) * kIn + 1050)] = bad;
        device_under_test().model_operators().linear_forward(
            {.input = as_matrix(x, rows),
             .weight = int8 ? ConstTensorView(view_of(bytes.data(), kOut, kIn)) : view_of(halves.data(), kOut, kIn),
             .bias = {},
             .output = as_matrix(output, rows),
             .weight_scales = int8 ? ConstTensorView(as_matrix(scales, 1)) : ConstTensorView()});
        for (int64_t i = 0; i < rows * kOut; ++i)
          CHECK(std::isfinite(output[static_cast<size_t>(i)]) == (i < (rows - 1) * kOut));
      }
}

}  // namespace
}  // namespace cbtm
