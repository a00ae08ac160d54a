#include <algorithm>

#include "cbtm/base/utf8.h"
#include "cbtm/cluster/router.h"
#include "cluster/router_data.h"
#include "cluster/words.h"

namespace cbtm {

struct RoutingContext::State {
  const Router::Data* data;
  TermSum settled;             ///< words that no later byte can change
  std::string tail;            ///< bytes after them
  bool cased_before = false;   ///< a cased letter stands right before the tail (matters to a capital sigma)
  bool overlong_word = false;  ///< the tail continues a word longer than any in the vocabulary

  void settle();
};

/// Moves what is certain from the tail into the sum. A word is certain once it has ended; a capital sigma's form only
/// once a character has come that is neither a letter nor looked past, so with one in the tail more is waited for.
void RoutingContext::State::settle() {
  const size_t whole = tail.size() - incomplete_utf8_tail(tail);
  size_t place = 0;
  if (overlong_word) {
    while (place < whole) {
      const Utf8Step step = decode_utf8(tail, place);
      if ((character_bits(step.code_point) & kWordBit) == 0) {
        overlong_word = false;
        break;
      }
      place += step.bytes;
    }
    cased_before = true;
    tail.erase(0, place);
    if (overlong_word) return;
    return settle();
  }
  size_t certain = 0;
  bool sigma = false;
  bool cased = cased_before;
  bool cased_at_certain = cased_before;
  while (place < whole) {
    const Utf8Step step = decode_utf8(tail, place);
    const uint8_t bits = character_bits(step.code_point);
    place += step.bytes;
    sigma |= step.code_point == kCapitalSigma;
    if ((bits & kIgnoredBit) == 0) cased = (bits & kCasedBit) != 0;
    const bool breaks = (bits & kWordBit) == 0;
    const bool breaks_all = breaks && (bits & (kCasedBit | kIgnoredBit)) == 0;
    if (breaks_all) sigma = false;
    if (breaks && !sigma) {
      certain = place;
      cased_at_certain = cased;
    }
  }
  if (certain > 0) {
    settled.add(*data, lower_case(std::string_view(tail).substr(0, certain), cased_before));
    tail.erase(0, certain);
    cased_before = cased_at_certain;
  }
  // A character may take three bytes and its lower case one.
  constexpr size_t kShrink = 3;
  if (!sigma && tail.size() > kShrink * data->term_bytes_max + 64) {
    overlong_word = true;
    tail.erase(0, tail.size() - incomplete_utf8_tail(tail));
  }
}

RoutingContext::RoutingContext(const Router& router) : state_(new State{&router.data(), {}, {}}) {}
RoutingContext::~RoutingContext() = default;
RoutingContext::RoutingContext(RoutingContext&&) noexcept = default;

void RoutingContext::append(std::string_view bytes) {
  state_->tail.append(bytes);
  state_->settle();
}

void RoutingContext::squared_distances(std::span<double> out) const {
  const State& s = *state_;
  std::vector<double> embedding(static_cast<size_t>(s.data->parts.dimensions));
  bool unfinished = false;
  TermSum with_tail;
  if (!s.overlong_word && !s.tail.empty()) {
    for_each_token(lower_case(replace_invalid_utf8(s.tail), s.cased_before), [&](std::string_view token) {
      const auto found = s.data->column_of.find(token);
      if (found == s.data->column_of.end()) return;
      if (!unfinished) {
        // Only the counts of the tail's few terms are needed: the whole table is not copied.
        with_tail.sum = s.settled.sum;
        with_tail.square = s.settled.square;
        unfinished = true;
      }
      if (!with_tail.counts.contains(found->second)) {
        const auto known = s.settled.counts.find(found->second);
        with_tail.counts[found->second] = known == s.settled.counts.end() ? 0 : known->second;
      }
      with_tail.add_term(*s.data, found->second);
    });
  }
  (unfinished ? with_tail : s.settled).embedding(embedding);
  squared_distances_of(s.data->parts, embedding, out);
}

}  // namespace cbtm
