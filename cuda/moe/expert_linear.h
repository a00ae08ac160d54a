#pragma once

#include "cbtm/device/moe_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// The linear layers of all experts of a mixture (cbtm/device/moe_operands.h), each in one launch. Input and output
/// have one type; weights have that type, or in the forward pass any narrower one that LinearForward takes. They need
/// no scratch memory.
void expert_linear_forward(Context& context, const ExpertLinearForward& arguments);
void expert_linear_backward(Context& context, const ExpertLinearBackward& arguments);

/// bias_gradient_e += column sums of the expert's rows.
void expert_bias_gradient(Context& context, const ExpertLinearBackward& arguments);

}  // namespace cbtm::cuda
