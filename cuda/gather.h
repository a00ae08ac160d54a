#pragma once

#include "cbtm/device/embedding_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// out[r] = source[rows[r] / divisor], of the rows below *kept only, if it is given (on the device).
void gather_rows(Context& context, const GatherRows& arguments, int divisor = 1, const int32_t* kept = nullptr);

}  // namespace cbtm::cuda
