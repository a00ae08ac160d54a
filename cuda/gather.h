#pragma once

#include "cbtm/device/embedding_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

void gather_rows(Context& context, const GatherRows& arguments);

}  // namespace cbtm::cuda
