#pragma once

#include "cbtm/device/optimizer_operators.h"
#include "runtime/context.h"

namespace cbtm::cuda {

void gradient_square_sum(Context& context, ConstTensorView gradients, TensorView square_sum);
void adamw(Context& context, const AdamW& arguments);

}  // namespace cbtm::cuda
