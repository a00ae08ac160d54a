#include "cbtm/model/parameter_layout.h"

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "cbtm/device/moe_operands.h"

namespace cbtm {
namespace {

constexpr int64_t kAlignmentElements = 16;
constexpr int64_t kNoLayer = -1;

/// A parameter for queries, keys and values each.
std::vector<Parameter> attention_inputs(Parameter parameter) {
  std::vector<Parameter> all;
  for (const ParameterRole role : {ParameterRole::query, ParameterRole::key, ParameterRole::value}) {
    parameter.role = role;
    all.push_back(parameter);
  }
  return all;
}

/// A parameter of a feed-forward; of a mixture one for each expert.
std::vector<Parameter> experts(Parameter parameter, const FeedForwardSpec& feed_forward) {
  if (!feed_forward.is_mixture()) return {parameter};
  std::vector<Parameter> all;
  for (parameter.expert = 0; parameter.expert < feed_forward.experts; ++parameter.expert) all.push_back(parameter);
  return all;
}

}  // namespace

ParameterLayout::ParameterLayout(const ModelSpec& spec, int64_t bucket_multiple) {
  CBTM_ASSERT(bucket_multiple % kAlignmentElements == 0, "buckets keep the alignment of what is in them");
  CBTM_ASSERT(!spec.blocks.empty(), "a model has a block");
  add_matrices(spec, bucket_multiple);
  matrix_flat_size_ = flat_size_;
  add_vectors(spec);
}

void ParameterLayout::add_matrices(const ModelSpec& spec, int64_t bucket_multiple) {
  const EmbeddingSpec& embedding = spec.embedding;
  const int64_t hidden = spec.hidden_size;
  add_matrix(ParameterRole::token_embedding, kNoLayer, embedding.vocab_size, embedding.width);
  add_matrix(ParameterRole::position_embedding, kNoLayer, embedding.position_offset + embedding.max_length, hidden);
  if (spec.has_projections()) {
    add_matrix(ParameterRole::input_projection, kNoLayer, hidden, embedding.width);
    add_matrix(ParameterRole::output_projection, kNoLayer, embedding.width, hidden);
  }
  if (!spec.tied_output) add_matrix(ParameterRole::output_matrix, kNoLayer, embedding.vocab_size, embedding.width);
  end_bucket(ParameterBucket::kEmbeddings, bucket_multiple);
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    const BlockSpec& block = spec.block(layer);
    add_joined(
        attention_inputs({.layer = layer, .rows = block.attention.width(), .columns = hidden, .is_matrix = true}));
    add_matrix(ParameterRole::attention_output, layer, hidden, block.attention.width());
    const FeedForwardSpec& feed_forward = block.feed_forward;
    if (feed_forward.is_mixture()) add_matrix(ParameterRole::router, layer, feed_forward.experts, hidden);
    add_joined(experts({.role = ParameterRole::feed_forward_in,
                        .layer = layer,
                        .rows = feed_forward.width,
                        .columns = hidden,
                        .is_matrix = true},
                       feed_forward));
    add_joined(experts({.role = ParameterRole::feed_forward_out,
                        .layer = layer,
                        .rows = hidden,
                        .columns = feed_forward.width,
                        .is_matrix = true},
                       feed_forward));
    end_bucket(layer, bucket_multiple);
  }
}

void ParameterLayout::add_vectors(const ModelSpec& spec) {
  const int64_t hidden = spec.hidden_size;
  const auto add_norm = [&](ParameterRole role, int64_t layer, const NormSpec& norm) {
    if (!norm.affine) return;
    add_vector(role, ParameterPart::weight, layer, hidden);
    add_vector(role, ParameterPart::bias, layer, hidden);
  };
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    const BlockSpec& block = spec.block(layer);
    const auto bias = [&](ParameterRole role, int64_t columns) -> Parameter {
      return {.role = role, .part = ParameterPart::bias, .layer = layer, .columns = columns};
    };
    if (block.attention.biases) {
      add_joined(attention_inputs(bias(ParameterRole::query, block.attention.width())));
      add(bias(ParameterRole::attention_output, hidden));
    }
    const FeedForwardSpec& feed_forward = block.feed_forward;
    if (feed_forward.biases) {
      add_joined(experts(bias(ParameterRole::feed_forward_in, feed_forward.width), feed_forward));
      add_joined(experts(bias(ParameterRole::feed_forward_out, hidden), feed_forward));
    }
    add_norm(ParameterRole::attention_norm, layer, block.attention_norm);
    add_norm(ParameterRole::feed_forward_norm, layer, block.feed_forward_norm);
  }
  if (spec.final_norm) add_norm(ParameterRole::final_norm, kNoLayer, *spec.final_norm);
}

void ParameterLayout::add_matrix(ParameterRole role, int64_t layer, int64_t rows, int64_t columns) {
  add({.role = role, .layer = layer, .rows = rows, .columns = columns, .is_matrix = true});
}

void ParameterLayout::add_vector(ParameterRole role, ParameterPart part, int64_t layer, int64_t columns) {
  add({.role = role, .part = part, .layer = layer, .columns = columns});
}

// Their sizes are equal, so only sizes that are not multiples of 16 leave those after the first unaligned, and they are
// read unaligned.
void ParameterLayout::add_joined(std::vector<Parameter> parameters) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    parameters[i].joined = i == 0 ? static_cast<int64_t>(parameters.size()) : 0;
    parameters[i].offset = flat_size_ + static_cast<int64_t>(i) * parameters[0].size();
    parameters_.push_back(parameters[i]);
  }
  const int64_t size = static_cast<int64_t>(parameters.size()) * parameters[0].size();
  parameter_count_ += size;
  flat_size_ = round_up(flat_size_ + size, kAlignmentElements);
}

void ParameterLayout::add(Parameter parameter) { add_joined({parameter}); }

int64_t ParameterLayout::active_parameter_count() const {
  int64_t count = 0;
  for (const Parameter& parameter : parameters_)
    if (parameter.expert < kExpertsPerToken) count += parameter.size();
  return count;
}

void ParameterLayout::end_bucket(int64_t layer, int64_t multiple) {
  const int64_t begin = buckets_.empty() ? 0 : buckets_.back().offset + buckets_.back().size;
  flat_size_ = round_up(flat_size_, multiple);
  buckets_.push_back({.layer = layer, .offset = begin, .size = flat_size_ - begin});
}

const Parameter* ParameterLayout::find(ParameterRole role, ParameterPart part, int64_t layer) const {
  for (const Parameter& parameter : parameters_)
    if (parameter.role == role && parameter.part == part && parameter.layer == layer) return &parameter;
  return nullptr;
}

}  // namespace cbtm
