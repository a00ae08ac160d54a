#pragma once

#include "attention/attention_params.h"
#include "attention/attention_split_cuts.h"

namespace cbtm::cuda {

/// Attention of a few new tokens a sequence over its cache, for the sequences of the pass that are decoded; the new
/// keys and values (`new_key`, `new_value`, rows as of the queries) are written into their pages on the way. The cache
/// of a sequence is cut along its length into as many pieces as keep every multiprocessor busy, a second launch puts
/// the pieces together (none if nothing was cut). In `params`, key and value are the cache's; `tables` are those of
/// `pass`. Any floating dtype, head_dim <= 256. Workspace: head_dim + 2 float32 a query, head and piece. Deterministic:
/// the pieces follow from lengths, heads and the number of multiprocessors, and are added in order.
void attention_split(Context& context, DType dtype, const AttentionParams& params, AttentionOperand new_key,
                     AttentionOperand new_value, SequenceTables& tables, const PassSequences& pass, RowSums row_sums);

}  // namespace cbtm::cuda
