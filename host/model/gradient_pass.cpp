#include "model/gradient_pass.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cbtm/base/error.h"
#include "cbtm/device/model_operators.h"

namespace cbtm {
namespace {

/// Dropout sites of a layer, in the order of the forward pass.
enum Site : uint32_t { kAttentionProbabilities = 0, kAttentionOutput = 1, kFfnOutput = 2, kSitesPerLayer = 4 };

/// 32-bit words of a micro-batch's ids, positions and targets, and of the dropout's place behind them.
int64_t token_words(int64_t rows) { return (3 * rows + 1) / 2 * 2 + 4; }

}  // namespace

GradientPass::GradientPass(Device& device, const OptConfig& config, int64_t rows, Recompute recompute, DType dtype,
                           TrainingParameters& parameters)
    : device_(device),
      operators_(device.model_operators()),
      config_(config),
      rows_(rows),
      recompute_(recompute),
      parameters_(parameters),
      activations_(Activations::allocate(device, config, rows, recompute, dtype)),
      weight_tensors_(parameters.weight_tensors()),
      gradient_tensors_(parameters.gradient_tensors()),
      token_buffer_(device.allocate(token_bytes(rows), "token ids")),
      activation_(config.activation_function == OptActivation::relu ? Activation::relu : Activation::gelu),
      scale_(1 / std::sqrt(static_cast<float>(config.head_dim()))) {}

int64_t GradientPass::token_bytes(int64_t rows) { return token_words(rows) * 4; }

TensorView GradientPass::cut(TensorView whole) const {
  return whole ? (whole.rows == 1 ? whole.column_range(0, batch_rows_) : whole.row_range(0, batch_rows_)) : whole;
}

Dropout GradientPass::dropout(int64_t layer, uint32_t site) const {
  return {.probability = with_gradients_ ? options_.dropout : 0.0f,
          .seed = options_.seed,
          .step = options_.step,
          .site = static_cast<uint32_t>(layer) * kSitesPerLayer + site,
          .first_row = options_.first_row,
          .place = dropout_place_};
}

AttentionShape GradientPass::attention_shape(int64_t layer) const {
  return {.query_offsets = offsets_,
          .key_offsets = offsets_,
          .num_heads = config_.num_attention_heads,
          .head_dim = config_.head_dim(),
          .scale = scale_,
          .dropout = dropout(layer, kAttentionProbabilities),
          .dropout_columns = options_.dropout_columns};
}

ConstTensorView GradientPass::layer_input(int64_t layer) const {
  if (layer == 0) return cut(activations_.embedding);
  const LayerActivations& before = activations_.layers[static_cast<size_t>(layer) - 1];
  return cut(config_.do_layer_norm_before ? before.output : before.normalized_output);
}

TensorView GradientPass::final_hidden() const {
  if (!config_.do_layer_norm_before) return cut(activations_.layers.back().normalized_output);
  return cut(config_.has_final_layer_norm() ? activations_.hidden : activations_.layers.back().output);
}

void GradientPass::load(const PackedTokens& tokens, std::span<const int32_t> targets, const BackwardOptions* options,
                        bool dropout_place) {
  with_gradients_ = options != nullptr;
  options_ = with_gradients_ ? *options : BackwardOptions{};
  batch_rows_ = tokens.rows();
  CBTM_ASSERT(batch_rows_ > 0 && batch_rows_ <= rows_, "a micro-batch fits the plan");
  CBTM_ASSERT(static_cast<int64_t>(targets.size()) == batch_rows_, "a target a token");
  // Ids, positions, targets and the place of the dropout in one copy.
  token_values_.assign(static_cast<size_t>(token_words(batch_rows_)), 0);
  const auto part = [&](int64_t number) {
    return std::span(token_values_)
        .subspan(static_cast<size_t>(number * batch_rows_), static_cast<size_t>(batch_rows_));
  };
  std::ranges::copy(tokens.ids, part(0).begin());
  for (int64_t s = 0; s < tokens.sequences(); ++s)
    for (int32_t row = tokens.offsets[static_cast<size_t>(s)]; row < tokens.offsets[static_cast<size_t>(s) + 1]; ++row)
      part(1)[static_cast<size_t>(row)] =
          row - tokens.offsets[static_cast<size_t>(s)] + static_cast<int32_t>(kPositionOffset);
  std::ranges::copy(targets, part(2).begin());
  const int64_t place[] = {options_.step, options_.first_row};
  const int64_t place_word = token_words(batch_rows_) - 4;
  std::memcpy(token_values_.data() + place_word, place, sizeof place);
  device_.copy_to_device(token_buffer_.data(), token_values_.data(), token_words(batch_rows_) * 4);
  const auto view = [&](int64_t number) {
    return token_buffer_.view(DType::i32, 1, batch_rows_, number * batch_rows_ * 4);
  };
  ids_ = view(0);
  positions_ = view(1);
  targets_ = view(2);
  dropout_place_ =
      dropout_place ? ConstTensorView(token_buffer_.view(DType::i64, 1, 2, place_word * 4)) : ConstTensorView();
  offsets_ = tokens.offsets;
}

void GradientPass::embed() {
  const TensorView out = cut(activations_.embedding);
  if (config_.has_projections()) {
    const TensorView narrow = cut(activations_.token_embedding);
    operators_.embedding_forward(
        {.ids = ids_, .token_table = weight_tensors_.tokens, .positions = {}, .position_table = {}, .out = narrow});
    operators_.linear_forward(
        {.input = narrow, .weight = weight_tensors_.project_in.weight, .bias = {}, .output = out});
    operators_.embedding_forward({.ids = {},
                                  .token_table = {},
                                  .positions = positions_,
                                  .position_table = weight_tensors_.positions,
                                  .out = out,
                                  .accumulate = true});
    return;
  }
  operators_.embedding_forward({.ids = ids_,
                                .token_table = weight_tensors_.tokens,
                                .positions = positions_,
                                .position_table = weight_tensors_.positions,
                                .out = out});
}

void GradientPass::attention_block(int64_t layer, ConstTensorView input) {
  const LayerTensors& w = weight_tensors_.layers[static_cast<size_t>(layer)];
  const LayerActivations& a = activations_.layers[static_cast<size_t>(layer)];
  const int64_t hidden = config_.hidden_size;
  const TensorView qkv = cut(a.qkv);
  operators_.linear_forward({.input = input, .weight = w.qkv.weight, .bias = w.qkv.bias, .output = qkv});
  operators_.attention_forward({.shape = attention_shape(layer),
                                .query = qkv.column_range(0, hidden),
                                .key = qkv.column_range(hidden, hidden),
                                .value = qkv.column_range(2 * hidden, hidden),
                                .output = cut(a.attention),
                                .log_sum_exp = cut(a.log_sum_exp)});
  operators_.linear_forward(
      {.input = cut(a.attention), .weight = w.out.weight, .bias = w.out.bias, .output = cut(activations_.branch)});
}

void GradientPass::ffn_hidden(int64_t layer, ConstTensorView input) {
  const LayerTensors& w = weight_tensors_.layers[static_cast<size_t>(layer)];
  const LayerActivations& a = activations_.layers[static_cast<size_t>(layer)];
  operators_.linear_forward({.input = input,
                             .weight = w.fc1.weight,
                             .bias = w.fc1.bias,
                             .activation = activation_,
                             .output = cut(a.ffn),
                             .saved = cut(a.ffn_saved)});
}

/// `again`: within the backward pass, from the layer's kept input; what follows the layer is left as it is.
void GradientPass::layer_forward(int64_t layer, bool again) {
  const Device::Phase phase(device_, "layer");
  const LayerTensors& w = weight_tensors_.layers[static_cast<size_t>(layer)];
  const LayerActivations& a = activations_.layers[static_cast<size_t>(layer)];
  const ConstTensorView input = layer_input(layer);
  const bool pre_norm = config_.do_layer_norm_before;
  if (pre_norm && (again || layer == 0))
    operators_.residual_layernorm_forward(
        {.residual = input,
         .branch = {},
         .dropout = {},
         .gamma = w.attention_norm.gamma,
         .beta = w.attention_norm.beta,
         .sum = {},
         .normalized = cut(a.norm1),
         .mean = cut(layer == 0 ? activations_.embedding_mean
                                : activations_.layers[static_cast<size_t>(layer) - 1].output_mean),
         .rstd = cut(layer == 0 ? activations_.embedding_rstd
                                : activations_.layers[static_cast<size_t>(layer) - 1].output_rstd)});
  attention_block(layer, pre_norm ? ConstTensorView(cut(a.norm1)) : input);
  const NormTensors& middle_norm = pre_norm ? w.ffn_norm : w.attention_norm;
  operators_.residual_layernorm_forward({.residual = input,
                                         .branch = cut(activations_.branch),
                                         .dropout = dropout(layer, kAttentionOutput),
                                         .gamma = middle_norm.gamma,
                                         .beta = middle_norm.beta,
                                         .sum = cut(a.middle),
                                         .normalized = cut(a.norm2),
                                         .mean = cut(a.middle_mean),
                                         .rstd = cut(a.middle_rstd)});
  ffn_hidden(layer, cut(a.norm2));
  if (again && pre_norm) return;
  operators_.linear_forward(
      {.input = cut(a.ffn), .weight = w.fc2.weight, .bias = w.fc2.bias, .output = cut(activations_.branch)});
  // The norm that follows: the next layer's first or the model's last (pre-norm), or this layer's second (post-norm).
  const bool last = layer + 1 == config_.num_hidden_layers;
  NormTensors norm = w.ffn_norm;
  TensorView normalized = cut(a.normalized_output);
  if (pre_norm) {
    norm = last ? weight_tensors_.final_norm : weight_tensors_.layers[static_cast<size_t>(layer) + 1].attention_norm;
    normalized = last ? (config_.has_final_layer_norm() ? cut(activations_.hidden) : TensorView())
                      : cut(activations_.layers[static_cast<size_t>(layer) + 1].norm1);
  }
  operators_.residual_layernorm_forward({.residual = pre_norm ? cut(a.middle) : cut(a.norm2),
                                         .branch = cut(activations_.branch),
                                         .dropout = dropout(layer, kFfnOutput),
                                         .gamma = norm.gamma,
                                         .beta = norm.beta,
                                         .sum = cut(a.output),
                                         .normalized = normalized,
                                         .mean = cut(a.output_mean),
                                         .rstd = cut(a.output_rstd)});
}

void GradientPass::forward() {
  embed();
  for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) layer_forward(layer, /*again=*/false);
}

void GradientPass::loss(TensorView total) {
  TensorView hidden = final_hidden();
  if (config_.has_projections()) {
    operators_.linear_forward({.input = hidden,
                               .weight = weight_tensors_.project_out.weight,
                               .bias = {},
                               .output = cut(activations_.projected)});
    hidden = cut(activations_.projected);
  }
  device_.fill_zero(total);
  const TensorView hidden_gradient =
      config_.has_projections() ? cut(activations_.projected_gradient) : cut(activations_.norm_gradient);
  operators_.output_loss({.hidden = hidden,
                          .table = weight_tensors_.tokens,
                          .targets = targets_,
                          .losses = cut(activations_.losses),
                          .loss_sum = total,
                          .gradient_scale = options_.gradient_scale,
                          .hidden_gradient = with_gradients_ ? hidden_gradient : TensorView(),
                          .table_gradient = with_gradients_ ? gradient_tensors_.tokens : TensorView()});
  if (with_gradients_ && config_.has_projections())
    operators_.linear_backward({.input = final_hidden(),
                                .weight = weight_tensors_.project_out.weight,
                                .output_gradient = hidden_gradient,
                                .input_gradient = cut(activations_.norm_gradient),
                                .weight_gradient = gradient_tensors_.project_out.weight,
                                .bias_gradient = {}});
}

/// In: norm_gradient = gradient of the layer's normalized output (of what its last norm writes), and, pre-norm,
/// sum_gradient = gradient of its output by the residual path after it. Out: the same of the layer before.
void GradientPass::layer_backward(int64_t layer) {
  const Device::Phase phase(device_, "layer backward");
  const LayerTensors& w = weight_tensors_.layers[static_cast<size_t>(layer)];
  const LayerTensors& g = gradient_tensors_.layers[static_cast<size_t>(layer)];
  const LayerActivations& a = activations_.layers[static_cast<size_t>(layer)];
  const bool pre_norm = config_.do_layer_norm_before;
  const bool last = layer + 1 == config_.num_hidden_layers;
  const int64_t hidden = config_.hidden_size;
  const TensorView sum_gradient = cut(activations_.sum_gradient);
  const TensorView branch_gradient = cut(activations_.branch_gradient);
  const TensorView norm_gradient = cut(activations_.norm_gradient);
  if (recompute_ == Recompute::layers) layer_forward(layer, /*again=*/true);
  if (recompute_ == Recompute::ffn) ffn_hidden(layer, cut(a.norm2));

  // The norm after the layer and the sum with the feed-forward branch.
  NormTensors norm = w.ffn_norm, norm_gradients = g.ffn_norm;
  if (pre_norm) {
    norm = last ? weight_tensors_.final_norm : weight_tensors_.layers[static_cast<size_t>(layer) + 1].attention_norm;
    norm_gradients =
        last ? gradient_tensors_.final_norm : gradient_tensors_.layers[static_cast<size_t>(layer) + 1].attention_norm;
  }
  const bool without_norm = pre_norm && last && !config_.has_final_layer_norm();
  ConstTensorView incoming;
  if (without_norm)
    incoming = norm_gradient;
  else if (pre_norm && !last)
    incoming = sum_gradient;
  operators_.residual_layernorm_backward({.normalized_gradient = without_norm ? TensorView() : norm_gradient,
                                          .sum_gradient_in = incoming,
                                          .sum = cut(a.output),
                                          .mean = cut(a.output_mean),
                                          .rstd = cut(a.output_rstd),
                                          .gamma = norm.gamma,
                                          .dropout = dropout(layer, kFfnOutput),
                                          .sum_gradient = sum_gradient,
                                          .branch_gradient = branch_gradient,
                                          .gamma_gradient = norm_gradients.gamma,
                                          .beta_gradient = norm_gradients.beta});
  operators_.linear_backward({.input = cut(a.ffn),
                              .weight = w.fc2.weight,
                              .output_gradient = branch_gradient,
                              .input_gradient = cut(activations_.ffn_gradient),
                              .input_activation = activation_,
                              .input_saved = cut(a.ffn_saved),
                              .weight_gradient = g.fc2.weight,
                              .bias_gradient = g.fc2.bias});
  // Post-norm: the residual path and the branch meet at the branch's input, which is the norm's output.
  const TensorView ffn_input_gradient = pre_norm ? norm_gradient : sum_gradient;
  operators_.linear_backward({.input = cut(a.norm2),
                              .weight = w.fc1.weight,
                              .output_gradient = cut(activations_.ffn_gradient),
                              .input_gradient = ffn_input_gradient,
                              .accumulate_input_gradient = !pre_norm,
                              .weight_gradient = g.fc1.weight,
                              .bias_gradient = g.fc1.bias});

  // The norm in the middle and the sum with the attention branch.
  const NormTensors& middle = pre_norm ? w.ffn_norm : w.attention_norm;
  const NormTensors& middle_gradients = pre_norm ? g.ffn_norm : g.attention_norm;
  operators_.residual_layernorm_backward({.normalized_gradient = ffn_input_gradient,
                                          .sum_gradient_in = pre_norm ? sum_gradient : TensorView(),
                                          .sum = cut(a.middle),
                                          .mean = cut(a.middle_mean),
                                          .rstd = cut(a.middle_rstd),
                                          .gamma = middle.gamma,
                                          .dropout = dropout(layer, kAttentionOutput),
                                          .sum_gradient = sum_gradient,
                                          .branch_gradient = branch_gradient,
                                          .gamma_gradient = middle_gradients.gamma,
                                          .beta_gradient = middle_gradients.beta});
  operators_.linear_backward({.input = cut(a.attention),
                              .weight = w.out.weight,
                              .output_gradient = branch_gradient,
                              .input_gradient = cut(activations_.attention_gradient),
                              .weight_gradient = g.out.weight,
                              .bias_gradient = g.out.bias});
  const TensorView qkv = cut(a.qkv);
  const TensorView qkv_gradient = cut(activations_.qkv_gradient);
  operators_.attention_backward({.shape = attention_shape(layer),
                                 .query = qkv.column_range(0, hidden),
                                 .key = qkv.column_range(hidden, hidden),
                                 .value = qkv.column_range(2 * hidden, hidden),
                                 .output = cut(a.attention),
                                 .log_sum_exp = cut(a.log_sum_exp),
                                 .output_gradient = cut(activations_.attention_gradient),
                                 .query_gradient = qkv_gradient.column_range(0, hidden),
                                 .key_gradient = qkv_gradient.column_range(hidden, hidden),
                                 .value_gradient = qkv_gradient.column_range(2 * hidden, hidden)});
  operators_.linear_backward({.input = pre_norm ? ConstTensorView(cut(a.norm1)) : layer_input(layer),
                              .weight = w.qkv.weight,
                              .output_gradient = qkv_gradient,
                              .input_gradient = pre_norm ? norm_gradient : sum_gradient,
                              .accumulate_input_gradient = !pre_norm,
                              .weight_gradient = g.qkv.weight,
                              .bias_gradient = g.qkv.bias});
  if (!pre_norm && layer > 0) device_.copy(norm_gradient, sum_gradient);
}

void GradientPass::embed_backward() {
  const TensorView gradient = cut(activations_.sum_gradient);
  if (config_.do_layer_norm_before) {
    // The first layer's first norm, whose sum is the embedding itself.
    const LayerTensors& w = weight_tensors_.layers.front();
    const LayerTensors& g = gradient_tensors_.layers.front();
    operators_.residual_layernorm_backward({.normalized_gradient = cut(activations_.norm_gradient),
                                            .sum_gradient_in = gradient,
                                            .sum = cut(activations_.embedding),
                                            .mean = cut(activations_.embedding_mean),
                                            .rstd = cut(activations_.embedding_rstd),
                                            .gamma = w.attention_norm.gamma,
                                            .dropout = {},
                                            .sum_gradient = gradient,
                                            .branch_gradient = {},
                                            .gamma_gradient = g.attention_norm.gamma,
                                            .beta_gradient = g.attention_norm.beta});
  }
  if (!config_.has_projections()) {
    operators_.embedding_backward({.ids = ids_,
                                   .positions = positions_,
                                   .out_gradient = gradient,
                                   .token_table_gradient = gradient_tensors_.tokens,
                                   .position_table_gradient = gradient_tensors_.positions});
    return;
  }
  operators_.embedding_backward({.ids = {},
                                 .positions = positions_,
                                 .out_gradient = gradient,
                                 .token_table_gradient = {},
                                 .position_table_gradient = gradient_tensors_.positions});
  operators_.linear_backward({.input = cut(activations_.token_embedding),
                              .weight = weight_tensors_.project_in.weight,
                              .output_gradient = gradient,
                              .input_gradient = cut(activations_.token_embedding_gradient),
                              .weight_gradient = gradient_tensors_.project_in.weight,
                              .bias_gradient = {}});
  operators_.embedding_backward({.ids = ids_,
                                 .positions = {},
                                 .out_gradient = cut(activations_.token_embedding_gradient),
                                 .token_table_gradient = gradient_tensors_.tokens,
                                 .position_table_gradient = {}});
}

void GradientPass::backward() {
  for (int64_t layer = config_.num_hidden_layers; layer-- > 0;) {
    layer_backward(layer);
    if (options_.completes_step) parameters_.start_exchange(layer);
  }
  embed_backward();
  operators_.finish_backward();
  if (options_.completes_step) parameters_.start_rest_of_exchange();
}

}  // namespace cbtm
