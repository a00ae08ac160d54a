#pragma once

#include <cstdint>
#include <vector>

#include "cbtm/model/spec.h"

namespace cbtm {

/// What a parameter is for.
enum class ParameterRole : uint8_t {
  token_embedding,
  position_embedding,
  input_projection,   ///< from the token table's width to hidden_size
  output_projection,  ///< back
  output_matrix,      ///< where it is not the token table
  query,
  key,
  value,
  attention_output,
  router,  ///< of a mixture of experts
  feed_forward_in,
  feed_forward_out,
  attention_norm,
  feed_forward_norm,
  final_norm,
};
enum class ParameterPart : uint8_t { weight, bias };

/// One tensor of a model: a slot within the flat parameter buffer.
struct Parameter {
  ParameterRole role = ParameterRole::token_embedding;
  ParameterPart part = ParameterPart::weight;
  int64_t layer = -1;   ///< -1 outside of the blocks
  int64_t expert = -1;  ///< of a mixture's feed-forwards; else -1
  int64_t rows = 1;     ///< 1 for vectors
  int64_t columns = 0;
  bool is_matrix = false;
  int64_t offset = 0;  ///< in elements; a multiple of 16 (64 bytes of float32), unless it joins another
  /// Parameters that lie one after another without a gap from this one on, so that they are one matrix or vector: of
  /// queries (with keys and values) 3, of expert 0 all experts; 0 for those that join one before.
  int64_t joined = 1;

  int64_t size() const { return rows * columns; }
  /// The weight of a norm: 1 at first.
  bool is_norm_weight() const {
    return part == ParameterPart::weight &&
           (role == ParameterRole::attention_norm || role == ParameterRole::feed_forward_norm ||
            role == ParameterRole::final_norm);
  }
  /// A matrix whose product is added to the residual.
  bool feeds_residual() const {
    return is_matrix && (role == ParameterRole::attention_output || role == ParameterRole::feed_forward_out);
  }
};

/// Matrices that get their gradients at the same time of a backward pass: a piece of the flat buffer.
struct ParameterBucket {
  static constexpr int64_t kEmbeddings = -1;  ///< with the projections: the last in a backward pass
  int64_t layer = kEmbeddings;
  int64_t offset = 0;
  int64_t size = 0;  ///< gaps included
};

/// The parameters that follow from a spec, and where each lies in one flat buffer (weights, gradients and moments share
/// it). Matrices first (they are decayed), then biases and norms; the query, key and value weights of a layer lie one
/// after another, and so do their biases, so that one product makes all three. The same holds for the experts of a
/// mixture: all their first matrices, then all their second ones. Gaps left by alignment hold zeros.
class ParameterLayout {
 public:
  /// Buckets begin and end at multiples of `bucket_multiple`, itself a multiple of 16.
  explicit ParameterLayout(const ModelSpec& spec, int64_t bucket_multiple = 16);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  /// All matrices: the embeddings, then a bucket a layer.
  const std::vector<ParameterBucket>& buckets() const { return buckets_; }
  /// Elements of the flat buffer, gaps included.
  int64_t flat_size() const { return flat_size_; }
  /// The first this many elements are matrices.
  int64_t matrix_flat_size() const { return matrix_flat_size_; }
  /// True parameters, without gaps.
  int64_t parameter_count() const { return parameter_count_; }
  /// Those that take part in a token's pass: of a mixture the router and two experts.
  int64_t active_parameter_count() const;
  /// Null if the model has no such parameter; of experts the first.
  const Parameter* find(ParameterRole role, ParameterPart part = ParameterPart::weight, int64_t layer = -1) const;

 private:
  void add_matrices(const ModelSpec& spec, int64_t bucket_multiple);
  void add_vectors(const ModelSpec& spec);
  void add_matrix(ParameterRole role, int64_t layer, int64_t rows, int64_t columns);
  void add_vector(ParameterRole role, ParameterPart part, int64_t layer, int64_t columns);
  void add_joined(std::vector<Parameter> parameters);
  void add(Parameter parameter);
  void end_bucket(int64_t layer, int64_t multiple);

  std::vector<Parameter> parameters_;
  std::vector<ParameterBucket> buckets_;
  int64_t flat_size_ = 0;
  int64_t matrix_flat_size_ = 0;
  int64_t parameter_count_ = 0;
};

}  // namespace cbtm
