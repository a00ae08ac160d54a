#include "model/network/activations.h"

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
  int64_t bytes() const { return bytes_; }

 private:
  TensorView take(int64_t rows, int64_t columns, DType dtype) {
    TensorView view{base_ == nullptr ? nullptr : base_ + bytes_, dtype, rows, columns};
    bytes_ += round_up(rows * columns * dtype_bytes(dtype), 64);
    return view;
  }

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
  block.feed_forward = carver.take(spec.feed_forward_width());
  block.middle = block.output = pre_norm ? residual : a.branch;
  block.attention_input = normalized;
  block.feed_forward_input = pre_norm ? normalized : residual;
  block.normalized_output = residual;
  a.embedding = residual;
  a.hidden = normalized;
  a.blocks.assign(static_cast<size_t>(spec.layers()), block);
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
  if (a.keep == Keep::everything || layer == 0) {
    block.feed_forward = carver.take(feed_forward.width);
    const int64_t saved = operators.saved_activation_columns(feed_forward.activation, dtype, feed_forward.width);
    if (saved > 0) block.feed_forward_saved = carver.take(saved, DType::u8);
  } else {
    block.feed_forward = a.blocks.front().feed_forward;
    block.feed_forward_saved = a.blocks.front().feed_forward_saved;
  }
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
  a.feed_forward_gradient = carver.take(spec.feed_forward_width());
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
