#include <algorithm>
#include <cmath>
#include <vector>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/threads.h"
#include "cpu/matrix_product.h"
#include "cpu/model_operators.h"

namespace cbtm {
namespace {

/// Rows whose gates are summed at a time; the sums are then added up in the order of the chunks.
constexpr int64_t kChunkRows = 256;

/// The expert with the largest logit but `without`; of equal ones the lower index, and a NaN only if all are.
int32_t largest(const float* logits, int64_t experts, int32_t without) {
  int32_t best = -1;
  for (int32_t e = 0; e < experts; ++e) {
    if (e == without) continue;
    if (best < 0 || logits[e] > logits[best] || (std::isnan(logits[best]) && !std::isnan(logits[e]))) best = e;
  }
  return best;
}

/// Row `row` of a contiguous or strided view.
template <typename Element, typename View>
auto* row_of(View view, int64_t row) {
  return view.template as<Element>() + row * view.row_stride;
}

/// Gives every choice its slot and its sorted row.
class SlotCount {
 public:
  SlotCount(const ExpertRouting& routing, int64_t capacity)
      : routing_(routing),
        capacity_(capacity == 0 ? kExpertsPerToken * routing.rows() : capacity),
        experts_(static_cast<size_t>(routing.experts())) {
    for (int64_t row = 0; row < routing.rows(); ++row)
      for (int64_t j = 0; j < kExpertsPerToken; ++j) ++expert(choice(row, j)).chosen[j];
    int32_t* offsets = routing.offsets.as<int32_t>();
    offsets[0] = 0;
    for (size_t e = 0; e < experts_.size(); ++e) {
      const int64_t chosen = experts_[e].chosen[0] + experts_[e].chosen[1];
      offsets[e + 1] = offsets[e] + static_cast<int32_t>(std::min(chosen, capacity_));
      routing.first_counts.as<int32_t>()[e] = static_cast<int32_t>(experts_[e].chosen[0]);
    }
  }

  void place() {
    for (int64_t j = 0; j < kExpertsPerToken; ++j)
      for (int64_t row = 0; row < routing_.rows(); ++row) {
        const int32_t e = choice(row, j);
        const int64_t slot = expert(e).slots++;
        int32_t sorted = -1;
        if (slot < capacity_) {
          sorted = routing_.offsets.as<int32_t>()[e] + static_cast<int32_t>(slot);
          routing_.sources.as<int32_t>()[sorted] = static_cast<int32_t>(kExpertsPerToken * row + j);
        } else {
          ++dropped_[j];
        }
        row_of<int32_t>(routing_.sorted_row, row)[j] = sorted;
      }
  }

  void add_to(double* statistics) const {
    const auto experts = static_cast<int64_t>(experts_.size());
    const int32_t* offsets = routing_.offsets.as<int32_t>();
    for (int64_t e = 0; e < experts; ++e) {
      const Expert& expert = experts_[static_cast<size_t>(e)];
      statistics[RoutingStatistics::first_choices(e)] += static_cast<double>(expert.chosen[0]);
      statistics[RoutingStatistics::second_choices(experts, e)] += static_cast<double>(expert.chosen[1]);
      statistics[RoutingStatistics::kept(experts, e)] += offsets[e + 1] - offsets[e];
    }
    int64_t both = 0;
    for (int64_t row = 0; row < routing_.rows(); ++row) {
      const int32_t* sorted = row_of<int32_t>(routing_.sorted_row, row);
      if (sorted[0] < 0 && sorted[1] < 0) ++both;
    }
    statistics[RoutingStatistics::dropped_first(experts)] += static_cast<double>(dropped_[0]);
    statistics[RoutingStatistics::dropped_second(experts)] += static_cast<double>(dropped_[1]);
    statistics[RoutingStatistics::dropped_both(experts)] += static_cast<double>(both);
  }

 private:
  struct Expert {
    int64_t chosen[kExpertsPerToken] = {0, 0};
    int64_t slots = 0;
  };
  Expert& expert(int32_t number) { return experts_[static_cast<size_t>(number)]; }
  int32_t choice(int64_t row, int64_t j) const { return row_of<int32_t>(routing_.choices, row)[j]; }

  const ExpertRouting& routing_;
  int64_t capacity_;
  std::vector<Expert> experts_;
  int64_t dropped_[kExpertsPerToken] = {0, 0};
};

/// The weights of a row's choices.
void weigh(const ExpertRouting& routing, int64_t row) {
  const int32_t* sorted = row_of<int32_t>(routing.sorted_row, row);
  float* weights = row_of<float>(routing.weights, row);
  if (sorted[0] >= 0 && sorted[1] >= 0) {
    const float* logits = row_of<float>(routing.logits, row);
    const int32_t* choices = row_of<int32_t>(routing.choices, row);
    weights[0] = 1 / (1 + std::exp(logits[choices[1]] - logits[choices[0]]));
    weights[1] = 1 - weights[0];
  } else {
    weights[0] = sorted[0] >= 0 ? 1.0f : 0.0f;
    weights[1] = sorted[1] >= 0 ? 1.0f : 0.0f;
  }
}

/// Adds the gates' entropy and the balance loss of all rows.
void add_gate_statistics(const cpu::Kernels& kernels, const ExpertRouting& routing, double* statistics) {
  const int64_t rows = routing.rows(), experts = routing.experts();
  const int64_t chunks = ceil_divide(rows, kChunkRows);
  // Of each chunk the sums of every expert's gate, then the sum of the entropies.
  std::vector<double> sums(static_cast<size_t>(chunks * (experts + 1)));
  parallel_chunks(rows, kChunkRows, static_cast<double>(experts) * 3, [&](int64_t chunk, int64_t begin, int64_t end) {
    double* sum = sums.data() + chunk * (experts + 1);
    std::vector<float> gates(static_cast<size_t>(experts));
    for (int64_t row = begin; row < end; ++row) {
      const float* logits = row_of<float>(routing.logits, row);
      const float shift = kernels.row_max(logits, experts);
      const double total = kernels.exp_sum(logits, shift, experts, gates.data());
      double mean_logit = 0;
      for (int64_t e = 0; e < experts; ++e) {
        const double gate = gates[static_cast<size_t>(e)] / total;
        sum[e] += gate;
        if (gate > 0) mean_logit += gate * (static_cast<double>(logits[e]) - shift);
      }
      sum[experts] += std::log(total) - mean_logit;
    }
  });
  double balance = 0;
  for (int64_t e = 0; e < experts; ++e) {
    double gate_sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) gate_sum += sums[static_cast<size_t>(chunk * (experts + 1) + e)];
    balance += gate_sum * routing.first_counts.as<int32_t>()[e];
  }
  // experts * Σ (gate_sum / rows) * (count / rows), times the rows.
  statistics[RoutingStatistics::balance(experts)] += balance * static_cast<double>(experts) / static_cast<double>(rows);
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    statistics[RoutingStatistics::entropy(experts)] += sums[static_cast<size_t>(chunk * (experts + 1) + experts)];
}

}  // namespace

int64_t CpuModelOperators::scratch_bytes(const RouteTokens& arguments) const {
  return bytes_with_products(arguments.router.dtype == DType::f32 ? 0 : arguments.router.size());
}
int64_t CpuModelOperators::scratch_bytes(const RouteTokensBackward& arguments) const {
  return bytes_with_products(arguments.router.dtype == DType::f32 ? 0 : arguments.router.size());
}

void CpuModelOperators::route_tokens(const RouteTokens& arguments) {
  const ExpertRouting& routing = arguments.routing;
  const ConstTensorView input = arguments.input, router = arguments.router;
  const int64_t rows = routing.rows(), experts = routing.experts();
  CBTM_ASSERT(experts >= kExpertsPerToken && experts <= kMaxExperts, "a token has two experts to choose from");
  CBTM_ASSERT(input.rows == rows && router.rows == experts && router.columns == input.columns,
              "shapes of a router agree");
  CBTM_ASSERT(router.contiguous() || router.dtype != DType::f32, "a router's rows lie together");
  float* widened = router.dtype == DType::f32 ? nullptr : scratch(0, router.size());
  const float* weight = cpu::widened_rows(kernels_, router, 0, experts, widened);
  parallel_ranges(rows, static_cast<double>(experts * input.columns) * 0.05, [&](int64_t begin, int64_t end) {
    kernels_.few_rows_f32(row_of<float>(input, begin), input.row_stride, end - begin, input.columns, weight, 0, experts,
                          row_of<float>(routing.logits, begin), routing.logits.row_stride);
    for (int64_t row = begin; row < end; ++row) {
      const float* logits = row_of<float>(routing.logits, row);
      int32_t* choices = row_of<int32_t>(routing.choices, row);
      choices[0] = largest(logits, experts, -1);
      choices[1] = largest(logits, experts, choices[0]);
    }
  });
  SlotCount slots(routing, arguments.capacity);
  slots.place();
  parallel_ranges(rows, 10, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) weigh(routing, row);
  });
  if (!arguments.statistics) return;
  slots.add_to(arguments.statistics.as<double>());
  add_gate_statistics(kernels_, routing, arguments.statistics.as<double>());
}

void CpuModelOperators::route_tokens_backward(const RouteTokensBackward& arguments) {
  const ExpertRouting& routing = arguments.routing;
  const ConstTensorView input = arguments.input, router = arguments.router;
  const TensorView gradients = arguments.logit_gradients;
  const int64_t rows = routing.rows(), experts = routing.experts(), width = input.columns;
  std::vector<float> fractions(static_cast<size_t>(experts));
  for (int64_t e = 0; e < experts; ++e)
    fractions[static_cast<size_t>(e)] =
        static_cast<float>(routing.first_counts.as<int32_t>()[e]) / static_cast<float>(rows);
  const float balance = arguments.balance_scale * static_cast<float>(experts);
  parallel_ranges(rows, static_cast<double>(experts) * 3, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* logits = row_of<float>(routing.logits, row);
      float* gates = row_of<float>(gradients, row);  // they become the gradients
      const float total = kernels_.exp_sum(logits, kernels_.row_max(logits, experts), experts, gates);
      float mean_fraction = 0;
      for (int64_t e = 0; e < experts; ++e) {
        gates[e] /= total;
        mean_fraction += fractions[static_cast<size_t>(e)] * gates[e];
      }
      for (int64_t e = 0; e < experts; ++e)
        gates[e] = balance * gates[e] * (fractions[static_cast<size_t>(e)] - mean_fraction);
      const float* weights = row_of<float>(routing.weights, row);
      const float* weight_gradients = row_of<float>(arguments.weight_gradients, row);
      const int32_t* choices = row_of<int32_t>(routing.choices, row);
      const float difference = weights[0] * weights[1] * (weight_gradients[0] - weight_gradients[1]);
      gates[choices[0]] += difference;
      gates[choices[1]] -= difference;
    }
  });
  float* widened = router.dtype == DType::f32 ? nullptr : scratch(0, router.size());
  const float* weight = cpu::widened_rows(kernels_, router, 0, experts, widened);
  const int64_t weight_stride = widened == nullptr ? router.row_stride : width;
  cpu::multiply_matrices(
      kernels_, {rows, width, experts, gradients.as<float>(), gradients.row_stride, false, weight, weight_stride, false,
                 arguments.input_gradient.as<float>(), arguments.input_gradient.row_stride, true});
  cpu::multiply_matrices(kernels_, {experts, width, rows, gradients.as<float>(), gradients.row_stride, true,
                                    input.as<float>(), input.row_stride, false, arguments.router_gradient.as<float>(),
                                    arguments.router_gradient.row_stride, true});
}

}  // namespace cbtm
