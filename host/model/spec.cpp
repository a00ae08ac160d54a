#include "cbtm/model/spec.h"

#include <algorithm>

#include "cbtm/device/moe_operands.h"

namespace cbtm {

int64_t ModelSpec::key_value_width() const {
  int64_t width = 0;
  for (const BlockSpec& block : blocks) width = std::max(width, block.attention.width());
  return width;
}

int64_t ModelSpec::feed_forward_width() const {
  int64_t width = 0;
  for (const BlockSpec& block : blocks) width = std::max(width, block.feed_forward.width);
  return width;
}

bool ModelSpec::has_mixtures() const { return experts() > 0; }

std::vector<int64_t> ModelSpec::mixture_layers() const {
  std::vector<int64_t> mixtures;
  for (int64_t layer = 0; layer < layers(); ++layer)
    if (block(layer).feed_forward.is_mixture()) mixtures.push_back(layer);
  return mixtures;
}

int64_t ModelSpec::experts() const {
  int64_t experts = 0;
  for (const BlockSpec& block : blocks) experts = std::max(experts, block.feed_forward.experts);
  return experts;
}

int64_t ModelSpec::matrix_parameter_count() const {
  int64_t count = embedding.vocab_size * embedding.width;
  if (has_projections()) count += 2 * embedding.width * hidden_size;
  for (const BlockSpec& block : blocks) {
    const FeedForwardSpec& feed_forward = block.feed_forward;
    const int64_t active = feed_forward.is_mixture() ? kExpertsPerToken : 1;
    count += hidden_size * (4 * block.attention.width() + active * 2 * feed_forward.width + feed_forward.experts);
  }
  return count;
}

double ModelSpec::forward_flops_per_token(int64_t sequence_length) const {
  int64_t attended = 0;  // columns of scores and of weighted values, per token of context
  for (const BlockSpec& block : blocks) attended += block.attention.width();
  return 2.0 * static_cast<double>(matrix_parameter_count()) +
         4.0 * static_cast<double>(attended) * static_cast<double>(sequence_length) / 2.0;
}

}  // namespace cbtm
