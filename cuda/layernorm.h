#pragma once

#include "cbtm/device/device.h"
#include "context.h"

namespace cbtm::cuda {

void residual_layernorm_forward(Context& context, const ResidualLayerNormForward& arguments);
void residual_layernorm_backward(Context& context, const ResidualLayerNormBackward& arguments);

}  // namespace cbtm::cuda
