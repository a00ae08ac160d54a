#pragma once

#include <vector>

#include "cbtm/device/tensor.h"
#include "cbtm/model/opt_config.h"
#include "cbtm/model/parameter_layout.h"

namespace cbtm {

/// One linear layer's or norm's tensors; a view is empty where the model has no such tensor.
struct LinearTensors {
  TensorView weight, bias;
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

/// The tensors of a model (or of their gradients) as views into its flat buffers.
struct ModelTensors {
  TensorView tokens;     ///< [vocab_size, word_embed_proj_dim]; input and output matrix
  TensorView positions;  ///< [max_position_embeddings + 2, hidden_size]
  TensorView project_in, project_out;
  NormTensors final_norm;
  std::vector<LayerTensors> layers;

  /// `matrices`: the first layout.matrix_flat_size() elements, of `dtype`; `vectors`: the rest, float32. `biases`, if
  /// given: the linear layers' biases lie there instead of in `vectors`, at the same places but of `dtype`.
  ModelTensors(const OptConfig& config, const ParameterLayout& layout, void* matrices, DType dtype, void* vectors,
               void* biases = nullptr);
};

inline constexpr int64_t kPositionOffset = 2;  ///< first row of embed_positions that is used

}  // namespace cbtm
