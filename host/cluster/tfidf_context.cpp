#include <algorithm>

#include "cbtm/base/utf8.h"
#include "cbtm/cluster/tfidf_router.h"
#include "cluster/tfidf_router_data.h"
#include "cluster/words.h"

namespace cbtm {
namespace {

/// An append costs what its own words cost, however long the text is: the unnormalised embedding is kept, and a word is
/// added when it is complete. The last, possibly unfinished word counts as it is.
class TfidfContext : public RoutingContext {
 public:
  explicit TfidfContext(const TfidfRouter::Data& data) : data_(data) {}

  void append(std::string_view bytes) override {
    tail_.append(bytes);
    settle();
  }
  void squared_distances(std::span<double> out) const override;

 private:
  void settle();

  const TfidfRouter::Data& data_;
  TermSum settled_;             ///< words that no later byte can change
  std::string tail_;            ///< bytes after them
  bool cased_before_ = false;   ///< a cased letter stands right before the tail (matters to a capital sigma)
  bool overlong_word_ = false;  ///< the tail continues a word longer than any in the vocabulary
};

/// Moves what is certain from the tail into the sum. A word is certain once it has ended; a capital sigma's form only
/// once a character has come that is neither a letter nor looked past, so with one in the tail more is waited for.
void TfidfContext::settle() {
  const size_t whole = tail_.size() - incomplete_utf8_tail(tail_);
  size_t place = 0;
  if (overlong_word_) {
    while (place < whole) {
      const Utf8Step step = decode_utf8(tail_, place);
      if ((character_bits(step.code_point) & kWordBit) == 0) {
        overlong_word_ = false;
        break;
      }
      place += step.bytes;
    }
    cased_before_ = true;
    tail_.erase(0, place);
    if (overlong_word_) return;
    return settle();
  }
  size_t certain = 0;
  bool sigma = false;
  bool cased = cased_before_;
  bool cased_at_certain = cased_before_;
  while (place < whole) {
    const Utf8Step step = decode_utf8(tail_, place);
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
    settled_.add(data_, lower_case(std::string_view(tail_).substr(0, certain), cased_before_));
    tail_.erase(0, certain);
    cased_before_ = cased_at_certain;
  }
  // A character may take three bytes and its lower case one.
  constexpr size_t kShrink = 3;
  if (!sigma && tail_.size() > kShrink * data_.term_bytes_max + 64) {
    overlong_word_ = true;
    tail_.erase(0, tail_.size() - incomplete_utf8_tail(tail_));
  }
}

void TfidfContext::squared_distances(std::span<double> out) const {
  std::vector<double> embedding(static_cast<size_t>(data_.parts.dimensions));
  bool unfinished = false;
  TermSum with_tail;
  if (!overlong_word_ && !tail_.empty()) {
    for_each_token(lower_case(replace_invalid_utf8(tail_), cased_before_), [&](std::string_view token) {
      const auto found = data_.column_of.find(token);
      if (found == data_.column_of.end()) return;
      if (!unfinished) {
        // Only the counts of the tail's few terms are needed: the whole table is not copied.
        with_tail.sum = settled_.sum;
        with_tail.square = settled_.square;
        unfinished = true;
      }
      if (!with_tail.counts.contains(found->second)) {
        const auto known = settled_.counts.find(found->second);
        with_tail.counts[found->second] = known == settled_.counts.end() ? 0 : known->second;
      }
      with_tail.add_term(data_, found->second);
    });
  }
  (unfinished ? with_tail : settled_).embedding(data_.parts, embedding);
  squared_distances_of(data_.parts, embedding, out);
}

}  // namespace

std::unique_ptr<RoutingContext> TfidfRouter::context() const { return std::make_unique<TfidfContext>(*data_); }

}  // namespace cbtm
