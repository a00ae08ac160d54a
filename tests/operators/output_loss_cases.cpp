#include <fmt/format.h>

#include "cbtm/device/model_operators.h"
#include "tests/operators/cases.h"
#include "tests/operators/weights.h"

namespace cbtm {
namespace {

constexpr float kScale = 0.75f;
constexpr int32_t kIgnored = -100;

struct LossSettings {
  int64_t rows, width, vocab;
  DType hidden = DType::f32, table = DType::f32;
  bool gradients = true;
};

/// A row's sum of exponentials goes through so many additions at most: 4 lanes or more, which are joined then.
int64_t sum_depth(int64_t vocab) { return vocab / 4 + 16; }

OperatorCase make_output_loss(const LossSettings& s) {
  OperatorCase one{.computed = s.hidden};
  const Operand hidden = one.input("hidden", s.hidden, s.rows, s.width, uniform_values(s.rows * s.width, 1, 2));
  const WeightOperands table = add_weights(one, s.table, s.vocab, s.width, 2);
  std::vector<double> target_ids = uniform_ids(s.rows, s.vocab, 6);
  for (size_t r = 1; r < target_ids.size(); r += 5) target_ids[r] = kIgnored;
  target_ids.back() = static_cast<double>(s.vocab - 1);
  const Operand targets = one.input("targets", DType::i32, 1, s.rows, target_ids);
  const Operand losses = one.output("losses", DType::f32, 1, s.rows);
  const Operand loss_sum = one.updated("loss_sum", DType::f64, 1, 1, {0.5});
  Operand hidden_gradient, table_gradient;
  if (s.gradients) {
    hidden_gradient = one.output("hidden_gradient", s.hidden, s.rows, s.width);
    table_gradient = one.updated("table_gradient", DType::f32, s.vocab, s.width, uniform_values(s.vocab * s.width, 5));
  }
  one.flops = 2.0 * static_cast<double>(s.rows * s.width * s.vocab) * (s.gradients ? 3 : 1);
  one.run = [=](Device& device, OperandsOnDevice& on) {
    device.model_operators().output_loss({.hidden = on[hidden],
                                          .table = on[table.matrix],
                                          .targets = on[targets],
                                          .losses = on[losses],
                                          .loss_sum = on[loss_sum],
                                          .gradient_scale = kScale,
                                          .hidden_gradient = on[hidden_gradient],
                                          .table_gradient = on[table_gradient],
                                          .table_scales = on[table.scales]});
  };
  one.reference = [=](Expectation& e) {
    const auto table_at = [&](int64_t v, int64_t i) -> Bounded {
      const Bounded w = table.meant[static_cast<size_t>(v * s.width + i)];
      return table.scales ? stored(with_units(w, 3), s.hidden) : w;
    };
    std::vector<Sum> table_sums(s.gradients ? static_cast<size_t>(s.vocab * s.width) : 0, Sum(s.hidden));
    for (int64_t v = 0; v < s.vocab && s.gradients; ++v)
      for (int64_t i = 0; i < s.width; ++i)
        table_sums[static_cast<size_t>(v * s.width + i)].add(e[table_gradient].at(v, i));
    Bounded total = 0.5;
    for (int64_t r = 0; r < s.rows; ++r) {
      const auto target = static_cast<int64_t>(e[targets].at(0, r));
      if (target == kIgnored) {
        e.expect_one_of(losses, 0, r, {0});
        for (int64_t i = 0; i < s.width && s.gradients; ++i) e.expect_one_of(hidden_gradient, r, i, {0});
        continue;
      }
      const std::vector<Bounded> activations = multiplied_activations(e[hidden], r, s.table);
      std::vector<Bounded> logits;
      double highest = -INFINITY;
      for (int64_t v = 0; v < s.vocab; ++v) {
        Sum logit(s.table == DType::bf16 ? DType::bf16 : s.hidden);
        for (int64_t i = 0; i < s.width; ++i) logit.add_product(activations[static_cast<size_t>(i)], table_at(v, i));
        // In training they are stored in the type of the activations.
        logits.push_back(stored(logit.result(), s.gradients ? s.hidden : DType::f32));
        highest = std::max(highest, logits.back().value);
      }
      Sum exponentials;
      for (const Bounded& logit : logits) exponentials.add(exp(logit - highest));
      const Bounded sum = exponentials.result(sum_depth(s.vocab));
      const Bounded loss = log(sum) + (highest - logits[static_cast<size_t>(target)]);
      e.expect(losses, 0, r, loss);
      total = {total.value + loss.value, total.error + stored(loss, DType::f32).error};
      if (!s.gradients) continue;
      std::vector<Sum> hidden_sums(static_cast<size_t>(s.width), Sum(s.hidden));
      for (int64_t v = 0; v < s.vocab; ++v) {
        const Bounded p = exp(logits[static_cast<size_t>(v)] - highest) * (static_cast<double>(kScale) / sum);
        const Bounded gradient = stored(p - (v == target ? static_cast<double>(kScale) : 0.0), s.hidden);
        for (int64_t i = 0; i < s.width; ++i) {
          hidden_sums[static_cast<size_t>(i)].add_product(gradient, table_at(v, i));
          table_sums[static_cast<size_t>(v * s.width + i)].add_product(gradient, e[hidden].at(r, i));
        }
      }
      for (int64_t i = 0; i < s.width; ++i)
        e.expect(hidden_gradient, r, i, hidden_sums[static_cast<size_t>(i)].result());
    }
    for (size_t i = 0; i < table_sums.size(); ++i)
      e.expect(table_gradient, static_cast<int64_t>(i) / s.width, static_cast<int64_t>(i) % s.width,
               table_sums[i].result());
    e.expect(loss_sum, 0, 0, {total.value, total.error + static_cast<double>(s.rows) * 0x1p-53 * total.size()});
  };
  one.verify = [=](const OperandsOnDevice& on, std::vector<std::string>& problems) {
    double sum = 0.5, size = 0.5;
    for (const double loss : on.values(losses)) {
      sum += loss;
      size += std::abs(loss);
    }
    const double got = on.values(loss_sum)[0];
    if (!(std::abs(got - sum) <= 2 * static_cast<double>(s.rows) * 0x1p-53 * size))
      problems.push_back(fmt::format("loss_sum is {}, the losses' sum in float64 is {}", got, sum));
  };
  if (!s.gradients || s.rows * s.width * s.vocab > 150'000) return one;
  const std::vector<double> h = one.matrix(hidden).values, t = one.matrix(table.matrix).values;
  const auto objective = [=](const std::vector<double>& hidden_states, const std::vector<double>& table_rows) {
    Objective total;
    std::vector<double> logits(static_cast<size_t>(s.vocab));
    for (int64_t r = 0; r < s.rows; ++r) {
      const double target = target_ids[static_cast<size_t>(r)];
      if (target == kIgnored) continue;
      for (int64_t v = 0; v < s.vocab; ++v) {
        double& logit = logits[static_cast<size_t>(v)];
        logit = 0;
        for (int64_t i = 0; i < s.width; ++i)
          logit +=
              hidden_states[static_cast<size_t>(r * s.width + i)] * table_rows[static_cast<size_t>(v * s.width + i)];
      }
      const double highest = *std::ranges::max_element(logits);
      double sum = 0;
      for (const double logit : logits) sum += std::exp(logit - highest);
      total.add(static_cast<double>(kScale) * (std::log(sum) + highest));
      total.add(-static_cast<double>(kScale) * logits[static_cast<size_t>(target)]);
    }
    return total;
  };
  one.gradients = {{hidden_gradient, h, [=](const std::vector<double>& point) { return objective(point, t); }},
                   {table_gradient, t, [=](const std::vector<double>& point) { return objective(h, point); }}};
  return one;
}

}  // namespace

CaseList output_loss_cases() {
  CaseList cases;
  const auto add = [&](const LossSettings& s, bool large = false) {
    cases.push_back({fmt::format("output_loss {}*{} {}x{}x{}{}", dtype_name(s.hidden), weight_type_name(s.table),
                                 s.rows, s.width, s.vocab, s.gradients ? " gradients" : ""),
                     large, [s] { return make_output_loss(s); }});
  };
  for (const DType dtype : kComputedTypes) {
    for (const auto& [rows, width, vocab] :
         {std::tuple<int64_t, int64_t, int64_t>{1, 8, 1}, {3, 8, 7}, {11, 24, 100}, {6, 40, 1001}, {9, 8, 8195}})
      for (const bool gradients : {true, false}) add({rows, width, vocab, dtype, dtype, gradients});
    add({5, 21, 37, dtype, DType::i8, false});
  }
  // A table narrower than float32 hidden states; OPT's vocabulary; more rows than a block of logits has.
  for (const DType table : {DType::bf16, DType::f16}) add({11, 24, 101, DType::f32, table, false});
  add({2, 8, kVocabSize, DType::f32, DType::f32});
  add({3, 8, kVocabSize, DType::bf16, DType::bf16});
  add({2, 8, 120'011, DType::f16, DType::f16});  // a row is too long for shared memory
  add({300, 12, 41});
  add({1029, 8, 19});
  add({2051, 8, 19, DType::bf16, DType::bf16});
  for (const DType dtype : kComputedTypes)
    for (const bool gradients : {true, false}) add({kTrainingRows, kHidden, kVocabSize, dtype, dtype, gradients}, true);
  return cases;
}

}  // namespace cbtm
