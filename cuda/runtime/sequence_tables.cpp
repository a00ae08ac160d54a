#include "runtime/sequence_tables.h"

#include <algorithm>
#include <bit>
#include <map>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/base/error.h"
#include "runtime/check.h"
#include "runtime/not_recordable.h"

namespace cbtm::cuda {

int64_t table_room(int64_t rows) {
  if (rows <= 4) return rows;
  const auto below = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(rows - 1)));
  return round_up(rows, below / (below < 16 ? 2 : 4));
}

bool SequenceTables::capturing() const {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  CBTM_CUDA(cudaStreamIsCapturing(stream_, &capture));
  return capture != cudaStreamCaptureStatusNone;
}

void SequenceTables::copy(int64_t offset, const std::vector<int32_t>& words) {
  if (!words.empty())
    staging_.copy(memory_.data() + offset, words.data(), static_cast<int64_t>(words.size()) * 4, stream_);
}

/// A layout without tables for the pass.
void SequenceTables::start_layout() {
  if (layouts_.size() == kLayoutsMax) layouts_.pop_back();
  layouts_.push_front({.number = next_number_++, .cached = !cached_lengths_.empty(), .tables = {}});
}

void SequenceTables::lay_out(const PassSequences& sequences) {
  if (laid_out_ && std::ranges::equal(sequences.query_offsets, query_offsets_) &&
      std::ranges::equal(sequences.key_offsets, key_offsets_) &&
      std::ranges::equal(sequences.cached_lengths, cached_lengths_))
    return;
  if (capturing()) throw NotRecordable();
  query_offsets_.assign(sequences.query_offsets.begin(), sequences.query_offsets.end());
  key_offsets_.assign(sequences.key_offsets.begin(), sequences.key_offsets.end());
  cached_lengths_.assign(sequences.cached_lengths.begin(), sequences.cached_lengths.end());
  laid_out_ = true;

  std::map<Key, Words> made;
  const auto words_of = [&](const Table& table) -> const Words& {
    const auto found = made.find(table.key);
    return found != made.end() ? found->second : made.emplace(table.key, table.make(current())).first->second;
  };
  const auto fitting = std::ranges::find_if(layouts_, [&](const Layout& layout) {
    return layout.cached == !cached_lengths_.empty() && std::ranges::all_of(layout.tables, [&](const Table& table) {
             return table_room(words_of(table).rows()) == table.room;
           });
  });
  if (fitting == layouts_.end()) return start_layout();
  layouts_.splice(layouts_.begin(), layouts_, fitting);

  // Tables that lie one behind the other go by one copy.
  std::vector<int32_t> joined;
  int64_t begin = 0;
  for (const Table& table : layouts_.front().tables) {
    if (begin + static_cast<int64_t>(joined.size()) * 4 != table.offset) {
      copy(begin, joined);
      joined.clear();
      begin = table.offset;
    }
    const Words& words = words_of(table);
    joined.insert(joined.end(), words.words.begin(), words.words.end());
    joined.resize(static_cast<size_t>(table.offset + table.bytes - begin) / 4, 0);
  }
  copy(begin, joined);
}

const SequenceTables::Table& SequenceTables::find_or_make(const Key& key, Maker make) {
  CBTM_ASSERT(laid_out_, "the sequences of the pass are known");
  std::vector<Table>& tables = layouts_.front().tables;
  if (const auto found = std::ranges::find(tables, key, &Table::key); found != tables.end()) return *found;
  if (capturing()) throw NotRecordable();
  Words words = make(current());
  Table table{.key = key, .make = std::move(make), .room = table_room(words.rows())};
  table.bytes = round_up(std::max<int64_t>(table.room * words.row_words * 4, 1), kAlignment);
  constexpr int64_t kHalf = kBytes / 2;
  if (table.bytes > kHalf) fail("{} sequences in one call; use fewer at a time", query_offsets_.size());
  if (used_ + table.bytes > kHalf) {  // what this operator has been given stays in the other half
    layouts_.clear();
    used_ = 0;
    second_half_ = !second_half_;
    start_layout();
  }
  table.offset = used_ + (second_half_ ? kHalf : 0);
  used_ += table.bytes;
  words.words.resize(static_cast<size_t>(table.bytes) / 4, 0);
  copy(table.offset, words.words);
  layouts_.front().tables.push_back(std::move(table));
  return layouts_.front().tables.back();
}

}  // namespace cbtm::cuda
