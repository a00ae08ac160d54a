#include "cbtm/cluster/kmeans.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <unordered_set>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "cbtm/base/signals.h"
#include "cbtm/cluster/balanced_assignment.h"
#include "cbtm/device/cluster_operators.h"
#include "cbtm/device/device_matrix.h"

namespace cbtm {
namespace {

constexpr const char* kPurpose = "k-means (--fit-documents, --k)";
constexpr const char* kStage = "k-means";

/// The rows, on both sides, and what the device works with.
class KMeansData {
 public:
  KMeansData(Device& device, std::span<const float> rows, int64_t dimensions, int64_t clusters)
      : device_(device),
        rows_(rows),
        dimensions_(dimensions),
        n_(static_cast<int64_t>(rows.size()) / dimensions),
        clusters_(clusters),
        device_rows_(DeviceMatrix::reading_rows(device, rows, n_, kPurpose)),
        labels_(device, DType::i32, 1, n_, kPurpose),
        nearest_(device, DType::f32, 1, n_, kPurpose),
        sums_(device, DType::f64, clusters, dimensions, kPurpose),
        counts_(device, DType::i64, 1, clusters, kPurpose) {}

  int64_t n() const { return n_; }
  std::span<const float> row(int64_t i) const {
    return rows_.subspan(static_cast<size_t>(i * dimensions_), static_cast<size_t>(dimensions_));
  }

  struct Nearest {
    std::vector<int32_t> labels;
    std::vector<float> distances;
  };
  /// Of any number of centroids.
  Nearest nearest(std::span<const float> centroids) {
    const DeviceMatrix centres = on_device(centroids);
    device_.cluster_operators().nearest_centres({.rows = device_rows_.view(),
                                                 .centroids = centres.view(),
                                                 .labels = labels_.view(),
                                                 .nearest = nearest_.view(),
                                                 .second = {}});
    return {labels_.to_host<int32_t>(), nearest_.to_host<float>()};
  }

  BalancedAssignment balanced(std::span<const float> centroids, std::span<const int64_t> capacities,
                              std::span<const double> prices) {
    if (!costs_.view()) costs_ = DeviceMatrix(device_, DType::f32, n_, clusters_, kPurpose);
    const DeviceMatrix centres = on_device(centroids);
    // In pieces of about a second at most on one core, between which a signal is seen.
    constexpr int64_t kProducts = 2'000'000'000;
    const int64_t piece = std::max<int64_t>(1, kProducts / (clusters_ * dimensions_));
    for (int64_t first = 0; first < n_; first += piece) {
      stop_if_requested(kStage);
      const int64_t count = std::min(piece, n_ - first);
      device_.cluster_operators().squared_distances(device_rows_.view().row_range(first, count), centres.view(),
                                                    costs_.view().row_range(first, count));
    }
    return balanced_assignment(device_, costs_.view(), capacities, prices);
  }

  /// Means of the rows of each cluster; an empty cluster takes the row farthest from its centre, by `distances`.
  std::vector<float> means(const std::vector<int32_t>& labels, const std::vector<float>& distances) {
    labels_.write<int32_t>(labels);
    device_.cluster_operators().cluster_sums({device_rows_.view(), labels_.view(), sums_.view(), counts_.view()});
    const std::vector<double> sums = sums_.to_host<double>();
    const std::vector<int64_t> counts = counts_.to_host<int64_t>();
    std::vector<float> centroids(sums.size());
    std::vector<uint8_t> taken(labels.size(), 0);
    for (int64_t j = 0; j < clusters_; ++j) {
      const auto count = static_cast<double>(counts[static_cast<size_t>(j)]);
      if (count > 0) {
        for (int64_t d = 0; d < dimensions_; ++d) {
          const auto at = static_cast<size_t>(j * dimensions_ + d);
          centroids[at] = static_cast<float>(sums[at] / count);
        }
        continue;
      }
      size_t farthest = 0;
      float largest = -1;
      for (size_t i = 0; i < distances.size(); ++i)
        if (taken[i] == 0 && distances[i] > largest) {
          largest = distances[i];
          farthest = i;
        }
      taken[farthest] = 1;
      std::ranges::copy(row(static_cast<int64_t>(farthest)), centroids.begin() + j * dimensions_);
    }
    return centroids;
  }

 private:
  DeviceMatrix on_device(std::span<const float> centroids) {
    return DeviceMatrix::reading_rows(device_, centroids, static_cast<int64_t>(centroids.size()) / dimensions_,
                                      kPurpose);
  }

  Device& device_;
  std::span<const float> rows_;
  int64_t dimensions_, n_, clusters_;
  DeviceMatrix device_rows_, labels_, nearest_, sums_, counts_;
  DeviceMatrix costs_;  ///< made when it is first needed
};

std::vector<float> initial_centroids(KMeansData& data, const KMeansOptions& options, uint64_t stream) {
  const int64_t n = data.n();
  PhiloxStream random(options.seed, stream);
  std::vector<float> centroids;
  int64_t count = 0;
  const auto take = [&](int64_t row) {
    centroids.insert(centroids.end(), data.row(row).begin(), data.row(row).end());
    ++count;
  };
  if (options.init == KMeansInit::random) {
    std::vector<uint8_t> chosen(static_cast<size_t>(n), 0);
    while (count < options.clusters) {
      const auto row = static_cast<int64_t>(random.next_below(static_cast<uint64_t>(n)));
      if (chosen[static_cast<size_t>(row)] != 0) continue;
      chosen[static_cast<size_t>(row)] = 1;
      take(row);
    }
    return centroids;
  }
  // k-means++ (Arthur and Vassilvitskii 2007): rows are drawn in proportion to the squared distance to the nearest
  // centre so far.
  take(static_cast<int64_t>(random.next_below(static_cast<uint64_t>(n))));
  std::vector<float> closest(static_cast<size_t>(n), INFINITY);
  while (count < options.clusters) {
    stop_if_requested(kStage);
    const std::vector<float> latest = data.nearest(std::span(centroids).last(data.row(0).size())).distances;
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

/// How many different rows there are, counted up to `enough`.
int64_t distinct_rows(std::span<const float> rows, int64_t dimensions, int64_t enough) {
  std::unordered_set<std::string_view> seen;
  const auto bytes = static_cast<size_t>(dimensions) * sizeof(float);
  const std::string_view all(reinterpret_cast<const char*>(rows.data()), rows.size_bytes());
  for (size_t at = 0; at < all.size() && static_cast<int64_t>(seen.size()) < enough; at += bytes)
    seen.insert(all.substr(at, bytes));
  return static_cast<int64_t>(seen.size());
}

KMeansResult iterate(KMeansData& data, std::vector<float> centroids, const KMeansOptions& options, bool keep_history) {
  const std::vector<int64_t> capacities =
      options.capacities.empty() ? equal_capacities(data.n(), options.clusters) : options.capacities;
  KMeansResult result;
  result.centroids = std::move(centroids);
  std::vector<double> prices;
  for (int64_t iteration = 0; iteration < options.iterations_max; ++iteration) {
    stop_if_requested(kStage);
    std::vector<int32_t> labels;
    std::vector<float> distances;  // of unbalanced ones only: of balanced clusters none is empty
    double objective = 0;
    if (options.balanced) {
      BalancedAssignment assignment = data.balanced(result.centroids, capacities, prices);
      labels = std::move(assignment.labels);
      prices = std::move(assignment.prices);
      objective = assignment.cost;
      result.relative_gap = assignment.relative_gap();
    } else {
      KMeansData::Nearest nearest = data.nearest(result.centroids);
      labels = std::move(nearest.labels);
      distances = std::move(nearest.distances);
      for (const float distance : distances) objective += static_cast<double>(distance);
    }
    const bool settled = labels == result.labels;
    result.labels = std::move(labels);
    result.objectives.push_back(objective);
    if (keep_history) result.label_history.push_back(result.labels);
    if (options.progress) options.progress(result.restart, iteration, objective);
    if (settled) break;
    result.centroids = data.means(result.labels, distances);
  }
  return result;
}

}  // namespace

KMeansResult kmeans_from(Device& device, std::span<const float> rows, int64_t dimensions,
                         std::span<const float> centroids, const KMeansOptions& options, bool keep_history) {
  KMeansData data(device, rows, dimensions, options.clusters);
  return iterate(data, {centroids.begin(), centroids.end()}, options, keep_history);
}

KMeansResult kmeans(Device& device, std::span<const float> rows, int64_t dimensions, const KMeansOptions& options) {
  const int64_t n = static_cast<int64_t>(rows.size()) / dimensions;
  if (n < options.clusters)
    fail("--k {} needs at least as many documents, but only {} can be used for clustering", options.clusters, n);
  if (const int64_t distinct = distinct_rows(rows, dimensions, options.clusters); distinct < options.clusters)
    fail(
        "--k {}: by their words, the documents that can be used for clustering come to only {} different one{}, so "
        "that some clusters would be empty; use --k {}, or a corpus that is more varied",
        options.clusters, distinct, distinct == 1 ? "" : "s", distinct);
  KMeansData data(device, rows, dimensions, options.clusters);
  KMeansResult best;
  for (int64_t restart = 0; restart < options.restarts; ++restart) {
    std::vector<float> initial = initial_centroids(data, options, static_cast<uint64_t>(restart));
    KMeansOptions told = options;
    if (options.progress)
      told.progress = [&](int64_t, int64_t iteration, double objective) {
        options.progress(restart, iteration, objective);
      };
    KMeansResult result = iterate(data, std::move(initial), told, /*keep_history=*/false);
    result.restart = restart;
    if (best.objectives.empty() || result.objective() < best.objective()) best = std::move(result);
  }
  return best;
}

}  // namespace cbtm
