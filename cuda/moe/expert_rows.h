#pragma once

#include "cbtm/device/moe_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

// Tokens to the sorted rows of their experts and back (cbtm/device/moe_operands.h).

void gather_expert_rows(Context& context, const GatherExpertRows& arguments);
void scatter_expert_rows(Context& context, const ScatterExpertRows& arguments);
void combine_expert_rows(Context& context, const CombineExpertRows& arguments);
void combine_expert_rows_backward(Context& context, const CombineExpertRowsBackward& arguments);

}  // namespace cbtm::cuda
