#pragma once

#include <functional>
#include <vector>

#include "cbtm/device/tensor.h"
#include "cbtm/model/parameter_layout.h"
#include "cbtm/model/spec.h"

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
  float epsilon = 1e-5f;
};
struct LayerTensors {
  LinearTensors qkv;  ///< [3 * width, hidden_size]: queries, keys, values one after another
  LinearTensors attention_output;
  LinearTensors router;  ///< of a mixture [experts, hidden_size]; it has no bias
  /// Of a mixture all experts' one after another: [experts * width, hidden_size] and [experts * hidden_size, width].
  LinearTensors feed_forward_in, feed_forward_out;
  NormTensors attention_norm, feed_forward_norm;
};

/// The tensors of a model (or of their gradients) as views into its buffers.
struct ModelTensors {
  LinearTensors tokens;  ///< token table [vocab_size, width]; it has no bias
  TensorView positions;  ///< [position_offset + max_length, hidden_size]
  LinearTensors output;  ///< `tokens` itself where the output is tied
  LinearTensors input_projection, output_projection;
  NormTensors final_norm;
  std::vector<LayerTensors> layers;

  /// `matrices`: the first layout.matrix_flat_size() elements, of `dtype`; `vectors`: the rest, float32. `biases`, if
  /// given: the linear layers' biases lie there instead of in `vectors`, at the same places but of `dtype`.
  ModelTensors(const ModelSpec& spec, const ParameterLayout& layout, void* matrices, DType dtype, void* vectors,
               void* biases = nullptr);
  /// `matrix` says where one lies, with those that join it (Parameter::joined).
  using MatrixPlace = std::function<MatrixTensors(const Parameter& parameter)>;
  ModelTensors(const ModelSpec& spec, const ParameterLayout& layout, void* vectors, const MatrixPlace& matrix,
               void* biases = nullptr, DType bias_dtype = DType::f32);
};

}  // namespace cbtm
