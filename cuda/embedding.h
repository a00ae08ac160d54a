#pragma once

#include "cbtm/device/embedding_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

void embedding_forward(Context& context, const EmbeddingForward& arguments);
/// Sorted entries, and sums of their pieces.
int64_t scratch_bytes(const Context& context, const EmbeddingBackward& arguments);
void embedding_backward(Context& context, const EmbeddingBackward& arguments);

}  // namespace cbtm::cuda
