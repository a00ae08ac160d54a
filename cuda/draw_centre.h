#pragma once

#include "cbtm/device/cluster_operators.h"
#include "runtime/context.h"

namespace cbtm::cuda {

void draw_centre(Context& context, const DrawCentre& arguments);
void sum_in_order(Context& context, ConstTensorView values, TensorView sum);

}  // namespace cbtm::cuda
