#include "model/model_weights.h"

#include <fmt/format.h>

namespace cbtm {

ModelTensors::ModelTensors(const OptConfig& config, const ParameterLayout& layout, void* matrices, DType dtype,
                           void* vectors, void* biases) {
  const auto matrix = [&](const std::string& name, int64_t rows_factor = 1) -> TensorView {
    const Parameter* parameter = layout.find(name);
    if (parameter == nullptr) return {};
    return {static_cast<char*>(matrices) + parameter->offset * dtype_bytes(dtype), dtype, parameter->rows * rows_factor,
            parameter->columns};
  };
  const auto vector = [&](const std::string& name, int64_t factor = 1) -> TensorView {
    const Parameter* parameter = layout.find(name);
    if (parameter == nullptr) return {};
    return {static_cast<float*>(vectors) + (parameter->offset - layout.matrix_flat_size()), DType::f32, 1,
            parameter->columns * factor};
  };
  const auto bias = [&](const std::string& name, int64_t factor = 1) -> TensorView {
    TensorView view = vector(name, factor);
    if (!view || biases == nullptr) return view;
    view.data =
        static_cast<char*>(biases) + (layout.find(name)->offset - layout.matrix_flat_size()) * dtype_bytes(dtype);
    view.dtype = dtype;
    return view;
  };
  const auto norm = [&](const std::string& name) {
    return NormTensors{vector(name + ".weight"), vector(name + ".bias")};
  };

  tokens = matrix("embed_tokens.weight");
  positions = matrix("embed_positions.weight");
  project_in = matrix("project_in.weight");
  project_out = matrix("project_out.weight");
  final_norm = norm("final_layer_norm");
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const std::string prefix = fmt::format("layers.{}.", layer);
    const auto linear = [&](const std::string& name) {
      return LinearTensors{matrix(prefix + name + ".weight"), bias(prefix + name + ".bias")};
    };
    layers.push_back({.qkv = {matrix(prefix + "self_attn.q_proj.weight", 3), bias(prefix + "self_attn.q_proj.bias", 3)},
                      .out = linear("self_attn.out_proj"),
                      .fc1 = linear("fc1"),
                      .fc2 = linear("fc2"),
                      .attention_norm = norm(prefix + "self_attn_layer_norm"),
                      .ffn_norm = norm(prefix + "final_layer_norm")});
  }
}

}  // namespace cbtm
