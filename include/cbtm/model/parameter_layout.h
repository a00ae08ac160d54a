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

/// Where every tensor of a model lies in one flat buffer (weights, gradients and moments share it). Matrices first
/// (they are decayed), then biases and norms; the q, k, v weights of a layer lie one after another, and so do their
/// biases, so that one product makes all three. Gaps left by alignment hold zeros.
class ParameterLayout {
 public:
  explicit ParameterLayout(const OptConfig& config);

  const std::vector<Parameter>& parameters() const { return parameters_; }
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

  std::vector<Parameter> parameters_;
  int64_t flat_size_ = 0;
  int64_t matrix_flat_size_ = 0;
  int64_t parameter_count_ = 0;
};

}  // namespace cbtm
