#pragma once

#include "cbtm/device/device.h"
#include "context.h"

namespace cbtm::cuda {

void attention_cached(Context& context, const AttentionCached& arguments);

}  // namespace cbtm::cuda
