#pragma once

#include <algorithm>
#include <vector>

#include "tests/operators/bounded.h"

namespace cbtm {

/// Number `rank` of some numbers in ascending order: it lies between the same number of their lower ends and that of
/// their upper ends.
inline Bounded order_statistic(const std::vector<Bounded>& numbers, int64_t rank) {
  const auto at_rank = [&](double side) {
    std::vector<double> ends;
    for (const Bounded& number : numbers) ends.push_back(number.value + side * number.error);
    std::nth_element(ends.begin(), ends.begin() + rank, ends.end());
    return ends[static_cast<size_t>(rank)];
  };
  const double value = at_rank(0);
  return {value, std::max(value - at_rank(-1), at_rank(1) - value)};
}

}  // namespace cbtm
