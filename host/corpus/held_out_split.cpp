#include <algorithm>

#include "cbtm/base/hash.h"
#include "cbtm/corpus/corpus.h"

namespace cbtm {

HeldOutSplit HeldOutSplit::for_corpus(int64_t documents, double valid_fraction, int64_t minimum) {
  constexpr double kMost = 0.25;
  constexpr double kMargin = 1.3;  // the hash deals documents out at random: some more than the minimum are aimed at
  const double needed = documents > 0 ? kMargin * static_cast<double>(minimum) / static_cast<double>(documents) : kMost;
  const double fraction = std::min(kMost, std::max(valid_fraction, needed));
  return {fraction, fraction};
}

Split HeldOutSplit::side(std::string_view text) const {
  constexpr uint64_t kSplitSeed = 0x63627463;  // another hash than the one that finds duplicates
  const double u = static_cast<double>(hash64(text, kSplitSeed)) * 0x1p-64;
  if (u < valid_fraction) return Split::valid;
  return u >= 1 - tune_fraction ? Split::tune : Split::train;
}

}  // namespace cbtm
