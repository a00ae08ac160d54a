#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cbtm/device/tensor.h"
#include "cbtm/model/opt_config.h"
#include "cbtm/model/parameter_layout.h"

namespace cbtm {

// A view is empty where the model has no such tensor.

/// A matrix, and its scales if it is quantised (LinearForward in cbtm/device/linear_operands.h).
struct MatrixTensors {
  TensorView values, scales;
};
struct LinearTensors {
  TensorView weight, bias, weight_scales;
};
struct NormTensors {
  TensorView gamma, beta;
};
struct LayerTensors {
  LinearTensors qkv;  ///< [3 hidden_size, hidden_size]: q, k, v one after another
  LinearTensors out;
  LinearTensors fc1, fc2;
  NormTensors attention_norm;  ///< self_attn_layer_norm
  NormTensors ffn_norm;        ///< the layer's final_layer_norm
};

/// The tensors of a model (or of their gradients) as views into its buffers.
struct ModelTensors {
  TensorView tokens;  ///< [vocab_size, word_embed_proj_dim]; input and output matrix
  TensorView token_scales;
  TensorView positions;  ///< [max_position_embeddings + 2, hidden_size]
  LinearTensors project_in, project_out;
  NormTensors final_norm;
  std::vector<LayerTensors> layers;

  /// `matrices`: the first layout.matrix_flat_size() elements, of `dtype`; `vectors`: the rest, float32. `biases`, if
  /// given: the linear layers' biases lie there instead of in `vectors`, at the same places but of `dtype`.
  ModelTensors(const OptConfig& config, const ParameterLayout& layout, void* matrices, DType dtype, void* vectors,
               void* biases = nullptr);
  /// `matrix` says where one lies, by its name; that of q_proj stands for q, k and v together.
  using MatrixPlace = std::function<MatrixTensors(const std::string& name)>;
  ModelTensors(const OptConfig& config, const ParameterLayout& layout, void* vectors, const MatrixPlace& matrix,
               void* biases = nullptr, DType bias_dtype = DType::f32);
};

inline constexpr int64_t kPositionOffset = 2;  ///< first row of embed_positions that is used

}  // namespace cbtm
