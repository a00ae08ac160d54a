#pragma once

#include <span>

#include "attention/attention_params.h"

namespace cbtm::cuda {

/// Most new tokens of a sequence that attention_split takes.
constexpr int kSplitQueriesMax = 8;

/// A sequence that decodes: its newest `query_count` tokens are rows `query_row`, ... of the queries; `length` tokens
/// are cached with them, in the pages of row `sequence` of the block table.
struct SplitSequence {
  int32_t query_row;
  int32_t query_count;  ///< 1 .. kSplitQueriesMax
  int32_t sequence;
  int32_t length;
  bool appended = false;  ///< its new keys and values lie in their pages already
};

/// Attention of a few new tokens a sequence over its cache, the new keys and values (`new_key`, `new_value`, rows as of
/// the queries) written into their pages on the way. The cache of a sequence is cut along its length into as many
/// pieces as keep every multiprocessor busy, a second launch puts the pieces together (none if nothing was cut). In
/// `params`, key and value are the cache's. `independent`: how a sequence is cut depends on its own length only, not on
/// the other sequences, so that its bits do not either. Any floating dtype, head_dim <= 256. Workspace: head_dim + 2
/// float32 a query, head and piece. Deterministic: the pieces follow from lengths, heads and the number of
/// multiprocessors, and are added in order.
void attention_split(Context& context, DType dtype, const AttentionParams& params, AttentionOperand new_key,
                     AttentionOperand new_value, std::span<const SplitSequence> sequences, bool independent);

}  // namespace cbtm::cuda
