#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cbtm/device/row_sums.h"
#include "runtime/sequence_tables.h"

// Which sequences of a pass over a cache are decoded, and how attention_split cuts them into pieces.

namespace cbtm::cuda {

/// Most new tokens of a sequence that attention_split takes.
constexpr int kSplitQueriesMax = 8;

/// Whether a sequence of so many new tokens is decoded. Others (prompts) go the way of training.
bool is_decoded(RowSums row_sums, int32_t new_tokens);
/// Whether decoding itself writes the new keys and values into the cache.
bool decoding_appends(RowSums row_sums, int32_t new_tokens);

/// A sequence that decodes: its newest `query_count` tokens are rows `query_row`, ... of the queries; `length` tokens
/// are cached with them, in the pages of row `sequence` of the block table.
struct SplitSequence {
  int32_t query_row;
  int32_t query_count;  ///< 1 .. kSplitQueriesMax
  int32_t sequence;
  int32_t length;
  bool appended = false;  ///< its new keys and values lie in their pages already
};
/// With RowSums::decode each new token is one of its own.
std::vector<SplitSequence> decoded_sequences(const PassSequences& pass, RowSums row_sums);

constexpr int kSplitWarps = 4;
/// A warp's share of a piece begins at a multiple of this many keys, a piece at a multiple of a block's.
constexpr int kShareGrain = 16;
constexpr int64_t kPieceGrain = kShareGrain * kSplitWarps;

/// A block's share of a sequence: keys first_key .. first_key + key_count; nothing if that is none.
struct alignas(16) Piece {
  int32_t query_row;
  int32_t query_count;
  int32_t sequence;
  int32_t length;
  int32_t first_key;
  int32_t key_count;
  int32_t slot;      ///< of its partial result; -1: the piece is all of the sequence
  int32_t appended;  ///< 1: nothing is to be written into the cache
};

/// A query whose partial results are put together: row `row` of the slots first_slot .. first_slot + pieces. None if
/// there are no pieces.
struct alignas(16) SplitQuery {
  int32_t query_row;
  int32_t row;
  int32_t first_slot;
  int32_t pieces;
};

/// How sequences are cut.
struct SplitRule {
  RowSums row_sums =
      RowSums::any;         ///< decode: by a sequence's own length only, so that its bits do not depend on others
  int64_t queries_max = 1;  ///< of a sequence
  int64_t num_heads = 0;
  int64_t multiprocessors = 0;
};
struct SplitCuts {
  std::vector<Piece> pieces;        ///< the longest first; no more slots than pieces
  std::vector<SplitQuery> queries;  ///< of sequences that were cut
};
SplitCuts cut_sequences(const PassSequences& pass, const SplitRule& rule);

}  // namespace cbtm::cuda
