#include <queue>

#include "tokenizer/tokenizer_data.h"

namespace cbtm {
namespace {

struct Symbol {
  int32_t id;
  int32_t previous;  ///< place, or -1
  int32_t next;      ///< place, or -1; kGone once joined to its left neighbour
};
constexpr int32_t kGone = -2;

struct Candidate {
  int32_t rank;
  int32_t place;  ///< of the left symbol
  int32_t left, right;
  int32_t result;
  bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : place > other.place; }
};

/// Short pieces: look for the best pair anew after every join.
void encode_short(const Tokenizer::Data& data, std::vector<int32_t>& ids, size_t begin) {
  while (ids.size() - begin > 1) {
    int32_t best_rank = INT32_MAX;
    int32_t result = 0;
    size_t place = 0;
    for (size_t i = begin; i + 1 < ids.size(); ++i) {
      const auto found = data.merge_of_pair.find(pair_key(ids[i], ids[i + 1]));
      if (found == data.merge_of_pair.end() || found->second.rank >= best_rank) continue;
      best_rank = found->second.rank;
      result = found->second.result;
      place = i;
    }
    if (best_rank == INT32_MAX) return;
    ids[place] = result;
    ids.erase(ids.begin() + static_cast<int64_t>(place) + 1);
  }
}

/// Long pieces: a heap of candidate pairs over a linked list; outdated candidates are skipped when they come up.
void encode_long(const Tokenizer::Data& data, std::vector<int32_t>& ids, size_t begin) {
  const auto count = static_cast<int32_t>(ids.size() - begin);
  std::vector<Symbol> symbols(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i)
    symbols[static_cast<size_t>(i)] = {ids[begin + static_cast<size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1};
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto at = [&](int32_t place) -> Symbol& { return symbols[static_cast<size_t>(place)]; };
  const auto offer = [&](int32_t place) {
    if (place < 0 || at(place).next < 0) return;
    const int32_t left = at(place).id;
    const int32_t right = at(at(place).next).id;
    const auto found = data.merge_of_pair.find(pair_key(left, right));
    if (found != data.merge_of_pair.end())
      candidates.push({found->second.rank, place, left, right, found->second.result});
  };
  for (int32_t place = 0; place + 1 < count; ++place) offer(place);
  while (!candidates.empty()) {
    const Candidate candidate = candidates.top();
    candidates.pop();
    Symbol& left = at(candidate.place);
    if (left.next == kGone || left.next < 0 || left.id != candidate.left || at(left.next).id != candidate.right)
      continue;
    Symbol& right = at(left.next);
    left.id = candidate.result;
    left.next = right.next;
    right.next = kGone;
    if (left.next >= 0) at(left.next).previous = candidate.place;
    offer(left.previous);
    offer(candidate.place);
  }
  ids.resize(begin);
  for (int32_t place = 0; place >= 0; place = at(place).next) ids.push_back(at(place).id);
}

}  // namespace

void encode_pretoken(const Tokenizer::Data& data, std::string_view piece, std::vector<int32_t>& ids) {
  constexpr size_t kShort = 24;
  const size_t begin = ids.size();
  if (data.ignore_merges)
    if (const auto found = data.id_of_piece.find(piece); found != data.id_of_piece.end())
      return ids.push_back(found->second);
  for (const char byte : piece)
    if (const int32_t id = data.byte_ids[static_cast<uint8_t>(byte)]; id >= 0) ids.push_back(id);
  if (ids.size() - begin <= kShort) {
    encode_short(data, ids, begin);
  } else {
    encode_long(data, ids, begin);
  }
}

}  // namespace cbtm
