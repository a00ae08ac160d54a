#pragma once

#include "cbtm/device/moe_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// For few rows of 16-bit activations, weights of their type, int8 or int4: bound by reading the weights of the experts
/// that are used, once for some of their rows. A row's bits depend on neither its expert's other rows nor their number.
void expert_forward_decode(Context& context, const ExpertLinearForward& arguments);

/// Whether expert_forward_quantised takes these: int8 or int4 weights without tails.
bool expert_forward_quantised_applies(const ExpertLinearForward& arguments);
/// The same for many rows: the weights are widened in registers, for up to 128 rows at a time.
void expert_forward_quantised(Context& context, const ExpertLinearForward& arguments);

}  // namespace cbtm::cuda
