#include "cbtm/model/training_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cbtm/base/error.h"
#include "model/activations.h"
#include "model/model_weights.h"

namespace cbtm {
namespace {

/// Dropout sites of a layer, in the order of the forward pass.
enum Site : uint32_t { kAttentionProbabilities = 0, kAttentionOutput = 1, kFfnOutput = 2, kSitesPerLayer = 4 };

/// Micro-batches of a step at most: the loss of each stays on the device until the step is finished.
constexpr int64_t kMicroBatchesMax = 65'536;
constexpr int64_t kResultBytes = (2 + kMicroBatchesMax) * 8;

/// Shapes of micro-batches that are kept recorded: a step has two, if its last one is smaller.
constexpr size_t kRecordedMax = 4;

}  // namespace

struct TrainingModel::State {
  State(Device& device_, const OptConfig& config_, int64_t rows_, Recompute recompute_, DType dtype_)
      : device(device_),
        config(config_),
        layout(config_),
        rows(rows_),
        recompute(recompute_),
        dtype(dtype_),
        flat((reserve(), device_.allocate(4 * layout.flat_size() * 4, "weights, gradients and moments"))),
        working(dtype_ == DType::f32
                    ? DeviceBuffer()
                    : device_.allocate(layout.flat_size() * dtype_bytes(dtype_), "the working copy of the weights")),
        activations(Activations::allocate(device_, config_, rows_, recompute_, dtype_)),
        weight_tensors(working_tensors()),
        gradient_tensors(config, layout, flat_view(1).data, DType::f32, vectors_of(1), activations.bias_gradients.data),
        results(device_.allocate(kResultBytes, "losses and gradient norm")),
        token_buffer(device_.allocate(token_words(rows_) * 4, "token ids")) {
    device.reserve_workspace(device.workspace_bytes(rows, config.hidden_size, config.ffn_dim, config.vocab_size));
    activation = config.activation_function == OptActivation::relu ? Activation::relu : Activation::gelu;
    scale = 1 / std::sqrt(static_cast<float>(config.head_dim()));
  }

  /// All memory of the training in one piece; the buffers below are carved from it.
  void reserve() {
    constexpr int64_t kAlignment = 256;
    int64_t bytes = 0;
    for (const int64_t buffer :
         {4 * layout.flat_size() * 4, dtype == DType::f32 ? 0 : layout.flat_size() * dtype_bytes(dtype),
          activation_bytes(device, config, rows, recompute, dtype), kResultBytes, token_words(rows) * 4})
      bytes += (buffer + kAlignment - 1) / kAlignment * kAlignment;
    device.reserve(bytes, "training");
  }

  TensorView flat_view(int64_t part) {
    return flat.view(DType::f32, 1, layout.flat_size(), part * layout.flat_size() * 4);
  }
  /// Every weight rounded; or empty where the weights themselves are used.
  TensorView working_view() { return dtype == DType::f32 ? TensorView() : working.view(dtype, 1, layout.flat_size()); }
  /// Matrices and biases as the products take them; the norms' vectors stay float32.
  ModelTensors working_tensors() {
    if (dtype == DType::f32) return {config, layout, flat_view(0).data, DType::f32, vectors_of(0)};
    return {config, layout,        working.data(),
            dtype,  vectors_of(0), static_cast<char*>(working.data()) + layout.matrix_flat_size() * dtype_bytes(dtype)};
  }
  void round_weights() {
    if (dtype != DType::f32) device.copy(working_view(), flat_view(0));
  }
  TensorView square_sum() const { return results.view(DType::f64, 1, 1); }
  /// Σ loss of a micro-batch of the step.
  TensorView loss_slot(int64_t micro_batch) const { return results.view(DType::f64, 1, 1, 8 * (1 + micro_batch)); }
  void* vectors_of(int64_t part) { return flat_view(part).as<float>() + layout.matrix_flat_size(); }

  Device& device;
  OptConfig config;
  ParameterLayout layout;
  int64_t rows;
  Recompute recompute;
  DType dtype;           ///< of activations and of the weights that the products take
  DeviceBuffer flat;     ///< weights, gradients, first and second moments
  DeviceBuffer working;  ///< the weights in `dtype`, if that is not float32
  Activations activations;
  ModelTensors weight_tensors, gradient_tensors;
  DeviceBuffer results;  ///< square_sum and loss_slot, one after another
  DeviceBuffer token_buffer;
  std::vector<int32_t> token_values;
  Activation activation = Activation::relu;
  float scale = 1;

  int64_t micro_batches = 0;  ///< whose gradients have been added since the last step

  /// Everything that the operators of a micro-batch depend on besides what they find in device memory.
  struct PassKey {
    std::vector<int32_t> offsets;
    float gradient_scale = 1, dropout = 0;
    uint64_t seed = 0;
    int64_t dropout_columns = 0;
    bool operator==(const PassKey&) const = default;
  };
  struct RecordedPass {
    PassKey key;
    std::unique_ptr<RecordedOperators> operators;  ///< null when it has run only once yet
  };
  std::shared_ptr<HostCopy> snapshot;  ///< under way; weights and moments must not change before it is complete
  bool recording = false;              ///< whether passes are recorded
  std::vector<RecordedPass> recorded;  ///< the last used first

  // The micro-batch at work.
  int64_t batch_rows = 0;
  std::span<const int32_t> offsets;
  ConstTensorView ids, positions, targets;
  ConstTensorView dropout_place;  ///< {options.step, options.first_row}, where passes are recorded
  BackwardOptions options;
  bool with_gradients = false;

  TensorView cut(TensorView whole) const {
    return whole ? (whole.rows == 1 ? whole.column_range(0, batch_rows) : whole.row_range(0, batch_rows)) : whole;
  }
  Dropout dropout(int64_t layer, Site site) const {
    return {.probability = with_gradients ? options.dropout : 0.0f,
            .seed = options.seed,
            .step = options.step,
            .site = static_cast<uint32_t>(layer) * kSitesPerLayer + site,
            .first_row = options.first_row,
            .place = dropout_place};
  }
  AttentionShape attention_shape(int64_t layer) const {
    return {.query_offsets = offsets,
            .key_offsets = offsets,
            .num_heads = config.num_attention_heads,
            .head_dim = config.head_dim(),
            .scale = scale,
            .dropout = dropout(layer, kAttentionProbabilities),
            .dropout_columns = options.dropout_columns};
  }

  /// 32-bit words of a micro-batch's ids, positions and targets, and of the dropout's place behind them.
  static int64_t token_words(int64_t rows) { return (3 * rows + 1) / 2 * 2 + 4; }
  void load(const PackedTokens& tokens, std::span<const int32_t> target_ids);
  void forward();
  void embed();
  void attention_block(int64_t layer, ConstTensorView input);
  void ffn_hidden(int64_t layer, ConstTensorView input);
  void layer_forward(int64_t layer, bool again);
  void loss(bool gradients);
  double read_loss(int64_t micro_batch);
  void backward();
  void gradient_pass();
  void run_gradient_pass();
  void layer_backward(int64_t layer);
  void embed_backward();

  ConstTensorView layer_input(int64_t layer) {
    if (layer == 0) return cut(activations.embedding);
    const LayerActivations& before = activations.layers[static_cast<size_t>(layer) - 1];
    return cut(config.do_layer_norm_before ? before.output : before.normalized_output);
  }
  TensorView final_hidden() {
    if (!config.do_layer_norm_before) return cut(activations.layers.back().normalized_output);
    return cut(config.has_final_layer_norm() ? activations.hidden : activations.layers.back().output);
  }
};

void TrainingModel::State::load(const PackedTokens& tokens, std::span<const int32_t> target_ids) {
  batch_rows = tokens.rows();
  CBTM_ASSERT(batch_rows > 0 && batch_rows <= rows, "a micro-batch fits the plan");
  CBTM_ASSERT(static_cast<int64_t>(target_ids.size()) == batch_rows, "a target a token");
  // Ids, positions, targets and the place of the dropout in one copy.
  token_values.assign(static_cast<size_t>(token_words(batch_rows)), 0);
  const auto part = [&](int64_t number) {
    return std::span(token_values).subspan(static_cast<size_t>(number * batch_rows), static_cast<size_t>(batch_rows));
  };
  std::ranges::copy(tokens.ids, part(0).begin());
  for (int64_t s = 0; s < tokens.sequences(); ++s)
    for (int32_t row = tokens.offsets[static_cast<size_t>(s)]; row < tokens.offsets[static_cast<size_t>(s) + 1]; ++row)
      part(1)[static_cast<size_t>(row)] =
          row - tokens.offsets[static_cast<size_t>(s)] + static_cast<int32_t>(kPositionOffset);
  std::ranges::copy(target_ids, part(2).begin());
  const int64_t place[] = {options.step, options.first_row};
  const int64_t place_word = token_words(batch_rows) - 4;
  std::memcpy(token_values.data() + place_word, place, sizeof place);
  device.copy_to_device(token_buffer.data(), token_values.data(), token_words(batch_rows) * 4);
  const auto view = [&](int64_t number) {
    return token_buffer.view(DType::i32, 1, batch_rows, number * batch_rows * 4);
  };
  ids = view(0);
  positions = view(1);
  targets = view(2);
  dropout_place = recording ? ConstTensorView(token_buffer.view(DType::i64, 1, 2, place_word * 4)) : ConstTensorView();
  offsets = tokens.offsets;
}

void TrainingModel::State::embed() {
  const TensorView out = cut(activations.embedding);
  if (config.has_projections()) {
    const TensorView narrow = cut(activations.token_embedding);
    device.embedding_forward(
        {.ids = ids, .token_table = weight_tensors.tokens, .positions = {}, .position_table = {}, .out = narrow});
    device.linear_forward(
        {.input = narrow, .weight = weight_tensors.project_in.weight, .bias = {}, .output = out, .pre_activation = {}});
    device.embedding_forward({.ids = {},
                              .token_table = {},
                              .positions = positions,
                              .position_table = weight_tensors.positions,
                              .out = out,
                              .accumulate = true});
    return;
  }
  device.embedding_forward({.ids = ids,
                            .token_table = weight_tensors.tokens,
                            .positions = positions,
                            .position_table = weight_tensors.positions,
                            .out = out});
}

void TrainingModel::State::attention_block(int64_t layer, ConstTensorView input) {
  const LayerTensors& w = weight_tensors.layers[static_cast<size_t>(layer)];
  const LayerActivations& a = activations.layers[static_cast<size_t>(layer)];
  const int64_t hidden = config.hidden_size;
  const TensorView qkv = cut(a.qkv);
  device.linear_forward(
      {.input = input, .weight = w.qkv.weight, .bias = w.qkv.bias, .output = qkv, .pre_activation = {}});
  device.attention_forward({.shape = attention_shape(layer),
                            .query = qkv.column_range(0, hidden),
                            .key = qkv.column_range(hidden, hidden),
                            .value = qkv.column_range(2 * hidden, hidden),
                            .output = cut(a.attention),
                            .log_sum_exp = cut(a.log_sum_exp)});
  device.linear_forward({.input = cut(a.attention),
                         .weight = w.out.weight,
                         .bias = w.out.bias,
                         .output = cut(activations.branch),
                         .pre_activation = {}});
}

void TrainingModel::State::ffn_hidden(int64_t layer, ConstTensorView input) {
  const LayerTensors& w = weight_tensors.layers[static_cast<size_t>(layer)];
  const LayerActivations& a = activations.layers[static_cast<size_t>(layer)];
  device.linear_forward({.input = input,
                         .weight = w.fc1.weight,
                         .bias = w.fc1.bias,
                         .activation = activation,
                         .output = cut(a.ffn),
                         .pre_activation = cut(a.ffn_pre_activation),
                         .relu_mask = cut(a.ffn_mask)});
}

/// `again`: within the backward pass, from the layer's kept input; what follows the layer is left as it is.
void TrainingModel::State::layer_forward(int64_t layer, bool again) {
  const Device::Phase phase(device, "layer");
  const LayerTensors& w = weight_tensors.layers[static_cast<size_t>(layer)];
  const LayerActivations& a = activations.layers[static_cast<size_t>(layer)];
  const ConstTensorView input = layer_input(layer);
  const bool pre_norm = config.do_layer_norm_before;
  if (pre_norm && (again || layer == 0))
    device.residual_layernorm_forward(
        {.residual = input,
         .branch = {},
         .dropout = {},
         .gamma = w.attention_norm.gamma,
         .beta = w.attention_norm.beta,
         .sum = {},
         .normalized = cut(a.norm1),
         .mean = cut(layer == 0 ? activations.embedding_mean
                                : activations.layers[static_cast<size_t>(layer) - 1].output_mean),
         .rstd = cut(layer == 0 ? activations.embedding_rstd
                                : activations.layers[static_cast<size_t>(layer) - 1].output_rstd)});
  attention_block(layer, pre_norm ? ConstTensorView(cut(a.norm1)) : input);
  const NormTensors& middle_norm = pre_norm ? w.ffn_norm : w.attention_norm;
  device.residual_layernorm_forward({.residual = input,
                                     .branch = cut(activations.branch),
                                     .dropout = dropout(layer, kAttentionOutput),
                                     .gamma = middle_norm.gamma,
                                     .beta = middle_norm.beta,
                                     .sum = cut(a.middle),
                                     .normalized = cut(a.norm2),
                                     .mean = cut(a.middle_mean),
                                     .rstd = cut(a.middle_rstd)});
  ffn_hidden(layer, cut(a.norm2));
  if (again && pre_norm) return;
  device.linear_forward({.input = cut(a.ffn),
                         .weight = w.fc2.weight,
                         .bias = w.fc2.bias,
                         .output = cut(activations.branch),
                         .pre_activation = {}});
  // The norm that follows: the next layer's first or the model's last (pre-norm), or this layer's second (post-norm).
  const bool last = layer + 1 == config.num_hidden_layers;
  NormTensors norm = w.ffn_norm;
  TensorView normalized = cut(a.normalized_output);
  if (pre_norm) {
    norm = last ? weight_tensors.final_norm : weight_tensors.layers[static_cast<size_t>(layer) + 1].attention_norm;
    normalized = last ? (config.has_final_layer_norm() ? cut(activations.hidden) : TensorView())
                      : cut(activations.layers[static_cast<size_t>(layer) + 1].norm1);
  }
  device.residual_layernorm_forward({.residual = pre_norm ? cut(a.middle) : cut(a.norm2),
                                     .branch = cut(activations.branch),
                                     .dropout = dropout(layer, kFfnOutput),
                                     .gamma = norm.gamma,
                                     .beta = norm.beta,
                                     .sum = cut(a.output),
                                     .normalized = normalized,
                                     .mean = cut(a.output_mean),
                                     .rstd = cut(a.output_rstd)});
}

void TrainingModel::State::forward() {
  embed();
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) layer_forward(layer, /*again=*/false);
}

void TrainingModel::State::loss(bool gradients) {
  TensorView hidden = final_hidden();
  if (config.has_projections()) {
    device.linear_forward({.input = hidden,
                           .weight = weight_tensors.project_out.weight,
                           .bias = {},
                           .output = cut(activations.projected),
                           .pre_activation = {}});
    hidden = cut(activations.projected);
  }
  // A recorded pass writes to one place whatever the micro-batch's number.
  const TensorView total = loss_slot(recording && gradients ? kMicroBatchesMax : micro_batches);
  device.fill_zero(total);
  const TensorView hidden_gradient =
      config.has_projections() ? cut(activations.projected_gradient) : cut(activations.norm_gradient);
  device.output_loss({.hidden = hidden,
                      .table = weight_tensors.tokens,
                      .targets = targets,
                      .losses = cut(activations.losses),
                      .loss_sum = total,
                      .gradient_scale = options.gradient_scale,
                      .hidden_gradient = gradients ? hidden_gradient : TensorView(),
                      .table_gradient = gradients ? gradient_tensors.tokens : TensorView()});
  if (gradients && config.has_projections())
    device.linear_backward({.input = final_hidden(),
                            .weight = weight_tensors.project_out.weight,
                            .output_gradient = hidden_gradient,
                            .input_gradient = cut(activations.norm_gradient),
                            .input_pre_activation = {},
                            .weight_gradient = gradient_tensors.project_out.weight,
                            .bias_gradient = {}});
}

double TrainingModel::State::read_loss(int64_t micro_batch) {
  double sum = 0;
  device.copy_to_host(&sum, loss_slot(micro_batch).data, 8);
  return sum;
}

/// In: norm_gradient = gradient of the layer's normalized output (of what its last norm writes), and, pre-norm,
/// sum_gradient = gradient of its output by the residual path after it. Out: the same of the layer before.
void TrainingModel::State::layer_backward(int64_t layer) {
  const Device::Phase phase(device, "layer backward");
  const LayerTensors& w = weight_tensors.layers[static_cast<size_t>(layer)];
  const LayerTensors& g = gradient_tensors.layers[static_cast<size_t>(layer)];
  const LayerActivations& a = activations.layers[static_cast<size_t>(layer)];
  const bool pre_norm = config.do_layer_norm_before;
  const bool last = layer + 1 == config.num_hidden_layers;
  const int64_t hidden = config.hidden_size;
  const TensorView sum_gradient = cut(activations.sum_gradient);
  const TensorView branch_gradient = cut(activations.branch_gradient);
  const TensorView norm_gradient = cut(activations.norm_gradient);
  if (recompute == Recompute::layers) layer_forward(layer, /*again=*/true);
  if (recompute == Recompute::ffn) ffn_hidden(layer, cut(a.norm2));

  // The norm after the layer and the sum with the feed-forward branch.
  NormTensors norm = w.ffn_norm, norm_gradients = g.ffn_norm;
  if (pre_norm) {
    norm = last ? weight_tensors.final_norm : weight_tensors.layers[static_cast<size_t>(layer) + 1].attention_norm;
    norm_gradients =
        last ? gradient_tensors.final_norm : gradient_tensors.layers[static_cast<size_t>(layer) + 1].attention_norm;
  }
  const bool without_norm = pre_norm && last && !config.has_final_layer_norm();
  ConstTensorView incoming;
  if (without_norm)
    incoming = norm_gradient;
  else if (pre_norm && !last)
    incoming = sum_gradient;
  device.residual_layernorm_backward({.normalized_gradient = without_norm ? TensorView() : norm_gradient,
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
  device.linear_backward({.input = cut(a.ffn),
                          .weight = w.fc2.weight,
                          .output_gradient = branch_gradient,
                          .input_gradient = cut(activations.ffn_gradient),
                          .input_activation = activation,
                          .input_pre_activation = cut(a.ffn_pre_activation),
                          .input_relu_mask = cut(a.ffn_mask),
                          .weight_gradient = g.fc2.weight,
                          .bias_gradient = g.fc2.bias,
                          .accumulate_bias_gradient = !activations.bias_gradients});
  // Post-norm: the residual path and the branch meet at the branch's input, which is the norm's output.
  const TensorView ffn_input_gradient = pre_norm ? norm_gradient : sum_gradient;
  device.linear_backward({.input = cut(a.norm2),
                          .weight = w.fc1.weight,
                          .output_gradient = cut(activations.ffn_gradient),
                          .input_gradient = ffn_input_gradient,
                          .accumulate_input_gradient = !pre_norm,
                          .input_pre_activation = {},
                          .weight_gradient = g.fc1.weight,
                          .bias_gradient = g.fc1.bias,
                          .accumulate_bias_gradient = !activations.bias_gradients});

  // The norm in the middle and the sum with the attention branch.
  const NormTensors& middle = pre_norm ? w.ffn_norm : w.attention_norm;
  const NormTensors& middle_gradients = pre_norm ? g.ffn_norm : g.attention_norm;
  device.residual_layernorm_backward({.normalized_gradient = ffn_input_gradient,
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
  device.linear_backward({.input = cut(a.attention),
                          .weight = w.out.weight,
                          .output_gradient = branch_gradient,
                          .input_gradient = cut(activations.attention_gradient),
                          .input_pre_activation = {},
                          .weight_gradient = g.out.weight,
                          .bias_gradient = g.out.bias,
                          .accumulate_bias_gradient = !activations.bias_gradients});
  const TensorView qkv = cut(a.qkv);
  const TensorView qkv_gradient = cut(activations.qkv_gradient);
  device.attention_backward({.shape = attention_shape(layer),
                             .query = qkv.column_range(0, hidden),
                             .key = qkv.column_range(hidden, hidden),
                             .value = qkv.column_range(2 * hidden, hidden),
                             .output = cut(a.attention),
                             .log_sum_exp = cut(a.log_sum_exp),
                             .output_gradient = cut(activations.attention_gradient),
                             .query_gradient = qkv_gradient.column_range(0, hidden),
                             .key_gradient = qkv_gradient.column_range(hidden, hidden),
                             .value_gradient = qkv_gradient.column_range(2 * hidden, hidden)});
  device.linear_backward({.input = pre_norm ? ConstTensorView(cut(a.norm1)) : layer_input(layer),
                          .weight = w.qkv.weight,
                          .output_gradient = qkv_gradient,
                          .input_gradient = pre_norm ? norm_gradient : sum_gradient,
                          .accumulate_input_gradient = !pre_norm,
                          .input_pre_activation = {},
                          .weight_gradient = g.qkv.weight,
                          .bias_gradient = g.qkv.bias,
                          .accumulate_bias_gradient = !activations.bias_gradients});
  if (!pre_norm && layer > 0) device.copy(norm_gradient, sum_gradient);
}

void TrainingModel::State::embed_backward() {
  const TensorView gradient = cut(activations.sum_gradient);
  if (config.do_layer_norm_before) {
    // The first layer's first norm, whose sum is the embedding itself.
    const LayerTensors& w = weight_tensors.layers.front();
    const LayerTensors& g = gradient_tensors.layers.front();
    device.residual_layernorm_backward({.normalized_gradient = cut(activations.norm_gradient),
                                        .sum_gradient_in = gradient,
                                        .sum = cut(activations.embedding),
                                        .mean = cut(activations.embedding_mean),
                                        .rstd = cut(activations.embedding_rstd),
                                        .gamma = w.attention_norm.gamma,
                                        .dropout = {},
                                        .sum_gradient = gradient,
                                        .branch_gradient = {},
                                        .gamma_gradient = g.attention_norm.gamma,
                                        .beta_gradient = g.attention_norm.beta});
  }
  if (!config.has_projections()) {
    device.embedding_backward({.ids = ids,
                               .positions = positions,
                               .out_gradient = gradient,
                               .token_table_gradient = gradient_tensors.tokens,
                               .position_table_gradient = gradient_tensors.positions});
    return;
  }
  device.embedding_backward({.ids = {},
                             .positions = positions,
                             .out_gradient = gradient,
                             .token_table_gradient = {},
                             .position_table_gradient = gradient_tensors.positions});
  device.linear_backward({.input = cut(activations.token_embedding),
                          .weight = weight_tensors.project_in.weight,
                          .output_gradient = gradient,
                          .input_gradient = cut(activations.token_embedding_gradient),
                          .input_pre_activation = {},
                          .weight_gradient = gradient_tensors.project_in.weight,
                          .bias_gradient = {}});
  device.embedding_backward({.ids = ids,
                             .positions = {},
                             .out_gradient = cut(activations.token_embedding_gradient),
                             .token_table_gradient = gradient_tensors.tokens,
                             .position_table_gradient = {}});
}

void TrainingModel::State::backward() {
  for (int64_t layer = config.num_hidden_layers; layer-- > 0;) layer_backward(layer);
  embed_backward();
  if (const ConstTensorView written = activations.bias_gradients)
    device.add(written, {vectors_of(1), DType::f32, 1, written.columns});
}

void TrainingModel::State::gradient_pass() {
  forward();
  loss(/*gradients=*/true);
  backward();
}

/// A shape's first pass runs call by call, its second is recorded, and from then on the record runs.
void TrainingModel::State::run_gradient_pass() {
  if (!recording) return gradient_pass();
  PassKey key{.offsets = {offsets.begin(), offsets.end()},
              .gradient_scale = options.gradient_scale,
              .dropout = options.dropout,
              .seed = options.seed,
              .dropout_columns = options.dropout_columns};
  const auto found = std::ranges::find(recorded, key, &RecordedPass::key);
  if (found == recorded.end()) {
    if (recorded.size() == kRecordedMax) recorded.pop_back();
    recorded.insert(recorded.begin(), RecordedPass{.key = std::move(key), .operators = nullptr});
    gradient_pass();
  } else {
    std::rotate(recorded.begin(), found, found + 1);
    std::unique_ptr<RecordedOperators>& operators = recorded.front().operators;
    if (operators == nullptr || !operators->valid()) operators = device.record([this] { gradient_pass(); });
    if (operators != nullptr)
      operators->run();
    else
      gradient_pass();
  }
  device.copy(loss_slot(micro_batches), loss_slot(kMicroBatchesMax));
}

TrainingModel::TrainingModel(Device& device, const OptConfig& config, std::span<const float> parameters, int64_t rows,
                             Recompute recompute, DType dtype)
    : state_(std::make_unique<State>(device, config, rows, recompute, dtype)) {
  CBTM_ASSERT(static_cast<int64_t>(parameters.size()) == state_->layout.flat_size(), "parameters come in layout order");
  CBTM_ASSERT(device.computes_in(dtype), "the caller asks the device before");
  device.copy_to_device(weights().data, parameters.data(), state_->layout.flat_size() * 4);
  for (const TensorView view : {gradients(), first_moments(), second_moments()}) device.fill_zero(view);
  if (const TensorView written = state_->activations.bias_gradients) device.fill_zero(written);
  state_->round_weights();
}
TrainingModel::~TrainingModel() = default;

const OptConfig& TrainingModel::config() const { return state_->config; }
const ParameterLayout& TrainingModel::layout() const { return state_->layout; }
TensorView TrainingModel::weights() const { return state_->flat_view(0); }
TensorView TrainingModel::gradients() const { return state_->flat_view(1); }
TensorView TrainingModel::first_moments() const { return state_->flat_view(2); }
TensorView TrainingModel::second_moments() const { return state_->flat_view(3); }

void TrainingModel::add_gradients(const PackedTokens& tokens, std::span<const int32_t> targets,
                                  const BackwardOptions& options) {
  State& s = *state_;
  if (s.micro_batches == kMicroBatchesMax)
    fail("a step of more than {} micro-batches; raise --micro-batch", kMicroBatchesMax);
  s.options = options;
  s.with_gradients = true;
  s.load(tokens, targets);
  s.run_gradient_pass();
  ++s.micro_batches;
}

double TrainingModel::accumulate_gradients(const PackedTokens& tokens, std::span<const int32_t> targets,
                                           const BackwardOptions& options) {
  add_gradients(tokens, targets, options);
  return state_->read_loss(state_->micro_batches - 1);
}

double TrainingModel::loss_sum(const PackedTokens& tokens, std::span<const int32_t> targets) {
  State& s = *state_;
  s.options = {};
  s.with_gradients = false;
  s.load(tokens, targets);
  s.forward();
  s.loss(/*gradients=*/false);
  return s.read_loss(s.micro_batches);
}

StepResult TrainingModel::finish_step(const OptimizerOptions& options) {
  State& s = *state_;
  const TensorView square_sum = s.square_sum();
  const Device::Phase phase(s.device, "optimizer");
  if (s.snapshot != nullptr) {
    s.snapshot->release_sources();
    s.snapshot.reset();
  }
  s.device.gradient_square_sum(gradients(), square_sum);
  if (s.micro_batches > 0) s.device.require_finite(s.results.view(DType::f64, 1, s.micro_batches, 8), square_sum);
  s.device.adamw({.weights = weights(),
                  .gradients = gradients(),
                  .first_moments = first_moments(),
                  .second_moments = second_moments(),
                  .working_weights = s.working_view(),
                  .gradient_square_sum = square_sum,
                  .loss_scale = options.loss_scale,
                  .decayed_count = s.layout.matrix_flat_size(),
                  .step = options.step,
                  .learning_rate = options.learning_rate,
                  .beta1 = options.beta1,
                  .beta2 = options.beta2,
                  .epsilon = options.epsilon,
                  .weight_decay = options.weight_decay,
                  .clip_norm = options.clip_norm});
  std::vector<double> values(static_cast<size_t>(1 + s.micro_batches));
  s.device.copy_to_host(values.data(), square_sum.data, static_cast<int64_t>(values.size()) * 8);
  StepResult result{.gradient_norm = std::sqrt(values[0]) / options.loss_scale};
  for (size_t micro_batch = 1; micro_batch < values.size(); ++micro_batch) result.loss_sum += values[micro_batch];
  s.micro_batches = 0;
  return result;
}

double TrainingModel::optimizer_step(const OptimizerOptions& options) { return finish_step(options).gradient_norm; }

std::shared_ptr<HostCopy> TrainingModel::start_snapshot(std::span<float> weights_copy,
                                                        std::span<float> first_moments_copy,
                                                        std::span<float> second_moments_copy) {
  std::vector<HostCopyPiece> pieces;
  for (const auto& [copy, view] : {std::pair{weights_copy, weights()},
                                   {first_moments_copy, first_moments()},
                                   {second_moments_copy, second_moments()}}) {
    CBTM_ASSERT(static_cast<int64_t>(copy.size()) == view.size(), "a snapshot holds every parameter");
    pieces.push_back({copy.data(), view.data, view.size() * 4});
  }
  state_->snapshot = state_->device.start_copy_to_host(std::move(pieces));
  return state_->snapshot;
}

void TrainingModel::record_passes(bool wanted) {
  state_->recording = wanted && state_->device.records();
  state_->recorded.clear();
}

void TrainingModel::weights_changed() { state_->round_weights(); }

}  // namespace cbtm
