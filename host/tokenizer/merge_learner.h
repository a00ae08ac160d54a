#pragma once

#include <cstdint>
#include <queue>
#include <span>
#include <vector>

#include "tokenizer/pair_table.h"

namespace cbtm {

/// Finds the pairs to join, one after the other, when a byte-level BPE is learnt.
///
/// All words lie one after another in one array. A join changes the symbols where its pair stands and the counts of
/// their neighbours, and looks at nothing else. Memory: 12 bytes for each byte of the different words, 4 for each place
/// of a pair, about 70 for each different pair.
class MergeLearner {
 public:
  MergeLearner() : cells_(1, Cell{kBoundary, 1, 0}) {}

  /// A word of at least two symbols that the corpus has `count` times. Throws Error if all words together are too long.
  void add(std::span<const int32_t> word, int64_t count);
  /// After the last word: counts the pairs. Those seen less often than `min_frequency` are never joined.
  void begin(int64_t min_frequency);

  /// The pair to join next: the highest count, then the smallest left id, then the smallest right id. False if none is
  /// left.
  bool next(int32_t& left, int32_t& right);
  /// Joins the pair everywhere, from left to right without overlap.
  void join(int32_t left, int32_t right, int32_t result);

 private:
  using Place = uint32_t;
  static constexpr int32_t kInside = -1;    ///< a cell that belongs to the symbol that begins before it
  static constexpr int32_t kBoundary = -2;  ///< between two words

  struct Cell {
    int32_t id;       ///< in the first cell of a symbol; else kInside or kBoundary
    uint32_t length;  ///< cells of the symbol: in its first and in its last cell
    uint32_t word;
  };
  struct Pair {
    int64_t count = 0;
    Place first_place = 0;  ///< where the left symbol begins; most pairs stand at one place only
    bool has_place = false;
    bool grown = false;              ///< is in grown_
    std::vector<Place> places = {};  ///< all further ones; some may be outdated
  };
  struct Candidate {
    int64_t count;
    uint64_t pair;
    /// The queue's top is the highest count, then the smallest ids.
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  Pair& pair_of(int32_t left, int32_t right);
  void remember(Pair& pair, Place place);
  void gain(int32_t left, int32_t right, Place place, int64_t count);
  void join_at(Place place, int32_t left, int32_t right, int32_t result);

  std::vector<Cell> cells_;
  std::vector<int64_t> word_counts_;
  PairTable numbers_;
  std::vector<Pair> pairs_;      ///< by number
  std::vector<uint64_t> grown_;  ///< keys of the pairs that this join has made more frequent
  std::priority_queue<Candidate> queue_;
  int64_t least_ = 1;
};

}  // namespace cbtm
