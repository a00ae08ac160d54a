#pragma once

#include "cbtm/device/moe_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// By float32 arithmetic: float32 input, bias and output, weights of any type. A row's bits depend on neither its
/// expert's other rows nor their number.
void expert_forward_f32(Context& context, const ExpertLinearForward& arguments);
/// Of float32 operands.
void expert_input_gradient_f32(Context& context, const ExpertLinearBackward& arguments);
void expert_weight_gradient_f32(Context& context, const ExpertLinearBackward& arguments);

}  // namespace cbtm::cuda
