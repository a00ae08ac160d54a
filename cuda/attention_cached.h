#pragma once

#include "cbtm/device/device.h"
#include "context.h"

namespace cbtm::cuda {

/// Attention over a paged key-value cache, as AttentionCached of the device seam defines it: writes the new keys and
/// values into their pages, then attends from the new queries to everything cached. float32, bfloat16 or float16, all
/// operands and the cache of one dtype; head_dim <= 256. Two launches: the copy, and the forward kernel of training,
/// which reads keys and values page by page (tensor cores where attention_forward has them). A block owns all keys of
/// its queries: with few sequences and heads a long cache does not use every multiprocessor.
/// No workspace.
void attention_cached(Context& context, const AttentionCached& arguments);

}  // namespace cbtm::cuda
