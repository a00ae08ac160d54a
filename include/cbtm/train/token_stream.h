#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "cbtm/dataset/indexed_dataset.h"

namespace cbtm {

/// An endless stream of training tokens: the documents of one or more datasets one after another, in a new random order
/// in every epoch (docs/method.md, 'Training').
///
/// Sequence g of length S holds the tokens [g S, g S + S]: S inputs and, shifted by one, S targets. Every token of an
/// epoch is a target exactly once. Any sequence can be asked for at any time, so to go on later only the step has to be
/// known. Throws Error if there are no tokens.
class TokenStream {
 public:
  TokenStream(std::vector<IndexedDataset> datasets, uint64_t seed);

  int64_t tokens_per_epoch() const { return tokens_; }
  int64_t documents() const { return static_cast<int64_t>(lengths_.size()); }
  /// Fills ids [length + 1]. `starts` receives the offsets (other than 0) at which a document begins.
  void sequence(int64_t index, int64_t length, std::span<int32_t> ids, std::vector<int32_t>& starts);
  /// The memory that the order of an epoch will take, from its first sequence on.
  int64_t order_bytes() const { return documents() * static_cast<int64_t>(sizeof order_[0] + sizeof begins_[0]); }
  const std::vector<IndexedDataset>& datasets() const { return datasets_; }

 private:
  void load_epoch(int64_t epoch);

  std::vector<IndexedDataset> datasets_;
  uint64_t seed_;
  std::vector<int64_t> lengths_;                             ///< of all documents
  std::vector<std::pair<int32_t, int64_t>> document_place_;  ///< dataset and sequence of each document
  int64_t tokens_ = 0;
  int64_t epoch_ = -1;
  std::vector<int32_t> order_;   ///< documents of the loaded epoch
  std::vector<int64_t> begins_;  ///< index of the first token of each within the epoch
};

}  // namespace cbtm
