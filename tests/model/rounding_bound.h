#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "cbtm/model/spec.h"

namespace cbtm {

/// The relative error that rounding to float32 explains in the logits of a model.
///
/// A logit comes through the sums of every layer. A sum of n terms is off by √n u of itself (u = 2^-24; sum_error in
/// tests/device/operands.h derives it), and by 8 more roundings at most: a bias, an activation, a softmax, a sum with
/// the residual. Norms and residuals pass relative errors on. Those of different sums are independent, so their squares
/// add up.
inline double logit_error(const ModelSpec& spec, int64_t length) {
  double squares = 0;
  const auto sum_of = [&](int64_t terms) { squares += std::pow(std::sqrt(static_cast<double>(terms)) + 8, 2); };
  for (const BlockSpec& block : spec.blocks) {
    for (int norm = 0; norm < 2; ++norm) sum_of(spec.hidden_size);
    for (int product = 0; product < 3; ++product) sum_of(spec.hidden_size);  // query, key, value
    sum_of(block.attention.head_dim);
    for (int sum = 0; sum < 2; ++sum) sum_of(length);  // of exponentials, and of values
    sum_of(block.attention.width());
    sum_of(spec.hidden_size);
    sum_of(block.feed_forward.width);
  }
  sum_of(spec.hidden_size);      // the last norm
  sum_of(spec.embedding.width);  // the output matrix, and the projections if there are any
  if (spec.has_projections())
    for (const int64_t terms : {spec.embedding.width, spec.hidden_size}) sum_of(terms);
  return std::sqrt(squares) * 0x1p-24;
}

/// The standard deviation of a logit, relative to the root mean square of all, that storing activations in a narrower
/// type of unit roundoff `unit` explains. One rounding is uniform within `unit` of the power of two below a number:
/// 0.4 of `unit` of the number. Each term of a sum with random signs has its own, so the sum is off by as much. A layer
/// stores on the way to a logit: two norms, the queries, keys or values, the probabilities, the heads' sums of values,
/// the activation, and two sums with the residual. The last norm follows.
inline double stored_activations_deviation(const ModelSpec& spec, double unit) {
  return 0.4 * unit * std::sqrt(static_cast<double>(8 * spec.layers() + 1));
}

/// The largest difference that rounding explains between two computations of these logits, or of log-probabilities:
/// each is off by logit_error of the largest.
inline double logit_tolerance(const ModelSpec& spec, int64_t length, std::span<const float> logits) {
  double largest = 0;
  for (const float logit : logits) largest = std::max(largest, std::abs(static_cast<double>(logit)));
  return 2 * logit_error(spec, length) * largest;
}

}  // namespace cbtm
