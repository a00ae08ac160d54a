#include <algorithm>
#include <cmath>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "cbtm/model/training_model.h"

namespace cbtm {

namespace {

void fill_initial(const OptConfig& config, uint64_t seed, std::span<float> flat) {
  const ParameterLayout layout(config);
  CBTM_ASSERT(static_cast<int64_t>(flat.size()) == layout.flat_size(), "a flat buffer has the layout's size");
  const double residual_scale = 1 / std::sqrt(2.0 * static_cast<double>(config.num_hidden_layers));
  uint64_t stream_number = 0;
  for (const Parameter& parameter : layout.parameters()) {
    float* values = flat.data() + parameter.offset;
    PhiloxStream stream(seed, stream_number++);
    if (!parameter.is_matrix) {
      const bool gamma = parameter.name.find("layer_norm.weight") != std::string::npos;
      if (gamma) std::fill_n(values, parameter.size(), 1.0f);
      continue;
    }
    const bool feeds_residual = parameter.name.find("out_proj.weight") != std::string::npos ||
                                parameter.name.find("fc2.weight") != std::string::npos;
    const double deviation = config.init_std * (feeds_residual ? residual_scale : 1.0);
    for (int64_t i = 0; i < parameter.size(); ++i) values[i] = static_cast<float>(deviation * stream.next_normal());
    if (parameter.name == "embed_tokens.weight" && config.pad_token_id >= 0 && config.pad_token_id < parameter.rows)
      std::fill_n(values + config.pad_token_id * parameter.columns, parameter.columns, 0.0f);
  }
}

}  // namespace

std::vector<float> initial_parameters(const OptConfig& config, uint64_t seed) {
  std::vector<float> flat(static_cast<size_t>(ParameterLayout(config).flat_size()));
  fill_initial(config, seed, flat);
  return flat;
}

WeightSource initial_weights(const OptConfig& config, uint64_t seed) {
  return [config, seed](std::span<float> flat) { fill_initial(config, seed, flat); };
}

}  // namespace cbtm
