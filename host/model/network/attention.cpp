#include <cmath>

#include "model/network/linear.h"
#include "model/network/pass.h"

namespace cbtm {
namespace {

AttentionShape shape_of(const Pass& pass, int64_t layer) {
  const AttentionSpec& attention = pass.spec.block(layer).attention;
  return {.query_offsets = pass.batch.offsets,
          .key_offsets = pass.batch.offsets,
          .num_heads = attention.heads,
          .head_dim = attention.head_dim,
          .scale = 1 / std::sqrt(static_cast<float>(attention.head_dim)),
          .dropout = dropout_of(pass, layer, DropoutSite::attention_probabilities),
          .dropout_columns = pass.batch.dropout.attention_columns};
}

/// Queries, keys and values of a [rows, 3 * width] matrix.
struct QueryKeyValue {
  TensorView query, key, value;
  QueryKeyValue(TensorView qkv, int64_t width)
      : query(qkv.column_range(0, width)),
        key(qkv.column_range(width, width)),
        value(qkv.column_range(2 * width, width)) {}
};

}  // namespace

void attend(const Pass& pass, int64_t layer, ConstTensorView input) {
  const LayerTensors& w = pass.weights_of(layer);
  const BlockActivations& a = pass.block(layer);
  const TensorView joined = pass.cut(a.qkv), output = pass.cut(a.attention);
  linear(pass, input, w.qkv, joined);
  const QueryKeyValue qkv(joined, pass.spec.block(layer).attention.width());
  if (pass.batch.cache == nullptr) {
    pass.operators().attention_forward({.shape = shape_of(pass, layer),
                                        .query = qkv.query,
                                        .key = qkv.key,
                                        .value = qkv.value,
                                        .output = output,
                                        .log_sum_exp = pass.cut(a.log_sum_exp)});
  } else {
    pass.operators().attention_cached({.shape = shape_of(pass, layer),
                                       .cached_lengths = pass.batch.cached_lengths,
                                       .cache = pass.batch.cache->layer(layer, pass.batch.block_table),
                                       .query = qkv.query,
                                       .key = qkv.key,
                                       .value = qkv.value,
                                       .output = output,
                                       .row_sums = pass.batch.row_sums});
  }
  linear(pass, output, w.attention_output, pass.cut(pass.activations.branch));
}

void attend_backward(const Pass& pass, int64_t layer, ConstTensorView input, TensorView input_gradient,
                     bool accumulate) {
  const LayerTensors& w = pass.weights_of(layer);
  const LayerTensors& g = pass.gradients_of(layer);
  const BlockActivations& a = pass.block(layer);
  const TensorView gradient = pass.cut(pass.activations.attention_gradient);
  linear_backward(pass, pass.cut(a.attention), w.attention_output, pass.cut(pass.activations.branch_gradient),
                  g.attention_output, {.gradient = gradient});
  const int64_t width = pass.spec.block(layer).attention.width();
  const TensorView joined_gradient = pass.cut(pass.activations.qkv_gradient);
  const QueryKeyValue qkv(pass.cut(a.qkv), width), qkv_gradient(joined_gradient, width);
  pass.operators().attention_backward({.shape = shape_of(pass, layer),
                                       .query = qkv.query,
                                       .key = qkv.key,
                                       .value = qkv.value,
                                       .output = pass.cut(a.attention),
                                       .log_sum_exp = pass.cut(a.log_sum_exp),
                                       .output_gradient = gradient,
                                       .query_gradient = qkv_gradient.query,
                                       .key_gradient = qkv_gradient.key,
                                       .value_gradient = qkv_gradient.value});
  linear_backward(pass, input, w.qkv, joined_gradient, g.qkv, {.gradient = input_gradient, .accumulate = accumulate});
}

}  // namespace cbtm
