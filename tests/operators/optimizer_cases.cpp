#include <fmt/format.h>

#include "cbtm/device/optimizer_operators.h"
#include "tests/operators/cases.h"

namespace cbtm {
namespace {

struct OptimizerSettings {
  int64_t count;
  int64_t shift = 0;           ///< elements by which the buffers begin behind an aligned address
  DType working = DType::f32;  ///< of the working copy; f32: there is none
  float loss_scale = 1;
  int64_t step = 1;
  float clip_norm = 1;
  double last_gradient = 0.5;  ///< the last element of the gradient, which may not be finite
};

OperatorCase make_square_sum(const OptimizerSettings& s) {
  OperatorCase one;
  std::vector<double> values = uniform_values(s.count, 1, 3);
  if (!values.empty()) values.back() = s.last_gradient;
  const Operand gradients = one.input("gradients", DType::f32, 1, s.count, values, {0, s.shift});
  const Operand square_sum = one.output("square_sum", DType::f64, 1, 1);
  one.flops = 2.0 * static_cast<double>(s.count);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.optimizer_operators().gradient_square_sum(on[gradients], on[square_sum]);
  };
  one.reference = [=](Expectation& e) {
    Sum sum;
    for (int64_t i = 0; i < s.count; ++i) sum.add_product(e[gradients].at(0, i), e[gradients].at(0, i));
    // In float32 a lane adds 4096 / 8 squares at most, and the 8 lanes are joined then; the rest is float64.
    Bounded want = sum.result(4096 / 8 + 8);
    // A square beyond float32 may show as infinity.
    if (std::abs(s.last_gradient) > 0x1p63)
      e.expect_one_of(square_sum, 0, 0, {INFINITY});
    else
      e.expect(square_sum, 0, 0, want);
  };
  return one;
}

double sum_of_squares(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return sum;
}

OperatorCase make_adamw(const OptimizerSettings& s) {
  OperatorCase one;
  const Placement placement{0, s.shift};
  std::vector<double> gradient_values = uniform_values(s.count, 2, static_cast<double>(s.loss_scale));
  gradient_values.back() = s.last_gradient * static_cast<double>(s.loss_scale);
  std::vector<double> second = uniform_values(s.count, 4, 0.5);
  for (double& value : second) value = std::abs(value);
  const auto flat = [&](const char* name, const std::vector<double>& values) {
    return one.updated(name, DType::f32, 1, s.count, values, placement);
  };
  const Operand weights = flat("weights", uniform_values(s.count, 1));
  const Operand gradients = flat("gradients", gradient_values);
  const Operand first_moments = flat("first_moments", uniform_values(s.count, 3, 0.5));
  const Operand second_moments = flat("second_moments", second);
  const bool copies = s.working != DType::f32;
  const Operand working = copies ? one.updated("working_weights", s.working, 1, s.count,
                                               std::vector<double>(static_cast<size_t>(s.count), 7), placement)
                                 : Operand();
  const double square_sum = sum_of_squares(one.matrix(gradients).values);
  const Operand square_sum_operand = one.input("gradient_square_sum", DType::f64, 1, 1, {square_sum});
  constexpr float kLearningRate = 0.01f, kWeightDecay = 0.1f;
  const int64_t decayed = s.count / 2;
  one.flops = 12.0 * static_cast<double>(s.count);
  const auto arguments = [=](OperandsOnDevice& on) {
    return AdamW{.weights = on[weights],
                 .gradients = on[gradients],
                 .first_moments = on[first_moments],
                 .second_moments = on[second_moments],
                 .working_weights = on[working],
                 .gradient_square_sum = on[square_sum_operand],
                 .loss_scale = s.loss_scale,
                 .decayed_count = decayed,
                 .step = s.step,
                 .learning_rate = kLearningRate,
                 .weight_decay = kWeightDecay,
                 .clip_norm = s.clip_norm};
  };
  one.run = [=](Device& device, OperandsOnDevice& on) { device.optimizer_operators().adamw(arguments(on)); };
  one.reference = [=](Expectation& e) {
    const bool updates = std::isfinite(square_sum);
    const AdamW defaults;
    const double beta1 = defaults.beta1, beta2 = defaults.beta2, step = static_cast<double>(s.step);
    const double norm = std::sqrt(square_sum) / s.loss_scale;
    const double clip = s.clip_norm > 0 ? std::min(1.0, s.clip_norm / (norm + 1e-6)) : 1;
    for (int64_t i = 0; i < s.count; ++i) {
      e.expect_one_of(gradients, 0, i, {0});
      const double w = e[weights].at(0, i), m = e[first_moments].at(0, i), v = e[second_moments].at(0, i);
      if (!updates) {
        e.expect_one_of(weights, 0, i, {w});
        e.expect_one_of(first_moments, 0, i, {m});
        e.expect_one_of(second_moments, 0, i, {v});
        if (copies) e.expect_one_of(working, 0, i, {7});
        continue;
      }
      // Factors are worked out in float64 and rounded once.
      const auto factor = [](double value) { return stored(value, DType::f32); };
      const Bounded g = e[gradients].at(0, i) * factor(clip / s.loss_scale);
      const Bounded new_m = Bounded(beta1) * m + (1 - beta1) * g;
      const Bounded new_v = Bounded(beta2) * v + (1 - beta2) * g * g;
      const Bounded denominator =
          sqrt(new_v) * factor(1 / std::sqrt(1 - std::pow(beta2, step))) + static_cast<double>(defaults.epsilon);
      const Bounded decay = i < decayed ? 1.0 - Bounded(kLearningRate) * kWeightDecay : Bounded(1.0);
      const Bounded new_w = w * decay - factor(kLearningRate / (1 - std::pow(beta1, step))) * new_m / denominator;
      e.expect(first_moments, 0, i, new_m);
      e.expect(second_moments, 0, i, new_v);
      e.expect(weights, 0, i, new_w);
      if (copies) e.expect(working, 0, i, stored(new_w, DType::f32));
    }
  };
  one.verify = [=](const OperandsOnDevice& on, std::vector<std::string>& problems) {
    if (!copies || !std::isfinite(square_sum)) return;
    if (on.values(working) != rounded_to(on.values(weights), s.working))
      problems.push_back("working_weights are not the rounded weights");
  };
  return one;
}

OperatorCase make_require_finite(int64_t count, int64_t bad, double value) {
  OperatorCase one;
  std::vector<double> all = uniform_values(count, 1, 1e300);
  if (bad >= 0) all[static_cast<size_t>(bad)] = value;
  const Operand values = one.input("values", DType::f64, 1, count, all);
  const Operand result = one.updated("result", DType::f64, 1, 1, {0.25});
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.optimizer_operators().require_finite(on[values], on[result]);
  };
  one.reference = [=](Expectation& e) {
    if (bad >= 0)
      e.expect(result, 0, 0, Bounded(NAN));
    else
      e.expect_one_of(result, 0, 0, {0.25});
  };
  return one;
}

}  // namespace

CaseList optimizer_cases() {
  CaseList cases;
  const auto add = [&](const OptimizerSettings& s, bool square_sum, bool large = false) {
    const std::string settings =
        fmt::format("{} from {}{}, last {}", s.count, s.shift,
                    square_sum ? ""
                               : fmt::format(", copy {}, loss scale {}, step {}, clip {}", dtype_name(s.working),
                                             s.loss_scale, s.step, s.clip_norm),
                    s.last_gradient);
    if (square_sum)
      cases.push_back({"gradient_square_sum " + settings, large, [s] { return make_square_sum(s); }});
    else
      cases.push_back({"adamw " + settings, large, [s] { return make_adamw(s); }});
  };
  for (const int64_t shift : {0, 1}) {
    for (const int64_t count : {0, 1, 3, 4, 5, 511, 2049, 4097, 1'000'003}) add({.count = count, .shift = shift}, true);
    for (const double bad :
         {static_cast<double>(NAN), static_cast<double>(INFINITY), -static_cast<double>(INFINITY), 1e30})
      for (const int64_t count : {3, 2049}) add({.count = count, .shift = shift, .last_gradient = bad}, true);
    for (const int64_t count : {1, 3, 6, 1000, 5003})
      for (const DType working : {DType::f32, DType::bf16, DType::f16})
        for (const int64_t step : {1, 2, 1000})
          add({.count = count,
               .shift = shift,
               .working = working,
               .loss_scale = working == DType::f32 ? 1.0f : 64.0f,
               .step = step,
               .clip_norm = step == 2 ? 0.0f : 1.0f},
              false);
  }
  for (const double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY)})
    add({.count = 77, .working = DType::bf16, .last_gradient = bad}, false);
  for (const int64_t count : {1, 5, 300})
    for (const int64_t bad : {int64_t{-1}, count - 1})
      for (const double value : {static_cast<double>(NAN), -static_cast<double>(INFINITY)})
        if (bad >= 0 || std::isnan(value))
          cases.push_back({fmt::format("require_finite {}, number {} is {}", count, bad, value), false,
                           [=] { return make_require_finite(count, bad, value); }});
  constexpr int64_t kParameters = 20'000'000;
  add({.count = kParameters}, true, true);
  add({.count = kParameters, .working = DType::bf16}, false, true);
  return cases;
}

}  // namespace cbtm
