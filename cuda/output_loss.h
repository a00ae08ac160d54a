#pragma once

#include "cbtm/device/device.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// Logits of a chunk of rows at a time, in scratch memory of at most output_loss_workspace_bytes. With gradients they
/// have the type of `hidden` and `table` (one for both) and become their own gradients in place; without, they are
/// float32 whatever the weights, since nothing but the loss is wanted of them.
void output_loss(Context& context, const OutputLoss& arguments);

int64_t output_loss_workspace_bytes(int64_t rows, int64_t vocab_size);

}  // namespace cbtm::cuda
