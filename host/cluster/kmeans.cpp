#include "cbtm/cluster/kmeans.h"

#include <algorithm>
#include <memory>
#include <string_view>
#include <unordered_set>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "cbtm/base/signals.h"
#include "cbtm/cluster/balanced_assignment.h"
#include "cbtm/device/cluster_operators.h"
#include "cbtm/device/device_matrix.h"
#include "cbtm/device/model_operators.h"
#include "cluster/priced_assignment.h"

namespace cbtm {
namespace {

constexpr const char* kPurpose = "k-means (--fit-documents, --k)";
constexpr const char* kStage = "k-means";

/// What the device works with; the host sees centres and numbers of clusters, but nothing that is as long as the rows.
class KMeansData {
 public:
  KMeansData(Device& device, std::span<const float> rows, int64_t dimensions, int64_t clusters)
      : device_(device),
        dimensions_(dimensions),
        n_(static_cast<int64_t>(rows.size()) / dimensions),
        clusters_(clusters),
        rows_(DeviceMatrix::reading_rows(device, rows, n_, kPurpose)),
        distances_(device, DType::f32, 1, n_, kPurpose),
        sums_(device, DType::f64, clusters, dimensions, kPurpose),
        counts_(device, DType::i64, 1, clusters, kPurpose),
        number_(device, DType::i64, 1, 1, kPurpose) {}

  Device& device() { return device_; }
  int64_t n() const { return n_; }
  int64_t clusters() const { return clusters_; }
  TensorView distances() const { return distances_.view(); }

  DeviceMatrix new_labels() { return {device_, DType::i32, 1, n_, kPurpose}; }
  DeviceMatrix new_centroids() { return DeviceMatrix::padded(device_, DType::f32, clusters_, dimensions_, kPurpose); }
  DeviceMatrix centroids_of(std::span<const float> host) {
    DeviceMatrix centroids = new_centroids();
    centroids.write(host);
    return centroids;
  }
  /// The rows of these numbers, int32 [1, clusters].
  DeviceMatrix centroids_at(ConstTensorView numbers) {
    DeviceMatrix centroids = new_centroids();
    device_.model_operators().gather_rows({rows_.view(), numbers, centroids.view()});
    return centroids;
  }

  /// The k-means++ rows, one drawn after another.
  void draw(const DeviceMatrix& chosen, int64_t step, double uniform, int64_t otherwise) {
    device_.cluster_operators().draw_centre({.rows = rows_.view(),
                                             .closest = distances_.view(),
                                             .chosen = chosen.view(),
                                             .step = step,
                                             .uniform = uniform,
                                             .otherwise = otherwise});
  }

  /// Labels of the nearest centroids; returns the sum of the squared distances.
  double nearest(const DeviceMatrix& centroids, TensorView labels) {
    device_.cluster_operators().nearest_centres({.rows = rows_.view(),
                                                 .centroids = centroids.view(),
                                                 .labels = labels,
                                                 .nearest = distances_.view(),
                                                 .second = {}});
    const TensorView sum{number_.view().data, DType::f64, 1, 1};
    device_.cluster_operators().sum_in_order(distances_.view(), sum);
    double host = 0;
    device_.copy_to_host(&host, sum.data, 8);
    return host;
  }

  PricedAssignment::Result balanced(const DeviceMatrix& centroids, std::span<const int64_t> capacities,
                                    std::span<const double> prices, TensorView labels) {
    if (assignment_ == nullptr) {
      costs_ = DeviceMatrix(device_, DType::f32, n_, clusters_, kPurpose);
      assignment_ =
          std::make_unique<PricedAssignment>(device_, n_, std::vector<int64_t>(capacities.begin(), capacities.end()));
    }
    // In pieces of about a second at most on one core, between which a signal is seen.
    constexpr int64_t kProducts = 2'000'000'000;
    const int64_t piece = std::max<int64_t>(1, kProducts / (clusters_ * dimensions_));
    for (int64_t first = 0; first < n_; first += piece) {
      stop_if_requested(kStage);
      const int64_t count = std::min(piece, n_ - first);
      device_.cluster_operators().squared_distances(rows_.view().row_range(first, count), centroids.view(),
                                                    costs_.view().row_range(first, count));
    }
    return assignment_->assign(costs_.view(), prices, labels);
  }

  bool same_labels(const DeviceMatrix& before, const DeviceMatrix& after) {
    device_.cluster_operators().count_changes(before.view(), after.view(), number_.view());
    return number_.to_host<int64_t>()[0] == 0;
  }

  /// Means of the rows of each cluster. An empty cluster, of which balanced clusters have none, takes the row farthest
  /// from its centre.
  void means(const DeviceMatrix& labels, bool balanced, const DeviceMatrix& centroids) {
    device_.cluster_operators().cluster_sums({rows_.view(), labels.view(), sums_.view(), counts_.view()});
    device_.cluster_operators().mean_centres({.sums = sums_.view(),
                                              .counts = counts_.view(),
                                              .rows = rows_.view(),
                                              .distances = balanced ? TensorView() : distances_.view(),
                                              .centroids = centroids.view()});
  }

 private:
  Device& device_;
  int64_t dimensions_, n_, clusters_;
  DeviceMatrix rows_;
  DeviceMatrix distances_;  ///< of each row to the nearest centre
  DeviceMatrix sums_, counts_, number_;
  DeviceMatrix costs_;                            ///< made when it is first needed
  std::unique_ptr<PricedAssignment> assignment_;  ///< as above
};

DeviceMatrix initial_centroids(KMeansData& data, const KMeansOptions& options, uint64_t stream) {
  const auto n = static_cast<uint64_t>(data.n());
  PhiloxStream random(options.seed, stream);
  std::vector<int32_t> rows;
  if (options.init == KMeansInit::random) {
    std::vector<uint8_t> taken(n, 0);
    while (static_cast<int64_t>(rows.size()) < options.clusters) {
      const uint64_t row = random.next_below(n);
      if (taken[row] != 0) continue;
      taken[row] = 1;
      rows.push_back(static_cast<int32_t>(row));
    }
    return data.centroids_at(DeviceMatrix::reading<int32_t>(data.device(), rows, 1, kPurpose).view());
  }
  // k-means++ (Arthur and Vassilvitskii 2007): rows are drawn in proportion to the squared distance to the nearest
  // centre so far.
  rows.assign(static_cast<size_t>(options.clusters), 0);
  rows[0] = static_cast<int32_t>(random.next_below(n));
  const DeviceMatrix chosen = DeviceMatrix::copy_of<int32_t>(data.device(), rows, 1, kPurpose);
  for (int64_t step = 1; step < options.clusters; ++step) {
    stop_if_requested(kStage);
    const double uniform = random.next_uniform();
    data.draw(chosen, step, uniform, static_cast<int64_t>(random.next_below(n)));
  }
  return data.centroids_at(chosen.view());
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

/// A result whose centroids and labels are still on the device.
struct Iterated {
  DeviceMatrix centroids, labels;
  KMeansResult result;

  KMeansResult to_host() {
    result.centroids = centroids.to_host<float>();
    result.labels = labels.to_host<int32_t>();
    return std::move(result);
  }
};

Iterated iterate(KMeansData& data, DeviceMatrix centroids, const KMeansOptions& options, bool keep_history) {
  const std::vector<int64_t> capacities =
      options.capacities.empty() ? equal_capacities(data.n(), options.clusters) : options.capacities;
  Iterated iterated{.centroids = std::move(centroids), .labels = data.new_labels(), .result = {}};
  KMeansResult& result = iterated.result;
  DeviceMatrix labels = data.new_labels();
  std::vector<double> prices;
  for (int64_t iteration = 0; iteration < options.iterations_max; ++iteration) {
    stop_if_requested(kStage);
    double objective = 0;
    if (options.balanced) {
      PricedAssignment::Result assigned = data.balanced(iterated.centroids, capacities, prices, labels.view());
      prices = std::move(assigned.prices);
      objective = assigned.cost;
      result.relative_gap = relative_gap(assigned.cost, assigned.dual);
    } else {
      objective = data.nearest(iterated.centroids, labels.view());
    }
    const bool settled = iteration > 0 && data.same_labels(iterated.labels, labels);
    std::swap(iterated.labels, labels);
    result.objectives.push_back(objective);
    if (keep_history) result.label_history.push_back(iterated.labels.to_host<int32_t>());
    if (options.progress) options.progress(result.restart, iteration, objective);
    if (settled) break;
    data.means(iterated.labels, options.balanced, iterated.centroids);
  }
  return iterated;
}

}  // namespace

KMeansResult kmeans_from(Device& device, std::span<const float> rows, int64_t dimensions,
                         std::span<const float> centroids, const KMeansOptions& options, bool keep_history) {
  KMeansData data(device, rows, dimensions, options.clusters);
  return iterate(data, data.centroids_of(centroids), options, keep_history).to_host();
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
  Iterated best;
  for (int64_t restart = 0; restart < options.restarts; ++restart) {
    DeviceMatrix initial = initial_centroids(data, options, static_cast<uint64_t>(restart));
    KMeansOptions told = options;
    if (options.progress)
      told.progress = [&](int64_t, int64_t iteration, double objective) {
        options.progress(restart, iteration, objective);
      };
    Iterated iterated = iterate(data, std::move(initial), told, /*keep_history=*/false);
    iterated.result.restart = restart;
    if (best.result.objectives.empty() || iterated.result.objective() < best.result.objective())
      best = std::move(iterated);
  }
  return best.to_host();
}

}  // namespace cbtm
