#include "cbtm/model/inference.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "cbtm/base/error.h"
#include "cbtm/device/model_operators.h"
#include "cbtm/model/checkpoint.h"
#include "cbtm/model/model_memory.h"
#include "model/kv_pages.h"
#include "model/model_weights.h"
#include "model/weight_image.h"

namespace cbtm {
namespace {

/// Rows that run at once, in whole sequences: enough to keep the processor busy, few enough to bound memory.
constexpr int64_t kRowsAtOnce = 4096;

class OptInference : public InferenceModel, private WeightSource {
 public:
  OptInference(Device& device, const std::filesystem::path& directory, WeightFormat weights,
               std::shared_ptr<ModelMemory> memory)
      : device_(device),
        operators_(device.model_operators()),
        checkpoint_(OptCheckpoint::open(directory)),
        config_(checkpoint_->config()),
        layout_(checkpoint_->layout()),
        name_(directory.string()),
        image_(config_, layout_, weights),
        dtype_(weights != WeightFormat::f32 && device.computes_in(DType::bf16) ? DType::bf16 : DType::f32),
        memory_(std::move(memory)),
        own_pages_(device, config_.num_hidden_layers, config_.hidden_size, dtype_),
        pages_(memory_ != nullptr ? memory_->caches.pages(config_.num_hidden_layers, config_.hidden_size, dtype_)
                                  : own_pages_),
        scratch_(memory_ != nullptr ? memory_->scratch : own_scratch_) {
    activation_ = config_.activation_function == OptActivation::relu ? Activation::relu : Activation::gelu;
    const int64_t vector_count = layout_.flat_size() - layout_.matrix_flat_size();
    vectors_ = device_.allocate(vector_count * 4, "biases and norms");
    std::vector<float> vectors(static_cast<size_t>(vector_count));
    checkpoint_->read_vectors(vectors.data());
    device_.copy_to_device(vectors_.data(), vectors.data(), vector_count * 4);
    weight_bytes_ = image_.bytes() + vector_count * 4;
    if (memory_ != nullptr) {
      number_ = memory_->weights.add(*this, vector_count * 4);
      checkpoint_.reset();
      return;
    }

    const void* mapped = image_.mapped(*checkpoint_);
    void* matrices = mapped != nullptr ? device_.use_host_memory(mapped) : nullptr;
    if (matrices == nullptr) {
      matrices_ = device_.allocate(image_.bytes(), name_ + ": weights");
      matrices = matrices_.data();
      if (device_.use_host_memory(matrices) != nullptr) {
        image_.write(*checkpoint_, matrices);
      } else {
        std::vector<char> staging(static_cast<size_t>(image_.bytes()));
        image_.write(*checkpoint_, staging.data());
        device_.copy_to_device(matrices, staging.data(), static_cast<int64_t>(staging.size()));
      }
      checkpoint_.reset();
    }
    tensors_.emplace(image_.tensors(matrices, vectors_.data()));
  }
  OptInference(const OptInference&) = delete;
  OptInference& operator=(const OptInference&) = delete;
  ~OptInference() override {
    if (memory_ != nullptr) memory_->weights.remove(number_);
  }

  /// The shared memory says anew where the matrices are whenever they are used.
  void need_now() override {
    if (memory_ == nullptr) return;
    void* matrices = memory_->weights.weights(number_);
    if (matrices == bound_) return;
    tensors_.emplace(image_.tensors(matrices, vectors_.data()));
    bound_ = matrices;
  }
  void need_next() override {
    if (memory_ != nullptr) memory_->weights.prefetch(number_);
  }

  const OptConfig& config() const override { return config_; }
  int64_t weight_bytes() const override { return weight_bytes_; }

  void logits(const PackedTokens& tokens, std::span<float> out) override {
    CBTM_ASSERT(static_cast<int64_t>(out.size()) == tokens.rows() * config_.vocab_size, "a row of logits a token");
    for_chunks(tokens, [&](const PackedTokens& chunk, int64_t first_row) {
      const TensorView hidden = output_hidden(forward(chunk, {}), chunk.rows());
      // Logits of a few rows at a time, so that the device never holds more than a slice of them.
      constexpr int64_t kSlice = 256;
      reserve(logits_, std::min(kSlice, chunk.rows()) * config_.vocab_size * 4);
      for (int64_t row = 0; row < chunk.rows(); row += kSlice) {
        const int64_t count = std::min(kSlice, chunk.rows() - row);
        const TensorView slice = logits_.view(DType::f32, count, config_.vocab_size);
        vocabulary_logits(hidden.row_range(row, count), slice);
        device_.copy_to_host(out.data() + (first_row + row) * config_.vocab_size, slice.data,
                             count * config_.vocab_size * 4);
      }
    });
  }

  void target_log_probabilities(const PackedTokens& tokens, std::span<const int32_t> targets,
                                std::span<float> out) override {
    CBTM_ASSERT(targets.size() == tokens.ids.size() && out.size() == targets.size(), "a target a token");
    for (const int32_t target : targets)
      if (target != -100 && (target < 0 || target >= config_.vocab_size)) fail_id(target);
    for_chunks(tokens, [&](const PackedTokens& chunk, int64_t first_row) {
      const int64_t rows = chunk.rows();
      const TensorView hidden = output_hidden(forward(chunk, {}), rows);
      reserve(scratch_.losses, 2 * rows * 4);
      const TensorView target_view = scratch_.losses.view(DType::i32, 1, rows, rows * 4);
      const TensorView losses = scratch_.losses.view(DType::f32, 1, rows);
      device_.copy_to_device(target_view.data, targets.data() + first_row, rows * 4);
      operators_.output_loss({.hidden = hidden,
                              .table = tensors_->tokens,
                              .targets = target_view,
                              .losses = losses,
                              .loss_sum = {},
                              .hidden_gradient = {},
                              .table_gradient = {},
                              .table_scales = tensors_->token_scales});
      device_.copy_to_host(out.data() + first_row, losses.data, rows * 4);
      for (int64_t row = first_row; row < first_row + rows; ++row)
        out[static_cast<size_t>(row)] = -out[static_cast<size_t>(row)];
    });
  }

  int64_t open_sequence() override { return pages_.open(); }
  void close_sequence(int64_t handle) override { pages_.close(handle); }
  int64_t sequence_length(int64_t handle) const override { return pages_.length(handle); }

  Device& device() override { return device_; }

  ConstTensorView extend_on_device(std::span<const int64_t> handles, const PackedTokens& tokens) override {
    const Device::Phase phase(device_, tokens.rows() == tokens.sequences() ? "token" : "prompt");
    const int64_t count = static_cast<int64_t>(handles.size());
    CBTM_ASSERT(tokens.sequences() == count, "a run of tokens for each sequence");
    check(tokens, handles);
    const TensorView hidden = forward(tokens, handles);
    reserve(scratch_.last_rows, count * config_.hidden_size * dtype_bytes(dtype_));
    const TensorView last = scratch_.last_rows.view(dtype_, count, config_.hidden_size);
    for (int64_t s = 0; s < count; ++s)
      device_.copy(last.row_range(s, 1), hidden.row_range(tokens.offsets[static_cast<size_t>(s) + 1] - 1, 1));
    const TensorView projected = output_hidden(last, count);
    reserve(logits_, count * config_.vocab_size * 4);
    const TensorView out = logits_.view(DType::f32, count, config_.vocab_size);
    vocabulary_logits(projected, out);
    return out;
  }

 private:
  [[noreturn]] void fail_id(int32_t id) const {
    fail("{}: token id {} is outside its vocabulary of {}; the tokenizer belongs to another model", name_, id,
         config_.vocab_size);
  }

  // Of a model in shared memory the matrices are the image.
  const std::string& name() const override { return name_; }
  int64_t image_bytes() const override { return image_.bytes(); }
  void read_image(void* image) override { image_.write(opened(), image); }
  const void* map_image() override { return image_.mapped(opened()); }
  void unmap_image() override { checkpoint_.reset(); }
  const OptCheckpoint& opened() {
    if (!checkpoint_) checkpoint_.emplace(OptCheckpoint::open(name_));
    return *checkpoint_;
  }

  void check(const PackedTokens& tokens, std::span<const int64_t> handles) const {
    for (const int32_t id : tokens.ids)
      if (id < 0 || id >= config_.vocab_size) fail_id(id);
    for (int64_t s = 0; s < tokens.sequences(); ++s) {
      const auto at = static_cast<size_t>(s);
      const int64_t before = handles.empty() ? 0 : pages_.length(handles[at]);
      const int64_t length = before + tokens.offsets[at + 1] - tokens.offsets[at];
      CBTM_ASSERT(handles.empty() || tokens.offsets[at + 1] > tokens.offsets[at],
                  "a sequence is extended by something");
      if (length > config_.max_position_embeddings)
        fail("{}: a sequence of {} tokens is longer than its {} positions", name_, length,
             config_.max_position_embeddings);
    }
  }

  void reserve(DeviceBuffer& buffer, int64_t bytes) {
    if (buffer.bytes() < bytes) {
      buffer = {};
      buffer = device_.allocate(bytes, name_ + ": activations");
    }
  }

  template <typename Body>
  void for_chunks(const PackedTokens& tokens, const Body& body) {
    check(tokens, {});
    int64_t first = 0;
    while (first < tokens.sequences()) {
      const int32_t begin = tokens.offsets[static_cast<size_t>(first)];
      int64_t last = first + 1;
      while (last < tokens.sequences() && tokens.offsets[static_cast<size_t>(last) + 1] - begin <= kRowsAtOnce) ++last;
      std::vector<int32_t> offsets;
      for (int64_t s = first; s <= last; ++s) offsets.push_back(tokens.offsets[static_cast<size_t>(s)] - begin);
      const PackedTokens chunk{tokens.ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(offsets.back())),
                               offsets};
      if (chunk.rows() > 0) body(chunk, begin);
      first = last;
    }
  }

  /// The last hidden states [rows, hidden_size], after the final norm. With handles the tokens extend those sequences.
  TensorView forward(const PackedTokens& tokens, std::span<const int64_t> handles) {
    need_now();
    const int64_t rows = tokens.rows();
    const int64_t hidden = config_.hidden_size;
    constexpr int64_t kAlignment = 64;  // bytes: vectors of any width
    int64_t place = 0;
    const auto bytes_of = [&](DType dtype, int64_t columns) {
      return (rows * columns * dtype_bytes(dtype) + kAlignment - 1) / kAlignment * kAlignment;
    };
    const auto take = [&](int64_t columns) {
      const TensorView view = scratch_.activations.view(dtype_, rows, columns, place);
      place += bytes_of(dtype_, columns);
      return view;
    };
    reserve(scratch_.activations, 4 * bytes_of(dtype_, hidden) + bytes_of(dtype_, 3 * hidden) +
                                      bytes_of(dtype_, config_.ffn_dim) + bytes_of(DType::i32, 2));
    const TensorView residual = take(hidden), normalized = take(hidden), branch = take(hidden), qkv = take(3 * hidden),
                     attention = take(hidden), ffn = take(config_.ffn_dim);
    const TensorView id_view = scratch_.activations.view(DType::i32, 1, rows, place);
    const TensorView position_view = scratch_.activations.view(DType::i32, 1, rows, place + rows * 4);

    std::vector<int32_t> positions(static_cast<size_t>(rows));
    std::vector<int32_t> cached;
    if (!handles.empty()) pages_.reserve(handles, tokens.offsets);
    for (int64_t s = 0; s < tokens.sequences(); ++s) {
      const auto at = static_cast<size_t>(s);
      const int64_t before = handles.empty() ? 0 : pages_.length(handles[at]);
      for (int32_t row = tokens.offsets[at]; row < tokens.offsets[at + 1]; ++row)
        positions[static_cast<size_t>(row)] = static_cast<int32_t>(before + row - tokens.offsets[at] + kPositionOffset);
      if (handles.empty()) continue;
      pages_.extend(handles[at], tokens.offsets[at + 1] - tokens.offsets[at]);
      cached.push_back(static_cast<int32_t>(pages_.length(handles[at])));
    }
    device_.copy_to_device(id_view.data, tokens.ids.data(), rows * 4);
    device_.copy_to_device(position_view.data, positions.data(), rows * 4);
    TensorView table_view;
    if (!handles.empty()) {
      int64_t pages_max = 0;
      const std::vector<int32_t> table = pages_.block_table(handles, pages_max);
      reserve(scratch_.block_table, static_cast<int64_t>(table.size()) * 4);
      table_view = scratch_.block_table.view(DType::i32, static_cast<int64_t>(handles.size()), pages_max);
      device_.copy_to_device(table_view.data, table.data(), static_cast<int64_t>(table.size()) * 4);
    }
    embed(id_view, position_view, residual);

    const bool pre_norm = config_.do_layer_norm_before;
    const AttentionShape shape{.query_offsets = tokens.offsets,
                               .key_offsets = tokens.offsets,
                               .num_heads = config_.num_attention_heads,
                               .head_dim = config_.head_dim(),
                               .scale = 1 / std::sqrt(static_cast<float>(config_.head_dim())),
                               .dropout = {}};
    if (pre_norm) normalize(residual, {}, tensors_->layers.front().attention_norm, {}, normalized);
    for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
      const LayerTensors& w = tensors_->layers[static_cast<size_t>(layer)];
      linear(pre_norm ? normalized : residual, w.qkv, Activation::none, qkv);
      const TensorView query = qkv.column_range(0, hidden), key = qkv.column_range(hidden, hidden),
                       value = qkv.column_range(2 * hidden, hidden);
      if (handles.empty()) {
        operators_.attention_forward(
            {.shape = shape, .query = query, .key = key, .value = value, .output = attention, .log_sum_exp = {}});
      } else {
        operators_.attention_cached({.shape = shape,
                                     .cached_lengths = cached,
                                     .cache = pages_.layer(layer, table_view),
                                     .query = query,
                                     .key = key,
                                     .value = value,
                                     .output = attention});
      }
      linear(attention, w.out, Activation::none, branch);
      // Pre-norm keeps the sum as the residual; post-norm goes on with the normalised sum.
      if (pre_norm)
        normalize(residual, branch, w.ffn_norm, residual, normalized);
      else
        normalize(residual, branch, w.attention_norm, branch, residual);
      linear(pre_norm ? normalized : residual, w.fc1, activation_, ffn);
      linear(ffn, w.fc2, Activation::none, branch);
      if (!pre_norm) {
        normalize(residual, branch, w.ffn_norm, branch, residual);
        continue;
      }
      const bool last = layer + 1 == config_.num_hidden_layers;
      if (!last)
        normalize(residual, branch, tensors_->layers[static_cast<size_t>(layer) + 1].attention_norm, residual,
                  normalized);
      else if (config_.has_final_layer_norm())
        normalize(residual, branch, tensors_->final_norm, residual, normalized);
      else
        operators_.residual_layernorm_forward({.residual = residual,
                                               .branch = branch,
                                               .dropout = {},
                                               .gamma = {},
                                               .beta = {},
                                               .sum = residual,
                                               .normalized = {},
                                               .mean = {},
                                               .rstd = {}});
    }
    return pre_norm && config_.has_final_layer_norm() ? normalized : residual;
  }

  void embed(ConstTensorView ids, ConstTensorView positions, TensorView out) {
    const bool quantised = static_cast<bool>(tensors_->token_scales);
    if (!config_.has_projections() && !quantised) {
      operators_.embedding_forward({.ids = ids,
                                    .token_table = tensors_->tokens,
                                    .positions = positions,
                                    .position_table = tensors_->positions,
                                    .out = out});
      return;
    }
    TensorView rows_of_tokens = out;
    if (config_.has_projections()) {
      reserve(scratch_.narrow, out.rows * config_.word_embed_proj_dim * dtype_bytes(dtype_));
      rows_of_tokens = scratch_.narrow.view(dtype_, out.rows, config_.word_embed_proj_dim);
    }
    operators_.embedding_forward({.ids = ids,
                                  .token_table = tensors_->tokens,
                                  .positions = {},
                                  .position_table = {},
                                  .out = rows_of_tokens,
                                  .token_table_scales = tensors_->token_scales});
    if (config_.has_projections()) linear(rows_of_tokens, tensors_->project_in, Activation::none, out);
    operators_.embedding_forward({.ids = {},
                                  .token_table = {},
                                  .positions = positions,
                                  .position_table = tensors_->positions,
                                  .out = out,
                                  .accumulate = true});
  }

  /// What the output matrix multiplies: the hidden states, or their projection.
  TensorView output_hidden(TensorView hidden, int64_t rows) {
    if (!config_.has_projections()) return hidden;
    reserve(scratch_.narrow, rows * config_.word_embed_proj_dim * dtype_bytes(dtype_));
    const TensorView projected = scratch_.narrow.view(dtype_, rows, config_.word_embed_proj_dim);
    linear(hidden, tensors_->project_out, Activation::none, projected);
    return projected;
  }

  void vocabulary_logits(ConstTensorView hidden, TensorView logits) {
    linear(hidden, {tensors_->tokens, {}, tensors_->token_scales}, Activation::none, logits);
  }

  void linear(ConstTensorView input, const LinearTensors& tensors, Activation activation, TensorView output) {
    operators_.linear_forward({.input = input,
                               .weight = tensors.weight,
                               .bias = tensors.bias,
                               .activation = activation,
                               .output = output,
                               .weight_scales = tensors.weight_scales});
  }
  void normalize(ConstTensorView residual, ConstTensorView branch, const NormTensors& norm, TensorView sum,
                 TensorView normalized) {
    operators_.residual_layernorm_forward({.residual = residual,
                                           .branch = branch,
                                           .dropout = {},
                                           .gamma = norm.gamma,
                                           .beta = norm.beta,
                                           .sum = sum,
                                           .normalized = normalized,
                                           .mean = {},
                                           .rstd = {}});
  }

  Device& device_;
  ModelOperators& operators_;
  std::optional<OptCheckpoint> checkpoint_;  ///< kept only while its mapped file holds the weights
  OptConfig config_;
  ParameterLayout layout_;
  std::string name_;
  WeightImage image_;
  DType dtype_;                          ///< of activations and cache: narrow with narrow weights, if the device can
  std::shared_ptr<ModelMemory> memory_;  ///< or null: then all that follows is its own
  int64_t number_ = 0;                   ///< in the shared memory
  KeyValuePages own_pages_;
  KeyValuePages& pages_;
  ModelScratch own_scratch_;
  ModelScratch& scratch_;
  const void* bound_ = nullptr;  ///< where `tensors_` are views of
  DeviceBuffer matrices_, vectors_;
  std::optional<ModelTensors> tensors_;
  Activation activation_ = Activation::relu;
  int64_t weight_bytes_ = 0;
  DeviceBuffer logits_;
};

}  // namespace

void InferenceModel::extend(std::span<const int64_t> handles, const PackedTokens& tokens,
                            std::span<float> next_logits) {
  CBTM_ASSERT(next_logits.size() == handles.size() * static_cast<size_t>(config().vocab_size),
              "logits after each sequence");
  const ConstTensorView logits = extend_on_device(handles, tokens);
  device().copy_to_host(next_logits.data(), logits.data, logits.size() * 4);
}

std::unique_ptr<InferenceModel> InferenceModel::load(Device& device, const std::filesystem::path& directory,
                                                     WeightFormat weights, std::shared_ptr<ModelMemory> memory) {
  return std::make_unique<OptInference>(device, directory, weights, std::move(memory));
}

}  // namespace cbtm
