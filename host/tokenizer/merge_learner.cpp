#include "tokenizer/merge_learner.h"

#include <algorithm>

#include "cbtm/base/error.h"
#include "cbtm/base/signals.h"
#include "tokenizer/tokenizer_data.h"

namespace cbtm {

namespace {
constexpr const char* kStage = "the tokenizer";
constexpr size_t kCellsBetweenStops = size_t{1} << 20;
}  // namespace

void MergeLearner::add(std::span<const int32_t> word, int64_t count) {
  if (cells_.size() + word.size() + 1 >= UINT32_MAX)
    fail("the different words of the corpus take over 4 GiB; learn the tokenizer from a part of it");
  const auto number = static_cast<uint32_t>(word_counts_.size());
  for (const int32_t id : word) cells_.push_back({id, 1, number});
  cells_.push_back({kBoundary, 1, 0});
  word_counts_.push_back(count);
}

MergeLearner::Pair& MergeLearner::pair_of(int32_t left, int32_t right) {
  const uint32_t number = numbers_.find_or_add(pair_key(left, right));
  if (number == pairs_.size()) pairs_.emplace_back();
  return pairs_[number];
}

void MergeLearner::remember(Pair& pair, Place place) {
  if (pair.has_place) {
    pair.places.push_back(place);
  } else {
    pair.first_place = place;
    pair.has_place = true;
  }
}

void MergeLearner::begin(int64_t min_frequency) {
  least_ = std::max<int64_t>(1, min_frequency);
  std::vector<uint64_t> keys;
  for (size_t place = 1; place + 1 < cells_.size(); ++place) {
    if (place % kCellsBetweenStops == 0) stop_if_requested(kStage);
    const int32_t left = cells_[place].id;
    const int32_t right = cells_[place + 1].id;
    if (left < 0 || right < 0) continue;
    Pair& pair = pair_of(left, right);
    if (pairs_.size() > keys.size()) keys.push_back(pair_key(left, right));
    pair.count += word_counts_[cells_[place].word];
    remember(pair, static_cast<Place>(place));
  }
  for (size_t i = 0; i < keys.size(); ++i)
    if (pairs_[i].count >= least_) queue_.push({pairs_[i].count, keys[i]});
}

bool MergeLearner::next(int32_t& left, int32_t& right) {
  while (!queue_.empty()) {
    const Candidate candidate = queue_.top();
    queue_.pop();
    const int64_t count = pairs_[numbers_.find(candidate.pair)].count;
    if (count != candidate.count) {  // counted differently since: put it back where it belongs
      if (count >= least_) queue_.push({count, candidate.pair});
      continue;
    }
    left = static_cast<int32_t>(candidate.pair >> 32);
    right = static_cast<int32_t>(candidate.pair & 0xffffffffu);
    return true;
  }
  return false;
}

void MergeLearner::gain(int32_t left, int32_t right, Place place, int64_t count) {
  Pair& pair = pair_of(left, right);
  pair.count += count;
  remember(pair, place);
  if (pair.grown) return;
  pair.grown = true;
  grown_.push_back(pair_key(left, right));
}

void MergeLearner::join_at(Place place, int32_t left, int32_t right, int32_t result) {
  Cell& first = cells_[place];
  if (first.id != left) return;  // the symbol has been joined since
  const Place second_place = place + first.length;
  Cell& second = cells_[second_place];
  if (second.id != right) return;
  const int64_t count = word_counts_[first.word];
  const uint32_t length = first.length + second.length;
  const Place behind = place + length;
  pair_of(left, right).count -= count;
  if (const int32_t after = cells_[behind].id; after >= 0) {
    pair_of(right, after).count -= count;
    gain(result, after, place, count);
  }
  if (cells_[place - 1].id != kBoundary) {
    const Place previous = place - cells_[place - 1].length;
    pair_of(cells_[previous].id, left).count -= count;
    gain(cells_[previous].id, result, previous, count);
  }
  second.id = kInside;
  first.id = result;
  first.length = length;
  cells_[behind - 1].length = length;
}

void MergeLearner::join(int32_t left, int32_t right, int32_t result) {
  std::vector<Place> places;
  {
    Pair& pair = pair_of(left, right);
    places = std::move(pair.places);
    if (pair.has_place) places.push_back(pair.first_place);
    pair.places = {};
    pair.has_place = false;
  }
  // Only "aaa" needs the order; all profit from going through the memory in one direction.
  std::sort(places.begin(), places.end());
  for (size_t i = 0; i < places.size(); ++i) {
    if (i % kCellsBetweenStops == 0) stop_if_requested(kStage);
    join_at(places[i], left, right, result);
  }
  for (const uint64_t key : grown_) {
    Pair& pair = pairs_[numbers_.find(key)];
    pair.grown = false;
    if (pair.count >= least_) queue_.push({pair.count, key});
  }
  grown_.clear();
}

}  // namespace cbtm
