#include "cbtm/model/parameter_layout.h"

#include <fmt/format.h>

#include <utility>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

constexpr int64_t kAlignmentElements = 16;

}  // namespace

ParameterLayout::ParameterLayout(const OptConfig& config, int64_t bucket_multiple) {
  CBTM_ASSERT(bucket_multiple % kAlignmentElements == 0, "buckets keep the alignment of what is in them");
  const int64_t hidden = config.hidden_size;
  const auto layer_name = [](int64_t layer, std::string_view rest) { return fmt::format("layers.{}.{}", layer, rest); };

  add("embed_tokens.weight", config.vocab_size, config.word_embed_proj_dim, true);
  add("embed_positions.weight", config.max_position_embeddings + 2, hidden, true);
  if (config.has_projections()) {
    add("project_in.weight", hidden, config.word_embed_proj_dim, true);
    add("project_out.weight", config.word_embed_proj_dim, hidden, true);
  }
  end_bucket(ParameterBucket::kEmbeddings, bucket_multiple);
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (const char* part : {"q_proj", "k_proj", "v_proj", "out_proj"})
      add(layer_name(layer, fmt::format("self_attn.{}.weight", part)), hidden, hidden, true);
    add(layer_name(layer, "fc1.weight"), config.ffn_dim, hidden, true);
    add(layer_name(layer, "fc2.weight"), hidden, config.ffn_dim, true);
    end_bucket(layer, bucket_multiple);
  }
  matrix_flat_size_ = flat_size_;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (config.enable_bias) {
      for (const char* part : {"q_proj", "k_proj", "v_proj", "out_proj"})
        add(layer_name(layer, fmt::format("self_attn.{}.bias", part)), 1, hidden, false);
      add(layer_name(layer, "fc1.bias"), 1, config.ffn_dim, false);
      add(layer_name(layer, "fc2.bias"), 1, hidden, false);
    }
    if (config.layer_norm_elementwise_affine)
      for (const char* norm : {"self_attn_layer_norm", "final_layer_norm"})
        for (const char* part : {"weight", "bias"})
          add(layer_name(layer, fmt::format("{}.{}", norm, part)), 1, hidden, false);
  }
  if (config.has_final_layer_norm() && config.layer_norm_elementwise_affine)
    for (const char* part : {"final_layer_norm.weight", "final_layer_norm.bias"}) add(part, 1, hidden, false);
}

void ParameterLayout::add(std::string name, int64_t rows, int64_t columns, bool is_matrix) {
  parameters_.push_back(Parameter{std::move(name), rows, columns, is_matrix, flat_size_});
  parameter_count_ += rows * columns;
  // q, k and v stay adjacent without a gap: their rows are then one matrix. Their sizes are equal, so only hidden sizes
  // that are not multiples of 16 leave q and k unaligned, and those read unaligned.
  const std::string& added = parameters_.back().name;
  const bool fused_with_next = added.find("q_proj") != std::string::npos || added.find("k_proj") != std::string::npos;
  flat_size_ += rows * columns;
  if (!fused_with_next) flat_size_ = (flat_size_ + kAlignmentElements - 1) / kAlignmentElements * kAlignmentElements;
}

void ParameterLayout::end_bucket(int64_t layer, int64_t multiple) {
  const int64_t begin = buckets_.empty() ? 0 : buckets_.back().offset + buckets_.back().size;
  flat_size_ = (flat_size_ + multiple - 1) / multiple * multiple;
  buckets_.push_back({.layer = layer, .offset = begin, .size = flat_size_ - begin});
}

const Parameter* ParameterLayout::find(std::string_view name) const {
  for (const Parameter& parameter : parameters_)
    if (parameter.name == name) return &parameter;
  return nullptr;
}

}  // namespace cbtm
