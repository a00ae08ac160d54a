#pragma once

#include "cbtm/device/output_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// Logits of a chunk of rows at a time, in scratch memory. With gradients they
/// have the type of `hidden` and `table` (one for both) and become their own gradients in place; without, they are
/// float32 whatever the weights, since nothing but the loss is wanted of them.
int64_t scratch_bytes(const Context& context, const OutputLoss& arguments);
void output_loss(Context& context, const OutputLoss& arguments);

}  // namespace cbtm::cuda
