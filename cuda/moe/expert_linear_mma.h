#pragma once

#include "cbtm/device/moe_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

// The linear layers of a mixture's experts, one launch for all experts (cbtm/device/moe_operands.h). The functions of a
// family take what their names say; moe/expert_linear.h chooses.

/// Whether there are tensor cores for the type.
inline bool has_tensor_cores(DType dtype, int compute_capability) {
  return dtype == DType::f16 || (dtype == DType::bf16 && compute_capability >= 80);
}

/// By tensor cores: input, weight and output of one 16-bit type. A row's bits depend on neither its expert's other rows
/// nor their number.
void expert_forward_mma(Context& context, const ExpertLinearForward& arguments);
void expert_input_gradient_mma(Context& context, const ExpertLinearBackward& arguments);
void expert_weight_gradient_mma(Context& context, const ExpertLinearBackward& arguments);

}  // namespace cbtm::cuda
