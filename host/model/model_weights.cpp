#include "model/model_weights.h"

#include <fmt/format.h>

namespace cbtm {
namespace {

bool is_query(const std::string& name) { return name.find("q_proj") != std::string::npos; }

}  // namespace

ModelTensors::ModelTensors(const OptConfig& config, const ParameterLayout& layout, void* matrices, DType dtype,
                           void* vectors, void* biases)
    : ModelTensors(
          config, layout, vectors,
          [&](const std::string& name) -> MatrixTensors {
            const Parameter* parameter = layout.find(name);
            if (parameter == nullptr) return {};
            return {{static_cast<char*>(matrices) + parameter->offset * dtype_bytes(dtype), dtype,
                     parameter->rows * (is_query(name) ? 3 : 1), parameter->columns},
                    {}};
          },
          biases, dtype) {}

ModelTensors::ModelTensors(const OptConfig& config, const ParameterLayout& layout, void* vectors,
                           const MatrixPlace& matrix, void* biases, DType bias_dtype) {
  const auto vector = [&](const std::string& name) -> TensorView {
    const Parameter* parameter = layout.find(name);
    if (parameter == nullptr) return {};
    return {static_cast<float*>(vectors) + (parameter->offset - layout.matrix_flat_size()), DType::f32, 1,
            parameter->columns * (is_query(name) ? 3 : 1)};
  };
  const auto bias = [&](const std::string& name) -> TensorView {
    TensorView view = vector(name);
    if (!view || biases == nullptr) return view;
    view.data =
        static_cast<char*>(biases) + (layout.find(name)->offset - layout.matrix_flat_size()) * dtype_bytes(bias_dtype);
    view.dtype = bias_dtype;
    return view;
  };
  const auto norm = [&](const std::string& name) {
    return NormTensors{vector(name + ".weight"), vector(name + ".bias")};
  };
  const auto linear = [&](const std::string& name) {
    const auto [values, scales] = matrix(name + ".weight");
    return LinearTensors{values, bias(name + ".bias"), scales};
  };

  const MatrixTensors table = matrix("embed_tokens.weight");
  tokens = table.values;
  token_scales = table.scales;
  positions = matrix("embed_positions.weight").values;
  project_in = linear("project_in");
  project_out = linear("project_out");
  final_norm = norm("final_layer_norm");
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const std::string prefix = fmt::format("layers.{}.", layer);
    layers.push_back({.qkv = linear(prefix + "self_attn.q_proj"),
                      .out = linear(prefix + "self_attn.out_proj"),
                      .fc1 = linear(prefix + "fc1"),
                      .fc2 = linear(prefix + "fc2"),
                      .attention_norm = norm(prefix + "self_attn_layer_norm"),
                      .ffn_norm = norm(prefix + "final_layer_norm")});
  }
}

}  // namespace cbtm
