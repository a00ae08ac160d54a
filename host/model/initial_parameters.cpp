#include <algorithm>
#include <cmath>

#include "cbtm/base/philox.h"
#include "cbtm/model/training_model.h"

namespace cbtm {

std::vector<float> initial_parameters(const OptConfig& config, uint64_t seed) {
  const ParameterLayout layout(config);
  std::vector<float> flat(static_cast<size_t>(layout.flat_size()), 0.0f);
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
  return flat;
}

}  // namespace cbtm
