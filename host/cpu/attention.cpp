// Attention of training and of scoring, all heads. A unit of work is one head of one sequence (backward), or of one
// block of its queries (forward): the keys and values of that head are copied once into a contiguous, transposed block
// that stays in the cache, and the scores of kQueryBlock queries exist at a time, never queries x keys.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <utility>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/threads.h"
#include "cpu/attention_block.h"
#include "cpu/model_operators.h"

namespace cbtm {
namespace {

constexpr int64_t kQueryBlock = 32;

struct Span {
  int64_t query_begin, queries, key_begin, keys;
};

Span span_of(const AttentionShape& shape, int64_t sequence) {
  const auto s = static_cast<size_t>(sequence);
  return {shape.query_offsets[s], shape.query_offsets[s + 1] - shape.query_offsets[s], shape.key_offsets[s],
          shape.key_offsets[s + 1] - shape.key_offsets[s]};
}

/// Group of the dropout that decides about key 0 and queries 2 * pair, + 1, + 8 and + 9 of the block of 16 queries that
/// begins in `block_row`.
uint64_t first_group(const AttentionShape& shape, int64_t block_row, int64_t pair, int64_t head) {
  return static_cast<uint64_t>((((shape.dropout.first_row + block_row) * 4 + pair) * shape.num_heads + head) *
                               (shape.dropout_columns / 4));
}

double cost_of_head(const AttentionShape& shape, int64_t sequences) {
  const double rows =
      static_cast<double>(shape.query_offsets.back()) / static_cast<double>(std::max<int64_t>(1, sequences));
  return rows * rows * static_cast<double>(shape.head_dim) * 0.03;
}

int64_t longest_keys(const AttentionShape& shape) {
  int64_t longest = 0;
  for (size_t s = 1; s < shape.key_offsets.size(); ++s)
    longest = std::max<int64_t>(longest, shape.key_offsets[s] - shape.key_offsets[s - 1]);
  return longest;
}

/// What a thread needs for the heads that it computes one after another, with room for the longest sequence's keys.
struct HeadScratch {
  float *keys_transposed, *values_transposed;  ///< [head_dim, keys]; the values' in the backward pass only
  float *scores, *score_gradients;             ///< [kQueryBlock, keys]; the gradients in the backward pass only
  float* multipliers;                          ///< [keys]
  uint8_t* decisions;                          ///< [16, decision_stride]
  int64_t decision_stride;
  float* scaled;  ///< [kQueryBlock, head_dim]

  static int64_t elements(const AttentionShape& shape, bool backward) {
    const int64_t keys = longest_keys(shape), matrices = backward ? 2 : 1;
    const int64_t decision_floats = 16 * round_up(keys, cpu::kDecisionKeys) / 4;
    return round_up(
        (matrices * (shape.head_dim + kQueryBlock) + 1) * keys + kQueryBlock * shape.head_dim + decision_floats, 16);
  }
  HeadScratch(const AttentionShape& shape, bool backward, float* memory) {
    const int64_t keys = longest_keys(shape);
    const auto take = [&memory](int64_t count) { return std::exchange(memory, memory + count); };
    keys_transposed = take(shape.head_dim * keys);
    values_transposed = backward ? take(shape.head_dim * keys) : nullptr;
    scores = take(kQueryBlock * keys);
    score_gradients = backward ? take(kQueryBlock * keys) : nullptr;
    multipliers = take(keys);
    scaled = take(kQueryBlock * shape.head_dim);
    decision_stride = round_up(keys, cpu::kDecisionKeys);
    decisions = reinterpret_cast<uint8_t*>(take(16 * decision_stride / 4));
  }

  /// Multipliers of the first `seen` keys for query `index` of a sequence, in row `row`: queries are asked for one
  /// after another, from a multiple of 16 on.
  const float* dropout(const cpu::Kernels& kernels, const AttentionShape& shape, int64_t row, int64_t index,
                       int64_t head, int64_t seen) const {
    const cpu::DropoutDraw draw = cpu::draw_of(shape.dropout);
    if (index % 16 == 0) {
      const int64_t keys = std::min(decision_stride, seen + 15);
      for (int64_t pair = 0; pair < 4; ++pair)
        kernels.attention_decisions(draw, first_group(shape, row, pair, head), keys,
                                    decisions + 2 * pair * decision_stride, decision_stride);
    }
    kernels.decided_multipliers(draw, decisions + index % 16 * decision_stride, seen, multipliers);
    return multipliers;
  }
};

}  // namespace

int64_t CpuModelOperators::scratch_bytes(const AttentionForward& arguments) const {
  return bytes_with_products(thread_count() * HeadScratch::elements(arguments.shape, /*backward=*/false));
}

int64_t CpuModelOperators::scratch_bytes(const AttentionBackward& arguments) const {
  return bytes_with_products(thread_count() * HeadScratch::elements(arguments.shape, /*backward=*/true));
}

void CpuModelOperators::attention_forward(const AttentionForward& arguments) {
  const AttentionShape& shape = arguments.shape;
  const int64_t sequences = static_cast<int64_t>(shape.query_offsets.size()) - 1;
  const int64_t head_dim = shape.head_dim;
  const bool dropped = shape.dropout.active();
  const int64_t elements = HeadScratch::elements(shape, /*backward=*/false);
  float* const memory = scratch(0, thread_count() * elements);
  std::atomic<int64_t> ranges = 0;  // one a thread at most
  parallel_ranges(sequences * shape.num_heads, cost_of_head(shape, sequences), [&](int64_t begin, int64_t end) {
    const HeadScratch head_scratch(shape, /*backward=*/false, memory + elements * ranges++);
    float* const keys_transposed = head_scratch.keys_transposed;
    float* const scores = head_scratch.scores;
    float* const scaled = head_scratch.scaled;
    for (int64_t unit = begin; unit < end; ++unit) {
      const Span span = span_of(shape, unit / shape.num_heads);
      const int64_t head = unit % shape.num_heads;
      const int64_t column = head * head_dim;
      if (span.queries == 0) continue;
      CBTM_ASSERT(span.keys >= span.queries, "every query sees at least itself");
      const float* keys = arguments.key.as<float>() + span.key_begin * arguments.key.row_stride + column;
      const float* values = arguments.value.as<float>() + span.key_begin * arguments.value.row_stride + column;
      cpu::transpose(keys, arguments.key.row_stride, span.keys, head_dim, keys_transposed);
      for (int64_t first = 0; first < span.queries; first += kQueryBlock) {
        const int64_t count = std::min(kQueryBlock, span.queries - first);
        const int64_t hidden_before = span.keys - span.queries;
        const int64_t visible = first + count + hidden_before;
        for (int64_t i = 0; i < count; ++i)
          kernels_.scale(
              shape.scale,
              arguments.query.as<float>() + (span.query_begin + first + i) * arguments.query.row_stride + column,
              head_dim, scaled + i * head_dim);
        kernels_.small_product(
            {count, visible, head_dim, scaled, head_dim, 1, keys_transposed, span.keys, scores, span.keys, false});
        for (int64_t i = 0; i < count; ++i) {
          const int64_t row = span.query_begin + first + i;
          const int64_t seen = first + i + hidden_before + 1;
          float* probabilities = scores + i * span.keys;
          const float highest = kernels_.row_max(probabilities, seen);
          const float sum = kernels_.exp_sum(probabilities, highest, seen, probabilities);
          kernels_.scale(1.0f / sum, probabilities, seen, probabilities);
          if (arguments.log_sum_exp)
            arguments.log_sum_exp.as<float>()[row * arguments.log_sum_exp.row_stride + head] = highest + std::log(sum);
          if (dropped)
            kernels_.multiply(probabilities, head_scratch.dropout(kernels_, shape, row, first + i, head, seen), seen,
                              probabilities);
          std::fill(probabilities + seen, probabilities + visible, 0.0f);
        }
        kernels_.small_product(
            {count, head_dim, visible, scores, span.keys, 1, values, arguments.value.row_stride,
             arguments.output.as<float>() + (span.query_begin + first) * arguments.output.row_stride + column,
             arguments.output.row_stride, false});
      }
    }
  });
}

void CpuModelOperators::attention_backward(const AttentionBackward& arguments) {
  const AttentionShape& shape = arguments.shape;
  const int64_t sequences = static_cast<int64_t>(shape.query_offsets.size()) - 1;
  const int64_t head_dim = shape.head_dim;
  const bool dropped = shape.dropout.active();
  const auto zero_rows = [&](TensorView view, int64_t first, int64_t count, int64_t column) {
    for (int64_t row = first; row < first + count; ++row)
      std::memset(view.as<float>() + row * view.row_stride + column, 0, static_cast<size_t>(head_dim) * 4);
  };
  const int64_t elements = HeadScratch::elements(shape, /*backward=*/true);
  float* const memory = scratch(0, thread_count() * elements);
  std::atomic<int64_t> ranges = 0;  // one a thread at most
  parallel_ranges(sequences * shape.num_heads, 2.5 * cost_of_head(shape, sequences), [&](int64_t begin, int64_t end) {
    const HeadScratch head_scratch(shape, /*backward=*/true, memory + elements * ranges++);
    float* const keys_transposed = head_scratch.keys_transposed;
    float* const values_transposed = head_scratch.values_transposed;
    float* const scores = head_scratch.scores;
    float* const score_gradients = head_scratch.score_gradients;
    float* const scaled = head_scratch.scaled;
    for (int64_t unit = begin; unit < end; ++unit) {
      const Span span = span_of(shape, unit / shape.num_heads);
      const int64_t head = unit % shape.num_heads;
      const int64_t column = head * head_dim;
      zero_rows(arguments.key_gradient, span.key_begin, span.keys, column);
      zero_rows(arguments.value_gradient, span.key_begin, span.keys, column);
      if (span.queries == 0) continue;
      const float* keys = arguments.key.as<float>() + span.key_begin * arguments.key.row_stride + column;
      const float* values = arguments.value.as<float>() + span.key_begin * arguments.value.row_stride + column;
      float* key_gradient =
          arguments.key_gradient.as<float>() + span.key_begin * arguments.key_gradient.row_stride + column;
      float* value_gradient =
          arguments.value_gradient.as<float>() + span.key_begin * arguments.value_gradient.row_stride + column;
      cpu::transpose(keys, arguments.key.row_stride, span.keys, head_dim, keys_transposed);
      cpu::transpose(values, arguments.value.row_stride, span.keys, head_dim, values_transposed);
      for (int64_t first = 0; first < span.queries; first += kQueryBlock) {
        const int64_t count = std::min(kQueryBlock, span.queries - first);
        const int64_t hidden_before = span.keys - span.queries;
        const int64_t visible = first + count + hidden_before;
        const int64_t first_row = span.query_begin + first;
        const float* output_gradient =
            arguments.output_gradient.as<float>() + first_row * arguments.output_gradient.row_stride + column;
        const float* output = arguments.output.as<float>() + first_row * arguments.output.row_stride + column;
        for (int64_t i = 0; i < count; ++i)
          kernels_.scale(shape.scale,
                         arguments.query.as<float>() + (first_row + i) * arguments.query.row_stride + column, head_dim,
                         scaled + i * head_dim);
        kernels_.small_product(
            {count, visible, head_dim, scaled, head_dim, 1, keys_transposed, span.keys, scores, span.keys, false});
        kernels_.small_product({count, visible, head_dim, output_gradient, arguments.output_gradient.row_stride, 1,
                                values_transposed, span.keys, score_gradients, span.keys, false});
        for (int64_t i = 0; i < count; ++i) {
          const int64_t row = first_row + i;
          const int64_t seen = first + i + hidden_before + 1;
          const float row_term = kernels_.dot(output_gradient + i * arguments.output_gradient.row_stride,
                                              output + i * arguments.output.row_stride, head_dim);
          const float* multipliers =
              dropped ? head_scratch.dropout(kernels_, shape, row, first + i, head, seen) : nullptr;
          float* probabilities = scores + i * span.keys;
          float* gradients = score_gradients + i * span.keys;
          kernels_.softmax_backward(probabilities, gradients,
                                    arguments.log_sum_exp.as<float>()[row * arguments.log_sum_exp.row_stride + head],
                                    row_term, multipliers, seen);
          std::fill(probabilities + seen, probabilities + visible, 0.0f);
          std::fill(gradients + seen, gradients + visible, 0.0f);
        }
        // dV += Pᵀ dO,  dK += dSᵀ (scale q),  dQ = scale dS K.
        kernels_.small_product({visible, head_dim, count, scores, 1, span.keys, output_gradient,
                                arguments.output_gradient.row_stride, value_gradient,
                                arguments.value_gradient.row_stride, true});
        kernels_.small_product({visible, head_dim, count, score_gradients, 1, span.keys, scaled, head_dim, key_gradient,
                                arguments.key_gradient.row_stride, true});
        float* query_gradient =
            arguments.query_gradient.as<float>() + first_row * arguments.query_gradient.row_stride + column;
        kernels_.small_product({count, head_dim, visible, score_gradients, span.keys, 1, keys, arguments.key.row_stride,
                                query_gradient, arguments.query_gradient.row_stride, false});
        for (int64_t i = 0; i < count; ++i)
          kernels_.scale(shape.scale, query_gradient + i * arguments.query_gradient.row_stride, head_dim,
                         query_gradient + i * arguments.query_gradient.row_stride);
      }
    }
  });
}

}  // namespace cbtm
