#include "cbtm/model/inference_memory.h"

#include "cbtm/model/parameter_layout.h"
#include "model/weight_image.h"

namespace cbtm {

int64_t inference_weight_bytes(const ModelSpec& spec, WeightFormat format) {
  const ParameterLayout layout(spec);
  return WeightImage(spec, layout, format).bytes() + (layout.flat_size() - layout.matrix_flat_size()) * 4;
}

}  // namespace cbtm
