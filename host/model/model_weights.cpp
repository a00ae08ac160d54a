#include "model/model_weights.h"

namespace cbtm {
ModelTensors::ModelTensors(const ModelSpec& spec, const ParameterLayout& layout, void* matrices, DType dtype,
                           void* vectors, void* biases)
    : ModelTensors(
          spec, layout, vectors,
          [&](const Parameter& parameter) -> MatrixTensors {
            return {{static_cast<char*>(matrices) + parameter.offset * dtype_bytes(dtype), dtype,
                     parameter.rows * parameter.joined, parameter.columns},
                    {}};
          },
          biases, dtype) {}

ModelTensors::ModelTensors(const ModelSpec& spec, const ParameterLayout& layout, void* vectors,
                           const MatrixPlace& matrix, void* biases, DType bias_dtype) {
  const auto vector = [&](ParameterRole role, ParameterPart part, int64_t layer) -> TensorView {
    const Parameter* parameter = layout.find(role, part, layer);
    if (parameter == nullptr) return {};
    return {static_cast<float*>(vectors) + (parameter->offset - layout.matrix_flat_size()), DType::f32, 1,
            parameter->columns * parameter->joined};
  };
  const auto bias = [&](ParameterRole role, int64_t layer) -> TensorView {
    TensorView view = vector(role, ParameterPart::bias, layer);
    if (!view || biases == nullptr) return view;
    const int64_t offset = layout.find(role, ParameterPart::bias, layer)->offset - layout.matrix_flat_size();
    view.data = static_cast<char*>(biases) + offset * dtype_bytes(bias_dtype);
    view.dtype = bias_dtype;
    return view;
  };
  const auto norm = [&](ParameterRole role, int64_t layer, const NormSpec& norm_spec) {
    return NormTensors{vector(role, ParameterPart::weight, layer), vector(role, ParameterPart::bias, layer),
                       static_cast<float>(norm_spec.epsilon)};
  };
  const auto linear = [&](ParameterRole role, int64_t layer = -1) -> LinearTensors {
    const Parameter* parameter = layout.find(role, ParameterPart::weight, layer);
    if (parameter == nullptr) return {};
    const auto [values, scales] = matrix(*parameter);
    return {values, bias(role, layer), scales};
  };

  tokens = linear(ParameterRole::token_embedding);
  positions = linear(ParameterRole::position_embedding).weight;
  output = spec.tied_output ? tokens : linear(ParameterRole::output_matrix);
  input_projection = linear(ParameterRole::input_projection);
  output_projection = linear(ParameterRole::output_projection);
  if (spec.final_norm) final_norm = norm(ParameterRole::final_norm, -1, *spec.final_norm);
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    const BlockSpec& block = spec.block(layer);
    layers.push_back({.qkv = linear(ParameterRole::query, layer),
                      .attention_output = linear(ParameterRole::attention_output, layer),
                      .router = linear(ParameterRole::router, layer),
                      .feed_forward_in = linear(ParameterRole::feed_forward_in, layer),
                      .feed_forward_out = linear(ParameterRole::feed_forward_out, layer),
                      .attention_norm = norm(ParameterRole::attention_norm, layer, block.attention_norm),
                      .feed_forward_norm = norm(ParameterRole::feed_forward_norm, layer, block.feed_forward_norm)});
  }
}

}  // namespace cbtm
