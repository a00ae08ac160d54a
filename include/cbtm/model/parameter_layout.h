#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cbtm/model/opt_config.h"

namespace cbtm {

/// One tensor of a model within the flat parameter buffer.
struct Parameter {
  std::string name;  ///< without prefix: "layers.3.self_attn.q_proj.weight"
  int64_t rows = 1;  ///< 1 for vectors
  int64_t columns = 0;
  bool is_matrix = false;
  int64_t offset = 0;  ///< in elements; a multiple of 16 (64 bytes of float32), but for k and v, which follow q at once

  int64_t size() const { return rows * columns; }
};

/// Matrices that get their gradients at the same time of a backward pass: a piece of the flat buffer.
struct ParameterBucket {
  static constexpr int64_t kEmbeddings = -1;  ///< with the projections: the last in a backward pass
  int64_t layer = kEmbeddings;
  int64_t offset = 0;
  int64_t size = 0;  ///< gaps included
};

/// Where every tensor of a model lies in one flat buffer (weights, gradients and moments share it). Matrices first
/// (they are decayed), then biases and norms; the q, k, v weights of a layer lie one after another, and so do their
/// biases, so that one product makes all three. Gaps left by alignment hold zeros.
class ParameterLayout {
 public:
  /// Buckets begin and end at multiples of `bucket_multiple`, itself a multiple of 16.
  explicit ParameterLayout(const OptConfig& config, int64_t bucket_multiple = 16);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  /// All matrices: the embeddings, then a bucket a layer.
  const std::vector<ParameterBucket>& buckets() const { return buckets_; }
  /// Elements of the flat buffer, gaps included.
  int64_t flat_size() const { return flat_size_; }
  /// The first this many elements are matrices.
  int64_t matrix_flat_size() const { return matrix_flat_size_; }
  /// True parameters, without gaps.
  int64_t parameter_count() const { return parameter_count_; }
  /// Null if the model has no such tensor.
  const Parameter* find(std::string_view name) const;

 private:
  void add(std::string name, int64_t rows, int64_t columns, bool is_matrix);
  void end_bucket(int64_t layer, int64_t multiple);

  std::vector<Parameter> parameters_;
  std::vector<ParameterBucket> buckets_;
  int64_t flat_size_ = 0;
  int64_t matrix_flat_size_ = 0;
  int64_t parameter_count_ = 0;
};

}  // namespace cbtm
