#include <algorithm>
#include <cmath>
#include <vector>

#include "cbtm/base/threads.h"
#include "cpu/model_operators.h"

namespace cbtm {

void CpuModelOperators::mixture_log_probabilities(const MixtureLogProbabilities& arguments) {
  const TensorView out = arguments.log_probabilities;
  const int64_t vocab_size = out.columns;
  const ConstTensorView weights = arguments.weights;
  parallel_ranges(out.rows, static_cast<double>(vocab_size) * 2.0, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* mixed = out.as<float>() + row * out.row_stride;
      std::fill_n(mixed, vocab_size, 0.0f);
      for (size_t expert = 0; expert < arguments.logits.size(); ++expert) {
        const float weight = weights.as<float>()[row * weights.row_stride + static_cast<int64_t>(expert)];
        if (weight == 0) continue;
        const ConstTensorView logits = arguments.logits[expert];
        const int64_t place =
            arguments.rows
                ? arguments.rows.as<int32_t>()[row * arguments.rows.row_stride + static_cast<int64_t>(expert)]
                : row;
        const float* values = logits.as<float>() + place * logits.row_stride;
        const float highest = kernels_.row_max(values, vocab_size);
        const float sum = kernels_.exp_sum(values, highest, vocab_size, nullptr);
        if (arguments.kind == MixtureKind::sum) {
          kernels_.add_exp_scaled(values, highest, weight / sum, vocab_size, mixed);
          continue;
        }
        const float shift = highest + std::log(sum);
        for (int64_t v = 0; v < vocab_size; ++v) mixed[v] += weight * (values[v] - shift);
      }
      if (arguments.kind == MixtureKind::sum) {
        kernels_.log_in_place(mixed, vocab_size);
        continue;
      }
      const float highest = kernels_.row_max(mixed, vocab_size);
      const float shift = highest + std::log(kernels_.exp_sum(mixed, highest, vocab_size, nullptr));
      for (int64_t v = 0; v < vocab_size; ++v) mixed[v] -= shift;
    }
  });
}

void CpuModelOperators::sample_mixture(const SampleMixture& arguments) {
  const int64_t vocab_size = arguments.logits.front().columns;
  std::vector<float> scores(static_cast<size_t>(vocab_size));
  for (int64_t s = 0; s < arguments.tokens.columns; ++s) {
    mixture_log_probabilities({.logits = arguments.logits,
                               .weights = arguments.weights.row_range(s, 1),
                               .log_probabilities = view_of(scores.data(), 1, vocab_size),
                               .rows = arguments.rows.row_range(s, 1),
                               .kind = arguments.kind});
    int32_t& token = arguments.tokens.as<int32_t>()[s];
    if (arguments.greedy) {
      token = most_likely_token(scores);
      continue;
    }
    filtered_distribution(scores, arguments.filter);
    token = token_at(scores, arguments.uniforms.as<double>()[s]);
  }
}

}  // namespace cbtm
