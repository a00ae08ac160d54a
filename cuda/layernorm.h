#pragma once

#include "cbtm/device/layernorm_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

// Residual + dropout + layer normalisation. Operands of an operator have one floating type, gamma and beta any; rows of
// up to kLayerNormWidthMax elements, read and written by 16 bytes where every row starts at a multiple of that.

constexpr int64_t kLayerNormWidthMax = 12288;  // that of the largest OPT model

void residual_layernorm_forward(Context& context, const ResidualLayerNormForward& arguments);

/// A sum a block for gamma and one for beta.
int64_t scratch_bytes(const Context& context, const ResidualLayerNormBackward& arguments);
/// Gradients of gamma and beta are summed in an order that depends on the shape and the number of multiprocessors.
void residual_layernorm_backward(Context& context, const ResidualLayerNormBackward& arguments);

}  // namespace cbtm::cuda
