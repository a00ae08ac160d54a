#include "cbtm/train/token_stream.h"

#include <algorithm>
#include <numeric>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"

namespace cbtm {

TokenStream::TokenStream(std::vector<IndexedDataset> datasets, uint64_t seed)
    : datasets_(std::move(datasets)), seed_(seed) {
  for (size_t d = 0; d < datasets_.size(); ++d)
    for (int64_t s = 0; s < datasets_[d].sequences(); ++s) {
      if (datasets_[d].length(s) == 0) continue;
      lengths_.push_back(datasets_[d].length(s));
      document_place_.emplace_back(static_cast<int32_t>(d), s);
      tokens_ += lengths_.back();
    }
  if (tokens_ == 0) fail("the shard holds no training tokens; use a smaller --k or a larger corpus");
}

void TokenStream::load_epoch(int64_t epoch) {
  if (epoch == epoch_) return;
  order_.resize(lengths_.size());
  std::iota(order_.begin(), order_.end(), 0);
  constexpr uint64_t kShuffleStream = uint64_t{1} << 40;
  PhiloxStream random(seed_, kShuffleStream + static_cast<uint64_t>(epoch));
  for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random.next_below(i)]);
  begins_.resize(order_.size());
  int64_t begin = 0;
  for (size_t i = 0; i < order_.size(); ++i) {
    begins_[i] = begin;
    begin += lengths_[static_cast<size_t>(order_[i])];
  }
  epoch_ = epoch;
}

void TokenStream::sequence(int64_t index, int64_t length, std::span<int32_t> ids, std::vector<int32_t>& starts) {
  CBTM_ASSERT(static_cast<int64_t>(ids.size()) == length + 1, "inputs and one target more");
  starts.clear();
  int64_t place = index * length;
  int64_t filled = 0;
  while (filled < length + 1) {
    load_epoch(place / tokens_);
    const int64_t within = place % tokens_;
    auto entry = static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), within) - begins_.begin()) - 1;
    int64_t offset = within - begins_[entry];
    for (; entry < order_.size() && filled < length + 1; ++entry, offset = 0) {
      const auto document = static_cast<size_t>(order_[entry]);
      const auto& [dataset, sequence] = document_place_[document];
      const int64_t count = std::min(lengths_[document] - offset, length + 1 - filled);
      if (offset == 0 && filled > 0) starts.push_back(static_cast<int32_t>(filled));
      datasets_[static_cast<size_t>(dataset)].read(
          datasets_[static_cast<size_t>(dataset)].first_token(sequence) + offset,
          ids.subspan(static_cast<size_t>(filled), static_cast<size_t>(count)));
      filled += count;
      place += count;
    }
  }
}

}  // namespace cbtm
