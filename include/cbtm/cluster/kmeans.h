#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cbtm/device/device.h"

namespace cbtm {

enum class KMeansInit : uint8_t { plus_plus, random };

struct KMeansOptions {
  int64_t clusters = 8;
  bool balanced = true;  ///< equal cluster sizes while the centres are found (as in the paper)
  KMeansInit init = KMeansInit::plus_plus;
  int64_t restarts = 3;  ///< number of starts; the result of the lowest objective is kept
  int64_t iterations_max = 20;
  uint64_t seed = 1234;
  std::vector<int64_t> capacities;  ///< exact sizes of balanced clusters; empty: equal sizes
  /// Called after every iteration with start, iteration and objective.
  std::function<void(int64_t, int64_t, double)> progress;
};

struct KMeansResult {
  std::vector<float> centroids;    ///< [clusters, dimensions]
  std::vector<int32_t> labels;     ///< from the last assignment
  std::vector<double> objectives;  ///< per iteration: Σ squared distance to the centroids of its assignment
  std::vector<std::vector<int32_t>> label_history;  ///< labels of every iteration, if asked for
  double relative_gap = 0;                          ///< of the last balanced assignment; 0 when not balanced
  int64_t restart = 0;

  double objective() const { return objectives.back(); }
};

/// Balanced k-means on rows [n, dimensions] float32 (docs/method.md, 'Balanced k-means'). Distances are squared
/// Euclidean, the balanced assignment is exact, and centres are means in float64. Ends when no label changes, or at
/// iterations_max. An empty cluster (only possible when unbalanced) gets the row that is farthest from its centre.
///
/// Throws Error if there are fewer different rows than clusters, and when a signal asks to stop.
KMeansResult kmeans(Device& device, std::span<const float> rows, int64_t dimensions, const KMeansOptions& options);

/// One start from given centroids [clusters, dimensions].
KMeansResult kmeans_from(Device& device, std::span<const float> rows, int64_t dimensions,
                         std::span<const float> centroids, const KMeansOptions& options, bool keep_history = false);

}  // namespace cbtm
