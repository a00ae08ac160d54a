#include "cbtm/model/spec.h"

#include <algorithm>

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

int64_t ModelSpec::matrix_parameter_count() const {
  int64_t count = embedding.vocab_size * embedding.width;
  if (has_projections()) count += 2 * embedding.width * hidden_size;
  for (const BlockSpec& block : blocks)
    count += 4 * hidden_size * block.attention.width() + 2 * hidden_size * block.feed_forward.width;
  return count;
}

double ModelSpec::forward_flops_per_token(int64_t sequence_length) const {
  int64_t attended = 0;  // columns of scores and of weighted values, per token of context
  for (const BlockSpec& block : blocks) attended += block.attention.width();
  return 2.0 * static_cast<double>(matrix_parameter_count()) +
         4.0 * static_cast<double>(attended) * static_cast<double>(sequence_length) / 2.0;
}

}  // namespace cbtm
