#include "model/training_pass.h"

#include <algorithm>
#include <cstring>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

/// 32-bit words of a micro-batch's ids, positions and targets, and of the dropout's place behind them.
int64_t token_words(int64_t rows) { return (3 * rows + 1) / 2 * 2 + 4; }
int64_t place_word(int64_t rows) { return token_words(rows) - 4; }

}  // namespace

TrainingPass::TrainingPass(Device& device, const ModelSpec& spec, int64_t rows, Keep keep, DType dtype,
                           TrainingParameters& parameters)
    : device_(device),
      spec_(spec),
      rows_(rows),
      parameters_(parameters),
      activation_buffer_(
          device.allocate(activation_bytes(device.model_operators(), spec, rows, keep, dtype), "activations")),
      token_buffer_(device.allocate(token_bytes(rows), "token ids")),
      activations_(place_activations(activation_buffer_.data(), device.model_operators(), spec, rows, keep, dtype)),
      weights_(parameters.weight_tensors()),
      gradients_(parameters.gradient_tensors()),
      pass_{.device = device_, .spec = spec_, .weights = weights_, .activations = activations_, .batch = {}} {
  if (activations_.statistics) device.fill_zero(activations_.statistics);
}

int64_t TrainingPass::token_bytes(int64_t rows) { return token_words(rows) * 4; }

/// Ids, positions, targets and the place of the dropout, one after another.
void TrainingPass::fill_token_values(const PackedTokens& tokens, std::span<const int32_t> targets) {
  const int64_t rows = tokens.rows();
  token_values_.assign(static_cast<size_t>(token_words(rows)), 0);
  const auto part = [&](int64_t number) {
    return std::span(token_values_).subspan(static_cast<size_t>(number * rows), static_cast<size_t>(rows));
  };
  std::ranges::copy(tokens.ids, part(0).begin());
  for (size_t s = 0; s + 1 < tokens.offsets.size(); ++s)
    for (int32_t row = tokens.offsets[s]; row < tokens.offsets[s + 1]; ++row)
      part(1)[static_cast<size_t>(row)] =
          row - tokens.offsets[s] + static_cast<int32_t>(spec_.embedding.position_offset);
  std::ranges::copy(targets, part(2).begin());
  const int64_t place[] = {options_.step, options_.first_row};
  std::memcpy(token_values_.data() + place_word(rows), place, sizeof place);
}

void TrainingPass::load(const PackedTokens& tokens, std::span<const int32_t> targets, const BackwardOptions* options,
                        bool dropout_place) {
  options_ = options != nullptr ? *options : BackwardOptions{};
  const int64_t rows = tokens.rows();
  CBTM_ASSERT(rows > 0 && rows <= rows_, "a micro-batch fits the plan");
  CBTM_ASSERT(static_cast<int64_t>(targets.size()) == rows, "a target a token");
  fill_token_values(tokens, targets);
  device_.copy_to_device(token_buffer_.data(), token_values_.data(), token_words(rows) * 4);
  const auto view = [&](int64_t number) { return token_buffer_.view(DType::i32, 1, rows, number * rows * 4); };
  targets_ = view(2);
  layout_ = device_.model_operators().lay_out_sequences(
      {.query_offsets = tokens.offsets, .key_offsets = tokens.offsets, .cached_lengths = {}});
  pass_.gradients = options != nullptr ? &gradients_ : nullptr;
  pass_.batch = {.offsets = tokens.offsets, .ids = view(0), .positions = view(1), .dropout = {}};
  pass_.batch.dropout = {.probability = options_.dropout,
                         .seed = options_.seed,
                         .step = options_.step,
                         .first_row = options_.first_row,
                         .attention_columns = options_.dropout_columns,
                         .place = {}};
  pass_.batch.gradient_scale = options_.gradient_scale;
  if (dropout_place) pass_.batch.dropout.place = token_buffer_.view(DType::i64, 1, 2, place_word(rows) * 4);
}

void TrainingPass::forward() { cbtm::forward(pass_); }

void TrainingPass::loss(TensorView total) {
  device_.fill_zero(total);
  output_loss(pass_, {.targets = targets_,
                      .losses = pass_.cut_values(activations_.losses),
                      .loss_sum = total,
                      .gradient_scale = options_.gradient_scale});
}

void TrainingPass::backward() {
  cbtm::backward(pass_, [this](int64_t layer) {
    if (options_.completes_step) parameters_.start_exchange(layer);
  });
  if (options_.completes_step) parameters_.start_rest_of_exchange();
}

}  // namespace cbtm
