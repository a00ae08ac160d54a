#pragma once

#include <cstdint>

#include "cbtm/base/philox.h"

namespace cbtm {

/// The two least of costs[b] + prices[b] over the clusters b of one point, as they are kept while prices change one by
/// one. Both are exact: whoever keeps them gets the same numbers as by looking through all clusters each time.
struct TwoLeast {
  double least;
  double second;
  int32_t cluster;  ///< where the least stands

  CBTM_HOST_DEVICE static TwoLeast none() {
    constexpr double kInfinity = __builtin_huge_val();
    return {kInfinity, kInfinity, 0};
  }
  /// Of clusters in ascending order: of equals the first.
  CBTM_HOST_DEVICE void add(double value, int32_t of_cluster) {
    if (value < least) {
      second = least;
      least = value;
      cluster = of_cluster;
    } else if (value < second) {
      second = value;
    }
  }
  /// The least over all clusters but one.
  CBTM_HOST_DEVICE double least_but(int32_t left_out) const { return cluster == left_out ? second : least; }
  /// The price of `changed`, where this point's cost is `cost`, was `before` and is now `price`. False if the two least
  /// cannot be known without looking through all clusters: about 2 / clusters of the points, those whose least or
  /// second least got dearer.
  CBTM_HOST_DEVICE bool change_price(int32_t changed, double cost, double before, double price) {
    const double value = cost + price;
    if (cluster == changed) {
      if (value > second) return false;
      least = value;
      return true;
    }
    if (value < least) {
      // The old least becomes the second: it is no larger than the old second, whoever that was.
      second = least;
      least = value;
      cluster = changed;
      return true;
    }
    if (cost + before == second && value > second) return false;  // it may have been the second
    if (value < second) second = value;
    return true;
  }
};

}  // namespace cbtm
