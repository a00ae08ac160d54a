#include <algorithm>
#include <cmath>
#include <vector>

#include "cbtm/base/threads.h"
#include "cpu/copy.h"
#include "cpu/optimizer_operators.h"

namespace cbtm {
namespace {

/// Elements summed at a time.
constexpr int64_t kSumPiece = 1 << 16;

}  // namespace

void CpuOptimizerOperators::gradient_square_sum(ConstTensorView gradients, TensorView square_sum) {
  const int64_t count = gradients.size();
  const int64_t pieces = (count + kSumPiece - 1) / kSumPiece;
  std::vector<double> sums(static_cast<size_t>(pieces));
  parallel_chunks(count, kSumPiece, 0.1, [&](int64_t piece, int64_t begin, int64_t end) {
    sums[static_cast<size_t>(piece)] = kernels_.square_sum(gradients.as<float>() + begin, end - begin);
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  *square_sum.as<double>() = total;
}

void CpuOptimizerOperators::adamw(const AdamW& arguments) {
  const int64_t count = arguments.weights.size();
  const double square_sum = *arguments.gradient_square_sum.as<double>();
  if (!std::isfinite(square_sum)) {
    cpu::fill_zero(arguments.gradients);
    return;
  }
  const double norm = std::sqrt(square_sum) / arguments.loss_scale;
  const double clip = arguments.clip_norm > 0 ? std::min(1.0, arguments.clip_norm / (norm + 1e-6)) : 1.0;
  const double t = static_cast<double>(arguments.step);
  const double first_correction = 1.0 - std::pow(static_cast<double>(arguments.beta1), t);
  const double second_correction = 1.0 - std::pow(static_cast<double>(arguments.beta2), t);
  const auto update = [&](int64_t begin, int64_t end, float weight_decay) {
    if (begin >= end) return;
    kernels_.adamw({.weights = arguments.weights.as<float>() + begin,
                    .gradients = arguments.gradients.as<float>() + begin,
                    .first_moments = arguments.first_moments.as<float>() + begin,
                    .second_moments = arguments.second_moments.as<float>() + begin,
                    .count = end - begin,
                    .gradient_factor = static_cast<float>(clip / arguments.loss_scale),
                    .beta1 = arguments.beta1,
                    .beta2 = arguments.beta2,
                    .decay_factor = 1.0f - arguments.learning_rate * weight_decay,
                    .step_size = static_cast<float>(arguments.learning_rate / first_correction),
                    .second_moment_factor = static_cast<float>(1.0 / std::sqrt(second_correction)),
                    .epsilon = arguments.epsilon});
  };
  parallel_ranges(count, 0.7, [&](int64_t begin, int64_t end) {
    const int64_t border = std::clamp(arguments.decayed_count, begin, end);
    update(begin, border, arguments.weight_decay);
    update(border, end, 0.0f);
  });
  if (arguments.working_weights) cpu::copy(arguments.working_weights, arguments.weights);
}

void CpuOptimizerOperators::require_finite(ConstTensorView values, TensorView result) {
  const double* begin = values.as<double>();
  if (!std::all_of(begin, begin + values.columns, [](double value) { return std::isfinite(value); }))
    *result.as<double>() = NAN;
}

}  // namespace cbtm
