#pragma once

#include "cbtm/device/attention_operands.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// Attention over a paged key-value cache, as AttentionCached of the device seam defines it: writes the new keys and
/// values into their pages, then attends from the new queries to everything cached. float32, bfloat16 or float16, all
/// operands and the cache of one dtype; head_dim <= 256. Sequences of at most kSplitQueriesMax new tokens are decoded
/// by attention_split.h, one or two launches for all of them; for others two launches, the copy and the forward kernel
/// of training, which reads keys and values page by page (tensor cores where attention_forward has them). With
/// RowSums::decode every new token is decoded, each as a sequence of its own. Workspace: attention_split's.
void attention_cached(Context& context, const AttentionCached& arguments);

}  // namespace cbtm::cuda
