#pragma once

#include <cstdint>

#include "cbtm/model/spec.h"
#include "cbtm/model/weight_format.h"

namespace cbtm {

/// Bytes of memory that a model's weights take for inference: matrices in `format` as they lie on a device, biases and
/// norms in float32. What InferenceModel::weight_bytes() gives, without loading the model.
int64_t inference_weight_bytes(const ModelSpec& spec, WeightFormat format);

}  // namespace cbtm
