#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cbtm/base/json.h"

// How far the losses of a training on the CUDA device may lie from those of the same training on the CPU; a line of
// metrics.jsonl a step. Something that is not a number differs by infinity.

namespace cbtm {

/// Largest |got - want| / |want| of `key` over the steps that have it.
inline double largest_relative_difference(const std::vector<Json>& got, const std::vector<Json>& want,
                                          const char* key) {
  REQUIRE(got.size() == want.size());
  double largest = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    REQUIRE(got[i].contains(key) == want[i].contains(key));
    if (!want[i].contains(key)) continue;
    const double g = got[i][key].get<double>(), w = want[i][key].get<double>();
    const double difference = std::abs(g - w) / std::abs(w);
    largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
  }
  return largest;
}

/// Largest |got - want| of the losses, over the steps that were taken.
inline double largest_loss_difference(const std::vector<Json>& got, const std::vector<Json>& want) {
  REQUIRE(got.size() == want.size());
  double largest = 0;
  for (size_t i = 0; i < want.size(); ++i)
    if (want[i]["loss"].is_number()) {
      const double difference = std::abs(got[i]["loss"].get<double>() - want[i]["loss"].get<double>());
      largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
    }
  return largest;
}

/// Against the CPU's float32 losses. Activations and working weights are rounded to 16 bits: an error of u / 2 of each
/// (root mean square; u = 2^-8 for bf16, 2^-11 for fp16), at some 4 places a layer and the output, so sqrt(1 + 4
/// layers) u / 2 of a logit, and twice that of a loss. Weights' errors are the same for all targets, so the mean does
/// not lessen it. Later steps add gradients' relative errors, about as large, times the learning rate and the
/// gradient's norm (1): 50 * 3e-3 of it at most. The largest of n such errors is about sqrt(2 ln n) times their root
/// mean square.
inline double half_error(const std::string& precision, int64_t layers, double logit_size) {
  const double roundoff = precision == "bf16" ? 0x1p-8 : 0x1p-11;
  return 1.15 * 2 * std::sqrt(1 + 4.0 * static_cast<double>(layers)) * roundoff / 2 * logit_size;
}
/// The largest that is to be expected over so many steps.
inline double half_bound(double error, int64_t steps) {
  return std::sqrt(2 * std::log(static_cast<double>(steps))) * error;
}

}  // namespace cbtm
