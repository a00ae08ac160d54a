#pragma once

#include "cbtm/device/tensor.h"
#include "runtime/context.h"

namespace cbtm::cuda {

void gram(Context& context, ConstTensorView x, TensorView product);
void solve_upper(Context& context, ConstTensorView upper, TensorView y);

}  // namespace cbtm::cuda
