#include <algorithm>
#include <cmath>
#include <vector>

#include "cbtm/base/threads.h"
#include "cpu/matrix_product.h"
#include "cpu/model_operators.h"

namespace cbtm {
namespace {

/// Rows whose logits exist at a time. Fewer keep them nearer to the cores, more read and write the table's gradient
/// less often; at 256 that traffic is a few percent of the products for every OPT width.
constexpr int64_t kBlockRows = 256;
constexpr int32_t kIgnored = -100;

int64_t block_logits(const OutputLoss& arguments) {
  return std::min(kBlockRows, arguments.hidden.rows) * arguments.table.rows;
}

}  // namespace

int64_t CpuModelOperators::scratch_bytes(const OutputLoss& arguments) const {
  const LinearForward logits{.input = arguments.hidden, .weight = arguments.table, .bias = {}, .output = {}};
  return block_logits(arguments) * 4 + scratch_bytes(logits);
}

void CpuModelOperators::output_loss(const OutputLoss& arguments) {
  const ConstTensorView hidden = arguments.hidden;
  const ConstTensorView table = arguments.table;
  const int64_t vocab_size = table.rows;
  const int64_t width = table.columns;
  const int32_t* targets = arguments.targets.as<int32_t>();
  float* losses = arguments.losses.as<float>();
  const bool with_gradients = static_cast<bool>(arguments.hidden_gradient);
  CBTM_ASSERT(!with_gradients || table.dtype == DType::f32, "training weights are float32");
  float* logits = scratch(0, block_logits(arguments));

  for (int64_t first = 0; first < hidden.rows; first += kBlockRows) {
    const int64_t count = std::min(kBlockRows, hidden.rows - first);
    linear_forward({.input = hidden.row_range(first, count),
                    .weight = table,
                    .bias = {},
                    .output = view_of(logits, count, vocab_size),
                    .weight_scales = arguments.table_scales});
    parallel_ranges(count, static_cast<double>(vocab_size) * 1.0, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        float* values = logits + row * vocab_size;
        const int32_t target = targets[first + row];
        if (target == kIgnored) {
          losses[first + row] = 0;
          if (with_gradients) std::fill_n(values, vocab_size, 0.0f);
          continue;
        }
        CBTM_ASSERT(target >= 0 && target < vocab_size, "targets are checked on the host");
        const float highest = kernels_.row_max(values, vocab_size);
        const float target_logit = values[target];
        const float sum = kernels_.exp_sum(values, highest, vocab_size, with_gradients ? values : nullptr);
        losses[first + row] = std::log(sum) + (highest - target_logit);
        if (!with_gradients) continue;
        kernels_.scale(arguments.gradient_scale / sum, values, vocab_size, values);
        values[target] -= arguments.gradient_scale;
      }
    });
    if (!with_gradients) continue;
    const TensorView hidden_gradient = arguments.hidden_gradient.row_range(first, count);
    cpu::multiply_matrices(
        kernels_, {count, width, vocab_size, logits, vocab_size, false, table.as<float>(), table.row_stride, false,
                   hidden_gradient.as<float>(), hidden_gradient.row_stride});
    if (const TensorView table_gradient = arguments.table_gradient)
      cpu::multiply_matrices(
          kernels_, {vocab_size, width, count, logits, vocab_size, true, hidden.as<float>() + first * hidden.row_stride,
                     hidden.row_stride, false, table_gradient.as<float>(), table_gradient.row_stride, true});
  }
  if (arguments.loss_sum) {
    double sum = 0;
    for (int64_t row = 0; row < hidden.rows; ++row) sum += static_cast<double>(losses[row]);
    *arguments.loss_sum.as<double>() += sum;
  }
}

}  // namespace cbtm
