#include "cbtm/model/parameter_layout.h"

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"

namespace cbtm {
namespace {

constexpr int64_t kAlignmentElements = 16;
constexpr int64_t kNoLayer = -1;

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
    for (const ParameterRole role : {ParameterRole::query, ParameterRole::key, ParameterRole::value})
      add_matrix(role, layer, block.attention.width(), hidden);
    add_matrix(ParameterRole::attention_output, layer, hidden, block.attention.width());
    add_matrix(ParameterRole::feed_forward_in, layer, block.feed_forward.width, hidden);
    add_matrix(ParameterRole::feed_forward_out, layer, hidden, block.feed_forward.width);
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
    const auto add_bias = [&](ParameterRole role, int64_t columns) {
      add_vector(role, ParameterPart::bias, layer, columns);
    };
    if (block.attention.biases) {
      for (const ParameterRole role : {ParameterRole::query, ParameterRole::key, ParameterRole::value})
        add_bias(role, block.attention.width());
      add_bias(ParameterRole::attention_output, hidden);
    }
    if (block.feed_forward.biases) {
      add_bias(ParameterRole::feed_forward_in, block.feed_forward.width);
      add_bias(ParameterRole::feed_forward_out, hidden);
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

void ParameterLayout::add(Parameter parameter) {
  parameter.offset = flat_size_;
  parameters_.push_back(parameter);
  parameter_count_ += parameter.size();
  flat_size_ += parameter.size();
  // Queries, keys and values stay adjacent without a gap: their rows are then one matrix. Their sizes are equal, so
  // only widths that are not multiples of 16 leave keys and values unaligned, and those are read unaligned.
  const bool joined_with_next = parameter.role == ParameterRole::query || parameter.role == ParameterRole::key;
  if (!joined_with_next) flat_size_ = round_up(flat_size_, kAlignmentElements);
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
