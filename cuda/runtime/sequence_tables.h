#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <list>
#include <utility>
#include <vector>

#include "cbtm/device/attention_operands.h"
#include "runtime/device_memory.h"
#include "runtime/pinned_memory.h"

namespace cbtm::cuda {

/// Room for so many rows of a table: 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ... are the steps, a quarter of a
/// power of two each. What is launched for the room serves every table that needs it.
int64_t table_room(int64_t rows);

/// A table on the device: `room` rows, of which those that are not needed are zeros, behind the others.
template <typename Row>
struct SequenceTable {
  const Row* rows = nullptr;
  int64_t room = 0;
};

/// What kernels read of the sequences of a pass (tiles of queries, pieces of a cache, ...): tables that are made once a
/// pass and stay where they are. Passes whose tables take the same room have one layout: the next one writes its tables
/// where those of the last one were, so a recorded pass can be run again for other sequences.
///
/// A table is made when it is first asked for, and with every later pass of that layout when the pass is laid out, all
/// of them by one copy. In stream order: earlier operators still read what they were given.
class SequenceTables {
 public:
  SequenceTables(StagingRing& staging, cudaStream_t stream) : staging_(staging), stream_(stream) {}

  /// The sequences of the operators that follow. Nothing happens if they are those of the last call.
  /// Throws NotRecordable (not_recordable.h) if the stream is captured and they are not.
  void lay_out(const PassSequences& sequences);
  /// The number of the layout: two passes of one number are launched in the same way. Never used again when the layout
  /// has been forgotten (kLayoutsMax, kBytes). It may change until every operator of a pass has run once.
  int64_t layout() const { return layouts_.front().number; }

  /// What a table is: its kind and the numbers that it is made with besides the sequences.
  using Key = std::array<int64_t, 4>;
  /// The table of this key. `make(sequences)` gives its rows, and depends on nothing but the key and the sequences; it
  /// is kept, so what it refers to must last. Throws NotRecordable if the stream is captured and there is none yet.
  template <typename Row, typename Make>
  SequenceTable<Row> get(const Key& key, Make make) {
    static_assert(sizeof(Row) % 4 == 0 && alignof(Row) <= kAlignment);
    const Table& table = find_or_make(key, [make = std::move(make)](const PassSequences& sequences) {
      const std::vector<Row> rows = make(sequences);
      Words words{.words = std::vector<int32_t>(rows.size() * sizeof(Row) / 4), .row_words = sizeof(Row) / 4};
      if (!rows.empty()) std::memcpy(words.words.data(), rows.data(), rows.size() * sizeof(Row));
      return words;
    });
    return {reinterpret_cast<const Row*>(memory_.data() + table.offset), table.room};
  }

  /// Of all tables. When a half is full all layouts are forgotten, and the other half is used.
  static constexpr int64_t kBytes = int64_t{12} << 20;
  static constexpr size_t kLayoutsMax = 8;  ///< the least recently used one is forgotten

 private:
  static constexpr int64_t kAlignment = 256;
  struct Words {
    std::vector<int32_t> words;
    int64_t row_words = 1;
    int64_t rows() const { return static_cast<int64_t>(words.size()) / row_words; }
  };
  using Maker = std::function<Words(const PassSequences&)>;
  struct Table {
    Key key{};
    Maker make;
    int64_t room = 0;    ///< rows
    int64_t offset = 0;  ///< in the memory, a multiple of kAlignment
    int64_t bytes = 0;   ///< up to the next such multiple
  };
  struct Layout {
    int64_t number = 0;
    bool cached = false;  ///< of passes over a cache
    std::vector<Table> tables;
  };

  bool capturing() const;
  PassSequences current() const { return {query_offsets_, key_offsets_, cached_lengths_}; }
  void start_layout();
  const Table& find_or_make(const Key& key, Maker make);
  void copy(int64_t offset, const std::vector<int32_t>& words);

  StagingRing& staging_;
  cudaStream_t stream_;
  DeviceMemory memory_{kBytes, "sequence tables"};
  int64_t used_ = 0;  ///< of the half
  bool second_half_ = false;
  int64_t next_number_ = 1;
  std::list<Layout> layouts_;  ///< the last used first; that of the pass is the first one
  bool laid_out_ = false;
  std::vector<int32_t> query_offsets_, key_offsets_, cached_lengths_;  ///< of the pass
};

}  // namespace cbtm::cuda
