#include <algorithm>
#include <cmath>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "cbtm/model/training_model.h"

namespace cbtm {

namespace {

void fill_initial(const ModelSpec& spec, uint64_t seed, std::span<float> flat) {
  const ParameterLayout layout(spec);
  CBTM_ASSERT(static_cast<int64_t>(flat.size()) == layout.flat_size(), "a flat buffer has the layout's size");
  const double residual_scale = 1 / std::sqrt(2.0 * static_cast<double>(spec.layers()));
  uint64_t stream_number = 0;
  for (const Parameter& parameter : layout.parameters()) {
    float* values = flat.data() + parameter.offset;
    PhiloxStream stream(seed, stream_number++);
    if (!parameter.is_matrix) {
      if (parameter.is_norm_weight()) std::fill_n(values, parameter.size(), 1.0f);
      continue;
    }
    const double deviation = spec.initial_deviation * (parameter.feeds_residual() ? residual_scale : 1.0);
    for (int64_t i = 0; i < parameter.size(); ++i) values[i] = static_cast<float>(deviation * stream.next_normal());
    if (parameter.role == ParameterRole::token_embedding && spec.pad_token_id >= 0 &&
        spec.pad_token_id < parameter.rows)
      std::fill_n(values + spec.pad_token_id * parameter.columns, parameter.columns, 0.0f);
  }
}

}  // namespace

std::vector<float> initial_parameters(const ModelSpec& spec, uint64_t seed) {
  std::vector<float> flat(static_cast<size_t>(ParameterLayout(spec).flat_size()));
  fill_initial(spec, seed, flat);
  return flat;
}

ParameterSource initial_weights(const ModelSpec& spec, uint64_t seed) {
  return [spec, seed](std::span<float> flat) { fill_initial(spec, seed, flat); };
}

}  // namespace cbtm
