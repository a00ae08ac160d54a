#pragma once

#include "cbtm/device/device.h"
#include "context.h"

namespace cbtm::cuda {

void attention_forward(Context& context, const AttentionForward& arguments);
void attention_backward(Context& context, const AttentionBackward& arguments);

}  // namespace cbtm::cuda
