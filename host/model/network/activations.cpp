#include "model/network/activations.h"

#include <algorithm>
#include <vector>

#include "cbtm/base/ceil_divide.h"

namespace cbtm {
namespace {

/// Gives out consecutive pieces of memory; with a null base it only counts.
class Carver {
 public:
  Carver(char* base, DType dtype, int64_t rows) : base_(base), dtype_(dtype), rows_(rows) {}
  TensorView take(int64_t columns) { return take(columns, dtype_); }
  TensorView take(int64_t columns, DType dtype) { return take(rows_, columns, dtype); }
  /// A float32 for each row.
  TensorView take_statistic() { return take(1, rows_, DType::f32); }
  TensorView take(int64_t rows, int64_t columns, DType dtype) {
    TensorView view{base_ == nullptr ? nullptr : base_ + bytes_, dtype, rows, columns};
    bytes_ += round_up(rows * columns * dtype_bytes(dtype), 64);
    return view;
  }
  /// For a mixture's sorted rows: two for each row.
  TensorView take_sorted(int64_t columns) { return take(kExpertsPerToken * rows_, columns, dtype_); }
  TensorView take_sorted(int64_t columns, DType dtype) { return take(kExpertsPerToken * rows_, columns, dtype); }
  ExpertRouting take_routing(int64_t experts) {
    return {.logits = take(experts, DType::f32),
            .choices = take(kExpertsPerToken, DType::i32),
            .weights = take(kExpertsPerToken, DType::f32),
            .sorted_row = take(kExpertsPerToken, DType::i32),
            .offsets = take(1, experts + 1, DType::i32),
            .sources = take(1, kExpertsPerToken * rows_, DType::i32),
            .first_counts = take(1, experts, DType::i32)};
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* base_;
  DType dtype_;
  int64_t rows_;
  int64_t bytes_ = 0;
};

/// One set for all blocks, sums in place.
void carve_nothing_kept(Activations& a, Carver& carver, const ModelSpec& spec) {
  const bool pre_norm = spec.pre_norm();
  if (spec.has_projections()) a.token_embedding = a.projected = carver.take(spec.embedding.width);
  BlockActivations block;
  const TensorView residual = carver.take(spec.hidden_size), normalized = carver.take(spec.hidden_size);
  a.branch = carver.take(spec.hidden_size);
  block.qkv = carver.take(3 * spec.key_value_width());
  block.attention = carver.take(spec.key_value_width());
  const bool mixtures = spec.has_mixtures();
  block.feed_forward =
      mixtures ? carver.take_sorted(spec.feed_forward_width()) : carver.take(spec.feed_forward_width());
  if (mixtures) {
    block.routing = carver.take_routing(spec.experts());
    block.expert_output = a.sorted_input = carver.take_sorted(spec.hidden_size);
  }
  block.middle = block.output = pre_norm ? residual : a.branch;
  block.attention_input = normalized;
  block.feed_forward_input = pre_norm ? normalized : residual;
  block.normalized_output = residual;
  a.embedding = residual;
  a.hidden = normalized;
  a.blocks.assign(static_cast<size_t>(spec.layers()), block);
}

/// What a mixture of experts keeps: with Keep::block_inputs all share the first one's.
void carve_mixture(const Activations& a, BlockActivations& block, Carver& carver, const ModelSpec& spec,
                   int64_t layer) {
  const std::vector<int64_t> mixtures = spec.mixture_layers();
  const auto number = std::find(mixtures.begin(), mixtures.end(), layer) - mixtures.begin();
  if (a.keep == Keep::block_inputs && number > 0) {
    const BlockActivations& first = a.blocks[static_cast<size_t>(mixtures.front())];
    block.routing = first.routing;
    block.expert_output = first.expert_output;
  } else {
    block.routing = carver.take_routing(spec.experts());
    block.expert_output = carver.take_sorted(spec.hidden_size);
  }
  block.statistics = a.statistics ? a.statistics.row_range(number, 1) : TensorView();
}

BlockActivations carve_block(const Activations& a, Carver& carver, const ModelOperators& operators,
                             const ModelSpec& spec, int64_t layer, DType dtype) {
  const int64_t hidden = spec.hidden_size;
  const AttentionSpec& attention = spec.block(layer).attention;
  const FeedForwardSpec& feed_forward = spec.block(layer).feed_forward;
  const bool pre_norm = spec.pre_norm();
  BlockActivations block;
  const bool own = a.keep != Keep::block_inputs || layer == 0;
  if (own) {
    if (pre_norm) block.attention_input = carver.take(hidden);
    block.qkv = carver.take(3 * attention.width());
    block.attention = carver.take(attention.width());
    block.log_sum_exp = carver.take(attention.heads, DType::f32);
    block.middle = carver.take(hidden);
    block.feed_forward_input = carver.take(hidden);
  } else {
    block = a.blocks.front();
  }
  const int64_t saved = operators.saved_activation_columns(feed_forward.activation, dtype, feed_forward.width);
  if (a.keep != Keep::everything && layer > 0) {
    block.feed_forward = a.blocks.front().feed_forward;
    block.feed_forward_saved = a.blocks.front().feed_forward_saved;
  } else if (feed_forward.is_mixture() || (a.keep != Keep::everything && spec.has_mixtures())) {
    block.feed_forward = carver.take_sorted(feed_forward.width);
    if (saved > 0) block.feed_forward_saved = carver.take_sorted(saved, DType::u8);
  } else {
    block.feed_forward = carver.take(feed_forward.width);
    if (saved > 0) block.feed_forward_saved = carver.take(saved, DType::u8);
  }
  if (feed_forward.is_mixture()) carve_mixture(a, block, carver, spec, layer);
  // What a block is computed again from, and what the norms' backward pass needs, is kept of every block.
  if (pre_norm || own) block.output = carver.take(hidden);
  if (!pre_norm) block.normalized_output = carver.take(hidden);
  block.middle_mean = carver.take_statistic();
  block.middle_rstd = carver.take_statistic();
  block.output_mean = carver.take_statistic();
  block.output_rstd = carver.take_statistic();
  return block;
}

void carve_kept(Activations& a, Carver& carver, const ModelOperators& operators, const ModelSpec& spec, DType dtype) {
  const int64_t hidden = spec.hidden_size;
  if (spec.has_projections())
    for (TensorView* view : {&a.token_embedding, &a.projected, &a.projected_gradient, &a.token_embedding_gradient})
      *view = carver.take(spec.embedding.width);
  a.embedding = carver.take(hidden);
  a.embedding_mean = carver.take_statistic();
  a.embedding_rstd = carver.take_statistic();
  if (spec.has_mixtures()) {
    a.sorted_input = carver.take_sorted(hidden);
    a.logit_gradients = carver.take(spec.experts(), DType::f32);
    a.choice_weight_gradients = carver.take(kExpertsPerToken, DType::f32);
    a.statistics = carver.take(static_cast<int64_t>(spec.mixture_layers().size()),
                               RoutingStatistics::columns(spec.experts()), DType::f64);
  }
  for (int64_t layer = 0; layer < spec.layers(); ++layer)
    a.blocks.push_back(carve_block(a, carver, operators, spec, layer, dtype));
  if (spec.pre_norm()) a.hidden = carver.take(hidden);
  a.branch = carver.take(hidden);
  a.losses = carver.take_statistic();
  a.sum_gradient = carver.take(hidden);
  a.branch_gradient = carver.take(hidden);
  a.norm_gradient = carver.take(hidden);
  a.qkv_gradient = carver.take(3 * spec.key_value_width());
  a.attention_gradient = carver.take(spec.key_value_width());
  a.feed_forward_gradient =
      spec.has_mixtures() ? carver.take_sorted(spec.feed_forward_width()) : carver.take(spec.feed_forward_width());
}

}  // namespace

Activations place_activations(void* memory, const ModelOperators& operators, const ModelSpec& spec, int64_t rows,
                              Keep keep, DType dtype) {
  Activations activations{.keep = keep};
  Carver carver(static_cast<char*>(memory), dtype, rows);
  if (keep == Keep::nothing)
    carve_nothing_kept(activations, carver, spec);
  else
    carve_kept(activations, carver, operators, spec, dtype);
  return activations;
}

int64_t activation_bytes(const ModelOperators& operators, const ModelSpec& spec, int64_t rows, Keep keep, DType dtype) {
  Activations counted{.keep = keep};
  Carver counter(nullptr, dtype, rows);
  if (keep == Keep::nothing)
    carve_nothing_kept(counted, counter, spec);
  else
    carve_kept(counted, counter, operators, spec, dtype);
  return counter.bytes();
}

}  // namespace cbtm
