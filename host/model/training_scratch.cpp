#include "model/training_scratch.h"

#include <algorithm>
#include <vector>

namespace cbtm {
namespace {

/// Asks for operands of a micro-batch's shapes.
class ScratchCount {
 public:
  ScratchCount(const ModelOperators& operators, const TrainingShape& shape) : operators_(operators), shape_(shape) {}

  /// A linear layer's forward and backward pass.
  void linear(int64_t in, int64_t out, bool bias) {
    const TensorView weight = matrix(shape_.dtype, out, in), biases = bias ? vector(shape_.dtype, out) : TensorView();
    take(LinearForward{.input = activations(in), .weight = weight, .bias = biases, .output = activations(out)});
    const LinearBackward backward{.input = activations(in),
                                  .weight = weight,
                                  .output_gradient = activations(out),
                                  .input_gradient = activations(in),
                                  .weight_gradient = matrix(DType::f32, out, in),
                                  .bias_gradient = bias ? vector(DType::f32, out) : TensorView()};
    take(backward);
    result_.held_bytes += operators_.held_bytes(backward);
  }
  /// A mixture of experts.
  void mixture(int64_t hidden, const FeedForwardSpec& spec) {
    const int64_t experts = spec.experts;
    const ExpertRouting routing{.logits = matrix(DType::f32, shape_.rows, experts),
                                .choices = matrix(DType::i32, shape_.rows, kExpertsPerToken),
                                .weights = matrix(DType::f32, shape_.rows, kExpertsPerToken),
                                .sorted_row = matrix(DType::i32, shape_.rows, kExpertsPerToken),
                                .offsets = vector(DType::i32, experts + 1),
                                .sources = vector(DType::i32, kExpertsPerToken * shape_.rows),
                                .first_counts = vector(DType::i32, experts)};
    const TensorView router = matrix(shape_.dtype, experts, hidden);
    take(RouteTokens{.input = activations(hidden),
                     .router = router,
                     .routing = routing,
                     .statistics = vector(DType::f64, RoutingStatistics::columns(experts))});
    take(RouteTokensBackward{.input = activations(hidden),
                             .router = router,
                             .routing = routing,
                             .weight_gradients = routing.weights,
                             .logit_gradients = routing.logits,
                             .input_gradient = activations(hidden),
                             .router_gradient = matrix(DType::f32, experts, hidden)});
    expert_linear(hidden, spec.width, routing, spec.biases);
    expert_linear(spec.width, hidden, routing, spec.biases);
  }
  void norm(int64_t width) {
    take(ResidualLayerNormBackward{.normalized_gradient = activations(width),
                                   .sum_gradient_in = activations(width),
                                   .sum = activations(width),
                                   .mean = vector(DType::f32, shape_.rows),
                                   .rstd = vector(DType::f32, shape_.rows),
                                   .gamma = vector(DType::f32, width),
                                   .dropout = {},
                                   .sum_gradient = activations(width),
                                   .branch_gradient = activations(width),
                                   .gamma_gradient = vector(DType::f32, width),
                                   .beta_gradient = vector(DType::f32, width)});
  }
  void attention(int64_t num_heads, int64_t head_dim) {
    std::vector<int32_t> offsets;
    const int64_t length = std::clamp<int64_t>(shape_.sequence_length, 1, shape_.rows);
    for (int64_t row = 0; row < shape_.rows; row += length) offsets.push_back(static_cast<int32_t>(row));
    offsets.push_back(static_cast<int32_t>(shape_.rows));
    const AttentionShape shape{
        .query_offsets = offsets, .key_offsets = offsets, .num_heads = num_heads, .head_dim = head_dim, .dropout = {}};
    const TensorView values = activations(num_heads * head_dim),
                     log_sum_exp = matrix(DType::f32, shape_.rows, num_heads);
    take(AttentionForward{shape, values, values, values, values, log_sum_exp});
    take(AttentionBackward{shape, values, values, values, values, log_sum_exp, values, values, values, values});
  }
  /// The loss with its gradients, and without, as in a validation.
  void loss(int64_t vocab_size, int64_t width) {
    OutputLoss loss{.hidden = activations(width),
                    .table = matrix(shape_.dtype, vocab_size, width),
                    .targets = vector(DType::i32, shape_.rows),
                    .losses = vector(DType::f32, shape_.rows),
                    .loss_sum = vector(DType::f64, 1),
                    .hidden_gradient = {},
                    .table_gradient = {}};
    take(loss);
    loss.hidden_gradient = activations(width);
    loss.table_gradient = matrix(DType::f32, vocab_size, width);
    take(loss);
  }
  void embedding(int64_t vocab_size, int64_t token_width, int64_t positions, int64_t position_width) {
    const TensorView ids = vector(DType::i32, shape_.rows);
    const TensorView tokens = matrix(DType::f32, vocab_size, token_width),
                     places = matrix(DType::f32, positions, position_width);
    if (token_width == position_width)
      return take(EmbeddingBackward{ids, ids, activations(token_width), tokens, places});
    take(EmbeddingBackward{ids, {}, activations(token_width), tokens, {}});
    take(EmbeddingBackward{{}, ids, activations(position_width), {}, places});
  }

  TrainingScratch result() const { return result_; }

 private:
  void expert_linear(int64_t in, int64_t out, const ExpertRouting& routing, bool bias) {
    const int64_t experts = routing.experts();
    const TensorView weight = matrix(shape_.dtype, experts * out, in);
    const TensorView input = matrix(shape_.dtype, kExpertsPerToken * shape_.rows, in);
    const TensorView output = matrix(shape_.dtype, kExpertsPerToken * shape_.rows, out);
    take(ExpertLinearForward{.input = input,
                             .offsets = routing.offsets,
                             .weight = weight,
                             .bias = bias ? vector(shape_.dtype, experts * out) : TensorView(),
                             .output = output});
    take(ExpertLinearBackward{.input = input,
                              .offsets = routing.offsets,
                              .weight = weight,
                              .output_gradient = output,
                              .input_gradient = input,
                              .weight_gradient = matrix(DType::f32, experts * out, in),
                              .bias_gradient = bias ? vector(DType::f32, experts * out) : TensorView()});
  }
  /// Views without data.
  static TensorView matrix(DType dtype, int64_t rows, int64_t columns) { return {nullptr, dtype, rows, columns}; }
  static TensorView vector(DType dtype, int64_t columns) { return matrix(dtype, 1, columns); }
  TensorView activations(int64_t columns) const { return matrix(shape_.dtype, shape_.rows, columns); }

  template <typename Operands>
  void take(const Operands& operands) {
    result_.scratch_bytes = std::max(result_.scratch_bytes, operators_.scratch_bytes(operands));
  }

  const ModelOperators& operators_;
  const TrainingShape& shape_;
  TrainingScratch result_;
};

}  // namespace

TrainingScratch training_scratch(const ModelOperators& operators, const ModelSpec& spec, const TrainingShape& shape) {
  const int64_t hidden = spec.hidden_size;
  const EmbeddingSpec& embedding = spec.embedding;
  ScratchCount count(operators, shape);
  for (const BlockSpec& block : spec.blocks) {
    const AttentionSpec& attention = block.attention;
    const FeedForwardSpec& feed_forward = block.feed_forward;
    count.linear(hidden, 3 * attention.width(), attention.biases);
    count.linear(attention.width(), hidden, attention.biases);
    if (feed_forward.is_mixture()) {
      count.mixture(hidden, feed_forward);
    } else {
      count.linear(hidden, feed_forward.width, feed_forward.biases);
      count.linear(feed_forward.width, hidden, feed_forward.biases);
    }
    count.attention(attention.heads, attention.head_dim);
  }
  if (spec.has_projections()) {
    count.linear(embedding.width, hidden, /*bias=*/false);
    count.linear(hidden, embedding.width, /*bias=*/false);
  }
  count.norm(hidden);
  count.loss(embedding.vocab_size, embedding.width);
  count.embedding(embedding.vocab_size, embedding.width, embedding.position_offset + embedding.max_length, hidden);
  return count.result();
}

}  // namespace cbtm
