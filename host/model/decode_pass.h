#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/device/row_sums.h"

namespace cbtm {

/// What the operators of a pass that reads one token of each sequence depend on, besides what lies in the device's
/// memory: passes of one key are recorded once (model/pass_records.h).
struct DecodeKey {
  int64_t rows = 0;    ///< decode_rows()
  int64_t layout = 0;  ///< of the sequences (ModelOperators::lay_out_sequences)
  int64_t pages = 0;   ///< columns of the block table
  RowSums row_sums = RowSums::any;
  std::array<const void*, 7> places{};  ///< of activations, numbers, hidden states, logits, weights, caches
  bool operator==(const DecodeKey&) const = default;
};

/// Rows of the recorded pass for so many sequences: few sizes suffice, and what is more than the sequences is padding.
inline int64_t decode_rows(int64_t sequences) {
  if (sequences <= 4) return sequences;
  return round_up(sequences, sequences <= 8 ? 2 : sequences <= 32 ? 4 : 8);
}
/// The block table's columns come in steps of so many: a record serves until its sequences have grown by as many pages.
constexpr int64_t kDecodeTableColumns = 16;
/// Records that a model keeps.
constexpr size_t kDecodesRecorded = 16;

}  // namespace cbtm
