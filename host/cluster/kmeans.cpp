#include "cbtm/cluster/kmeans.h"

#include <algorithm>
#include <cmath>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "cbtm/base/threads.h"
#include "cbtm/cluster/balanced_assignment.h"

namespace cbtm {
namespace {

std::vector<float> distances_to(Device& device, std::span<const float> rows, int64_t dimensions,
                                std::span<const float> centroids) {
  const int64_t n = static_cast<int64_t>(rows.size()) / dimensions;
  const int64_t k = static_cast<int64_t>(centroids.size()) / dimensions;
  std::vector<float> out(static_cast<size_t>(n * k));
  device.squared_distances(view_of(rows.data(), n, dimensions), view_of(centroids.data(), k, dimensions),
                           view_of(out.data(), n, k));
  return out;
}

std::vector<int32_t> nearest(std::span<const float> distances, int64_t k) {
  std::vector<int32_t> labels(distances.size() / static_cast<size_t>(k));
  for (size_t i = 0; i < labels.size(); ++i) {
    const auto row = distances.subspan(i * static_cast<size_t>(k), static_cast<size_t>(k));
    labels[i] = static_cast<int32_t>(std::min_element(row.begin(), row.end()) - row.begin());
  }
  return labels;
}

/// Means of the rows of each cluster, in float64 and row order; an empty cluster takes the row farthest from its
/// centre.
std::vector<float> means(std::span<const float> rows, int64_t dimensions, const std::vector<int32_t>& labels, int64_t k,
                         std::span<const float> distances) {
  std::vector<double> sums(static_cast<size_t>(k * dimensions), 0.0);
  std::vector<int64_t> counts(static_cast<size_t>(k), 0);
  for (size_t i = 0; i < labels.size(); ++i) {
    ++counts[static_cast<size_t>(labels[i])];
    double* sum = sums.data() + labels[i] * dimensions;
    for (int64_t d = 0; d < dimensions; ++d)
      sum[d] += static_cast<double>(rows[i * static_cast<size_t>(dimensions) + static_cast<size_t>(d)]);
  }
  std::vector<float> centroids(sums.size());
  std::vector<uint8_t> taken(labels.size(), 0);
  for (int64_t j = 0; j < k; ++j) {
    if (counts[static_cast<size_t>(j)] > 0) {
      for (int64_t d = 0; d < dimensions; ++d)
        centroids[static_cast<size_t>(j * dimensions + d)] = static_cast<float>(
            sums[static_cast<size_t>(j * dimensions + d)] / static_cast<double>(counts[static_cast<size_t>(j)]));
      continue;
    }
    size_t farthest = 0;
    float largest = -1;
    for (size_t i = 0; i < labels.size(); ++i) {
      const float distance = distances[i * static_cast<size_t>(k) + static_cast<size_t>(labels[i])];
      if (taken[i] == 0 && distance > largest) {
        largest = distance;
        farthest = i;
      }
    }
    taken[farthest] = 1;
    std::copy_n(rows.begin() + static_cast<int64_t>(farthest) * dimensions, dimensions,
                centroids.begin() + j * dimensions);
  }
  return centroids;
}

std::vector<float> initial_centroids(Device& device, std::span<const float> rows, int64_t dimensions,
                                     const KMeansOptions& options, uint64_t stream) {
  const int64_t n = static_cast<int64_t>(rows.size()) / dimensions;
  PhiloxStream random(options.seed, stream);
  std::vector<float> centroids;
  const auto take = [&](int64_t row) {
    centroids.insert(centroids.end(), rows.begin() + row * dimensions, rows.begin() + (row + 1) * dimensions);
  };
  if (options.init == KMeansInit::random) {
    std::vector<int64_t> chosen;
    while (static_cast<int64_t>(chosen.size()) < options.clusters) {
      const auto row = static_cast<int64_t>(random.next_below(static_cast<uint64_t>(n)));
      if (std::find(chosen.begin(), chosen.end(), row) != chosen.end()) continue;
      chosen.push_back(row);
      take(row);
    }
    return centroids;
  }
  // k-means++ (Arthur and Vassilvitskii 2007): rows are drawn in proportion to the squared distance to the nearest
  // centre so far.
  take(static_cast<int64_t>(random.next_below(static_cast<uint64_t>(n))));
  std::vector<float> closest(static_cast<size_t>(n), INFINITY);
  while (static_cast<int64_t>(centroids.size()) < options.clusters * dimensions) {
    const std::vector<float> latest =
        distances_to(device, rows, dimensions, std::span(centroids).last(static_cast<size_t>(dimensions)));
    double total = 0;
    for (size_t i = 0; i < latest.size(); ++i) {
      closest[i] = std::min(closest[i], latest[i]);
      total += static_cast<double>(closest[i]);
    }
    double drawn = random.next_uniform() * total;
    int64_t row = static_cast<int64_t>(random.next_below(static_cast<uint64_t>(n)));  // if all rows are centres already
    for (int64_t i = 0; i < n && total > 0; ++i) {
      drawn -= static_cast<double>(closest[static_cast<size_t>(i)]);
      if (drawn < 0) {
        row = i;
        break;
      }
    }
    take(row);
  }
  return centroids;
}

}  // namespace

KMeansResult kmeans_from(Device& device, std::span<const float> rows, int64_t dimensions,
                         std::span<const float> centroids, const KMeansOptions& options, bool keep_history) {
  const int64_t k = static_cast<int64_t>(centroids.size()) / dimensions;
  const int64_t n = static_cast<int64_t>(rows.size()) / dimensions;
  const std::vector<int64_t> capacities = options.capacities.empty() ? equal_capacities(n, k) : options.capacities;
  KMeansResult result;
  result.centroids.assign(centroids.begin(), centroids.end());
  std::vector<double> prices;
  for (int64_t iteration = 0; iteration < options.iterations_max; ++iteration) {
    const std::vector<float> distances = distances_to(device, rows, dimensions, result.centroids);
    std::vector<int32_t> labels;
    double objective = 0;
    if (options.balanced) {
      BalancedAssignment assignment = balanced_assignment(distances, capacities, prices);
      labels = std::move(assignment.labels);
      prices = std::move(assignment.prices);
      objective = assignment.cost;
      result.relative_gap = assignment.relative_gap();
    } else {
      labels = nearest(distances, k);
      for (size_t i = 0; i < labels.size(); ++i)
        objective += static_cast<double>(distances[i * static_cast<size_t>(k) + static_cast<size_t>(labels[i])]);
    }
    const bool settled = labels == result.labels;
    result.labels = std::move(labels);
    result.objectives.push_back(objective);
    if (keep_history) result.label_history.push_back(result.labels);
    if (options.progress) options.progress(result.restart, iteration, objective);
    if (settled) break;
    result.centroids = means(rows, dimensions, result.labels, k, distances);
  }
  return result;
}

KMeansResult kmeans(Device& device, std::span<const float> rows, int64_t dimensions, const KMeansOptions& options) {
  const int64_t n = static_cast<int64_t>(rows.size()) / dimensions;
  if (n < options.clusters)
    fail("--k {} needs at least as many documents, but only {} can be used for clustering", options.clusters, n);
  KMeansResult best;
  for (int64_t restart = 0; restart < options.restarts; ++restart) {
    const std::vector<float> initial =
        initial_centroids(device, rows, dimensions, options, static_cast<uint64_t>(restart));
    KMeansOptions told = options;
    if (options.progress)
      told.progress = [&](int64_t, int64_t iteration, double objective) {
        options.progress(restart, iteration, objective);
      };
    KMeansResult result = kmeans_from(device, rows, dimensions, initial, told);
    result.restart = restart;
    if (best.objectives.empty() || result.objective() < best.objective()) best = std::move(result);
  }
  return best;
}

}  // namespace cbtm
