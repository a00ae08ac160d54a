#include <algorithm>
#include <cstring>
#include <vector>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/threads.h"
#include "cpu/model_operators.h"

namespace cbtm {
namespace {

template <typename View>
auto* floats(View view, int64_t row) {
  return view.template as<float>() + row * view.row_stride;
}

/// The sorted rows of a token's two choices; -1: dropped.
const int32_t* sorted_rows(const ExpertRouting& routing, int64_t token) {
  return routing.sorted_row.as<int32_t>() + token * routing.sorted_row.row_stride;
}

/// The multipliers of each choice's dropout.
class ChoiceDropout {
 public:
  ChoiceDropout(const cpu::Kernels& kernels, const Dropout& dropout, int64_t width)
      : kernels_(kernels), dropout_(dropout), values_(dropout.active() ? static_cast<size_t>(width) : 0) {}

  /// Null without dropout.
  const float* of(int64_t token, int64_t choice) {
    if (values_.empty()) return nullptr;
    cpu::DropoutDraw draw = cpu::draw_of(dropout_);
    draw.site += static_cast<uint32_t>(choice);
    const auto width = static_cast<int64_t>(values_.size());
    const auto group = static_cast<uint64_t>((dropout_.first_row + token) * ceil_divide(width, int64_t{16}));
    kernels_.dropout_multipliers(draw, group, width, values_.data());
    return values_.data();
  }

 private:
  const cpu::Kernels& kernels_;
  const Dropout& dropout_;
  std::vector<float> values_;
};

}  // namespace

void CpuModelOperators::gather_expert_rows(const GatherExpertRows& arguments) {
  const ConstTensorView source = arguments.source;
  const TensorView sorted = arguments.sorted;
  const ExpertRouting& routing = arguments.routing;
  CBTM_ASSERT(sorted.dtype == source.dtype && sorted.columns == source.columns, "rows are copied as they are");
  const int64_t kept = routing.offsets.as<int32_t>()[routing.experts()];
  const int64_t item = dtype_bytes(source.dtype);
  parallel_ranges(kept, static_cast<double>(source.columns * item) * 0.1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t token = routing.sources.as<int32_t>()[row] / kExpertsPerToken;
      std::memcpy(static_cast<char*>(sorted.data) + row * sorted.row_stride * item,
                  static_cast<const char*>(source.data) + token * source.row_stride * item,
                  static_cast<size_t>(source.columns * item));
    }
  });
}

void CpuModelOperators::scatter_expert_rows(const ScatterExpertRows& arguments) {
  const TensorView out = arguments.out;
  parallel_ranges(out.rows, static_cast<double>(out.columns) * 0.3, [&](int64_t begin, int64_t end) {
    std::vector<float> sum(static_cast<size_t>(out.columns));
    for (int64_t token = begin; token < end; ++token) {
      std::ranges::fill(sum, 0.0f);
      for (int64_t j = 0; j < kExpertsPerToken; ++j)
        if (const int32_t row = sorted_rows(arguments.routing, token)[j]; row >= 0)
          kernels_.add(floats(arguments.sorted, row), out.columns, sum.data());
      float* values = floats(out, token);
      if (arguments.accumulate)
        kernels_.add(sum.data(), out.columns, values);
      else
        std::ranges::copy(sum, values);
    }
  });
}

void CpuModelOperators::combine_expert_rows(const CombineExpertRows& arguments) {
  const TensorView out = arguments.out;
  const ExpertRouting& routing = arguments.routing;
  parallel_ranges(out.rows, static_cast<double>(out.columns) * 0.5, [&](int64_t begin, int64_t end) {
    ChoiceDropout dropout(kernels_, arguments.dropout, out.columns);
    std::vector<float> dropped(static_cast<size_t>(out.columns));
    for (int64_t token = begin; token < end; ++token) {
      float* sum = floats(out, token);
      std::fill_n(sum, out.columns, 0.0f);
      for (int64_t j = 0; j < kExpertsPerToken; ++j) {
        const int32_t row = sorted_rows(routing, token)[j];
        if (row < 0) continue;
        const float* values = floats(arguments.sorted, row);
        if (const float* multipliers = dropout.of(token, j)) {
          kernels_.multiply(values, multipliers, out.columns, dropped.data());
          values = dropped.data();
        }
        kernels_.add_scaled(floats(routing.weights, token)[j], values, out.columns, sum);
      }
    }
  });
}

void CpuModelOperators::combine_expert_rows_backward(const CombineExpertRowsBackward& arguments) {
  const ConstTensorView gradient = arguments.out_gradient;
  const ExpertRouting& routing = arguments.routing;
  const int64_t width = gradient.columns;
  parallel_ranges(gradient.rows, static_cast<double>(width) * 0.8, [&](int64_t begin, int64_t end) {
    ChoiceDropout dropout(kernels_, arguments.dropout, width);
    std::vector<float> dropped(static_cast<size_t>(width));
    for (int64_t token = begin; token < end; ++token)
      for (int64_t j = 0; j < kExpertsPerToken; ++j) {
        const int32_t row = sorted_rows(routing, token)[j];
        float& weight_gradient = floats(arguments.weight_gradients, token)[j];
        weight_gradient = 0;
        if (row < 0) continue;
        const float* behind = floats(gradient, token);
        if (const float* multipliers = dropout.of(token, j)) {
          kernels_.multiply(behind, multipliers, width, dropped.data());
          behind = dropped.data();
        }
        weight_gradient = kernels_.dot(floats(arguments.sorted, row), behind, width);
        kernels_.scale(floats(routing.weights, token)[j], behind, width, floats(arguments.sorted_gradient, row));
      }
  });
}

}  // namespace cbtm
