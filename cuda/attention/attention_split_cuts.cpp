#include "attention/attention_split_cuts.h"

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"

namespace cbtm::cuda {
namespace {

constexpr int64_t kBlocksPerMultiprocessor = 4;
/// Fewest keys of a piece: its partial result, float32, is then about 1/60 of the 16-bit keys and values it comes from
/// for one query, 1/30 for more.
constexpr int64_t piece_keys_min(int64_t queries) { return std::max<int64_t>(64, 32 * queries); }
/// Fewest keys of a piece where a sequence is cut by its own length only: with many sequences there are more pieces
/// than needed, and each writes a partial result.
constexpr int64_t kIndependentPieceKeysMin = 128;

}  // namespace

bool is_decoded(RowSums row_sums, int32_t new_tokens) {
  switch (row_sums) {
    case RowSums::decode: return true;
    case RowSums::prompt: return false;
    case RowSums::any: break;
  }
  return new_tokens <= kSplitQueriesMax;
}

/// Not where several new tokens of a sequence are decoded one by one: one would read what another writes.
bool decoding_appends(RowSums row_sums, int32_t new_tokens) {
  return row_sums == RowSums::decode ? new_tokens == 1 : is_decoded(row_sums, new_tokens);
}

std::vector<SplitSequence> decoded_sequences(const PassSequences& pass, RowSums row_sums) {
  std::vector<SplitSequence> decoded;
  for (size_t s = 0; s < pass.cached_lengths.size(); ++s) {
    const int32_t begin = pass.query_offsets[s];
    const int32_t count = pass.query_offsets[s + 1] - begin;
    CBTM_ASSERT(pass.cached_lengths[s] >= count, "the new tokens are among the cached ones");
    if (count == 0 || !is_decoded(row_sums, count)) continue;
    const auto sequence = static_cast<int32_t>(s);
    const int32_t length = pass.cached_lengths[s];
    if (row_sums != RowSums::decode) {
      decoded.push_back({begin, count, sequence, length});
      continue;
    }
    for (int32_t i = 0; i < count; ++i)
      decoded.push_back({begin + i, 1, sequence, length - count + i + 1, !decoding_appends(row_sums, count)});
  }
  return decoded;
}

SplitCuts cut_sequences(const PassSequences& pass, const SplitRule& rule) {
  const std::vector<SplitSequence> sequences = decoded_sequences(pass, rule.row_sums);
  int64_t keys = 0;
  for (const SplitSequence& sequence : sequences) keys += sequence.length;
  const auto piece_keys_of = [&](int64_t least, int64_t cached) {
    const int64_t blocks_wanted = kBlocksPerMultiprocessor * rule.multiprocessors;
    return round_up(std::max(least, ceil_divide(cached * rule.num_heads, blocks_wanted)), kPieceGrain);
  };
  SplitCuts cuts;
  int32_t slots = 0;
  for (const SplitSequence& sequence : sequences) {
    const int64_t piece_keys = rule.row_sums == RowSums::decode
                                   ? piece_keys_of(kIndependentPieceKeysMin, sequence.length)
                                   : piece_keys_of(piece_keys_min(rule.queries_max), keys);
    const int64_t count = ceil_divide(sequence.length, piece_keys);
    const int64_t even = round_up(ceil_divide(sequence.length, count), kPieceGrain);  // pieces of one size
    const auto pieces = static_cast<int32_t>(ceil_divide(sequence.length, even));
    for (int32_t i = 0; i < pieces; ++i) {
      const auto first = static_cast<int32_t>(i * even);
      cuts.pieces.push_back({.query_row = sequence.query_row,
                             .query_count = sequence.query_count,
                             .sequence = sequence.sequence,
                             .length = sequence.length,
                             .first_key = first,
                             .key_count = std::min(static_cast<int32_t>(even), sequence.length - first),
                             .slot = pieces == 1 ? -1 : slots + i,
                             .appended = sequence.appended ? 1 : 0});
    }
    if (pieces == 1) continue;
    for (int32_t row = 0; row < sequence.query_count; ++row)
      cuts.queries.push_back({sequence.query_row + row, row, slots, pieces});
    slots += pieces;
  }
  std::stable_sort(cuts.pieces.begin(), cuts.pieces.end(),
                   [](const Piece& a, const Piece& b) { return a.key_count > b.key_count; });
  return cuts;
}

}  // namespace cbtm::cuda
