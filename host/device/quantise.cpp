#include "cbtm/device/quantise.h"

#include <algorithm>
#include <cmath>

#include "cbtm/device/device.h"
#include "cbtm/device/model_operators.h"

namespace cbtm {
namespace {

constexpr float kLowest = -8, kHighest = 7;

/// To the nearest integer, ties to even, of |value| < 2^22.
float rounded(float value) { return (value + 0x1.8p23f) - 0x1.8p23f; }

float value_of(float weight, float inverse_scale) {
  return rounded(std::min(std::max(weight * inverse_scale, kLowest), kHighest));
}

float squared_error(const float* group, float scale) {
  const float inverse = 1 / scale;
  float sums[8] = {};
  for (int64_t i = 0; i < kInt4Group; i += 8)
    for (int64_t k = 0; k < 8; ++k) {
      const float error = group[i + k] - scale * value_of(group[i + k], inverse);
      sums[k] += error * error;
    }
  float sum = 0;
  for (const float part : sums) sum += part;
  return sum;
}

/// Of the scales that take `extreme`, the group's value of largest magnitude, to -9.25 .. -6.75 (a step from -8 either
/// way costs the extreme value precision, and gives it to the others) or to 7.
f16 best_scale(const float* group, float extreme) {
  f16 best;
  float least = INFINITY;
  const auto consider = [&](float target) {
    const f16 scale = to_f16(extreme / target);
    if (to_float(scale) == 0) return;
    const float error = squared_error(group, to_float(scale));
    if (error < least) {
      least = error;
      best = scale;
    }
  };
  for (int step = -5; step <= 5; ++step) consider(kLowest + 0.25f * static_cast<float>(step));
  consider(kHighest);
  return best;
}

}  // namespace

bool quantise_int8(const float* row, int64_t in, int8_t* codes, float& scale) {
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < in; ++i) {
    largest = std::max(largest, std::abs(row[i]));
    finite = finite && std::isfinite(row[i]);
  }
  if (!finite) return false;
  scale = largest / 127;
  const float inverse = scale > 0 ? 127 / largest : 0;
  if (!std::isfinite(inverse)) scale = 0;  // a row of nothing but the smallest numbers
  for (int64_t i = 0; i < in; ++i) codes[i] = scale > 0 ? static_cast<int8_t>(rounded(row[i] * inverse)) : int8_t{0};
  return true;
}

bool quantise_int4(const float* row, int64_t in, uint8_t* codes, f16* scales) {
  for (int64_t group = 0; group < int4_groups(in); ++group) {
    float weights[kInt4Group] = {};
    std::copy_n(row + group * kInt4Group, std::min(kInt4Group, in - group * kInt4Group), weights);
    float extreme = 0;
    for (const float weight : weights) {
      if (!std::isfinite(weight)) return false;
      if (std::abs(weight) > std::abs(extreme)) extreme = weight;
    }
    if (std::abs(extreme) > 6 * 65504.0f) return false;  // float16 has no such scale
    scales[group] = best_scale(weights, extreme);
    const float scale = to_float(scales[group]);
    const float inverse = scale != 0 ? 1 / scale : 0;
    const auto code = [&](float weight) {
      return static_cast<unsigned>(static_cast<int>(value_of(weight, inverse)) - static_cast<int>(kLowest));
    };
    for (int64_t b = 0; b < kInt4GroupBytes; ++b)
      codes[group * kInt4GroupBytes + b] =
          static_cast<uint8_t>(code(weights[b]) | code(weights[kInt4GroupBytes + b]) << 4);
  }
  return true;
}

void dequantise_int4(const uint8_t* codes, const f16* scales, int64_t in, float* row) {
  for (int64_t i = 0; i < in; ++i) {
    const int64_t group = i / kInt4Group, place = i % kInt4Group;
    const uint8_t byte = codes[group * kInt4GroupBytes + place % kInt4GroupBytes];
    const int code = place < kInt4GroupBytes ? byte & 15 : byte >> 4;
    row[i] = to_float(scales[group]) * static_cast<float>(code + static_cast<int>(kLowest));
  }
}

}  // namespace cbtm
