#include "cluster/shortest_paths.h"

#include <algorithm>
#include <limits>

#include "cbtm/base/error.h"
#include "cbtm/base/signals.h"
#include "cbtm/base/threads.h"
#include "cluster/cheapest_moves.h"

namespace cbtm {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Successive shortest paths in phases. One search from all overfull clusters at once finds the shortest path to every
/// underfull one; after it the prices make all paths of the search tree cost nothing, so that points may move along as
/// many of them as share no move. A phase costs O(clusters²) besides the moves that it looks up; hundreds of points
/// that are in the wrong place take tens of phases.
class Solver {
 public:
  Solver(std::span<const float> costs, std::span<const int64_t> capacities, std::span<const double> prices)
      : costs_(costs),
        clusters_(static_cast<int64_t>(capacities.size())),
        points_(static_cast<int64_t>(costs.size()) / clusters_),
        capacities_(capacities.begin(), capacities.end()),
        prices_(prices.begin(), prices.end()),
        moves_(costs, clusters_) {}

  BalancedAssignment run() {
    moves_.assign(labels_at_prices());
    while (search()) {
      stop_if_requested("balanced assignment");
      move_along_tree();
    }
    BalancedAssignment result{.labels = moves_.labels()};
    for (int64_t i = 0; i < points_; ++i) {
      result.cost += cost(i, result.labels[at(i)]);
      double best = kInfinity;
      for (int64_t j = 0; j < clusters_; ++j) best = std::min(best, cost(i, j) + prices_[at(j)]);
      result.dual += best;
    }
    for (int64_t j = 0; j < clusters_; ++j) result.dual -= prices_[at(j)] * static_cast<double>(capacities_[at(j)]);
    result.prices = std::move(prices_);
    return result;
  }

 private:
  static size_t at(int64_t index) { return static_cast<size_t>(index); }
  double cost(int64_t point, int64_t cluster) const {
    return static_cast<double>(costs_[at(point * clusters_ + cluster)]);
  }
  int64_t excess(int64_t cluster) const { return moves_.size(cluster) - capacities_[at(cluster)]; }

  std::vector<int32_t> labels_at_prices() const {
    std::vector<int32_t> labels(at(points_));
    parallel_ranges(points_, static_cast<double>(clusters_), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        int32_t best = 0;
        double least = kInfinity;
        for (int64_t j = 0; j < clusters_; ++j)
          if (const double value = cost(i, j) + prices_[at(j)]; value < least) {
            least = value;
            best = static_cast<int32_t>(j);
          }
        labels[at(i)] = best;
      }
    });
    return labels;
  }

  /// Dijkstra's algorithm over the clusters, until every underfull one is reached; then the new prices. False if no
  /// cluster is overfull.
  bool search() {
    distance_.assign(at(clusters_), kInfinity);
    from_.assign(at(clusters_), -1);
    targets_.clear();
    int64_t underfull = 0;
    for (int64_t j = 0; j < clusters_; ++j) {
      if (excess(j) > 0) distance_[at(j)] = 0;
      underfull += excess(j) < 0 ? 1 : 0;
    }
    if (underfull == 0) return false;
    std::vector<double> open = distance_;  // infinite once a cluster is done
    double reached = 0;
    while (static_cast<int64_t>(targets_.size()) < underfull) {
      const int64_t a = std::min_element(open.begin(), open.end()) - open.begin();
      if (open[at(a)] == kInfinity) break;
      open[at(a)] = kInfinity;
      reached = distance_[at(a)];
      if (excess(a) < 0) targets_.push_back(a);
      const double* move_costs = moves_.cheapest(a);
      const double price = prices_[at(a)];
      for (int64_t b = 0; b < clusters_; ++b) {
        // A cluster that is done is nearer than anything found from here: it does not change.
        const double length = reached + std::max(0.0, move_costs[b] + prices_[at(b)] - price);
        if (length < distance_[at(b)]) {
          distance_[at(b)] = open[at(b)] = length;
          from_[at(b)] = a;
        }
      }
    }
    CBTM_ASSERT(!targets_.empty(), "where a cluster is overfull, another is underfull and can be reached");
    for (int64_t j = 0; j < clusters_; ++j) prices_[at(j)] -= std::min(distance_[at(j)], reached);
    return true;
  }

  /// Fills the underfull clusters, the nearest first, as far as the moves of the tree last. A move's equals in cost are
  /// as good as it: with many equal points a path carries many.
  void move_along_tree() {
    std::vector<double> costs(at(clusters_));  // of the move into each cluster of the tree, before anything has moved
    for (int64_t b = 0; b < clusters_; ++b)
      if (from_[at(b)] >= 0) costs[at(b)] = moves_.cheapest(from_[at(b)])[b];
    std::vector<std::vector<int32_t>> equals(at(clusters_));
    std::vector<uint8_t> looked_up(at(clusters_), 0);
    for (const int64_t target : targets_) {
      int64_t root = target;
      while (from_[at(root)] >= 0) root = from_[at(root)];
      int64_t units = std::min(excess(root), -excess(target));
      for (int64_t b = target; b != root && units > 0; b = from_[at(b)]) {
        const int64_t a = from_[at(b)];
        std::vector<int32_t>& points = equals[at(b)];
        if (looked_up[at(b)] == 0) points = moves_.equals(a, b, costs[at(b)]);
        looked_up[at(b)] = 1;
        std::erase_if(points, [&](int32_t point) { return moves_.labels()[at(point)] != a; });
        units = std::min(units, static_cast<int64_t>(points.size()));
      }
      if (units <= 0) continue;
      for (int64_t b = target; b != root; b = from_[at(b)])
        for (int64_t unit = 0; unit < units; ++unit) moves_.move(equals[at(b)][at(unit)], b);
    }
  }

  std::span<const float> costs_;
  int64_t clusters_;
  int64_t points_;
  std::vector<int64_t> capacities_;
  std::vector<double> prices_;
  CheapestMoves moves_;
  std::vector<double> distance_;  ///< of each cluster from the nearest overfull one
  std::vector<int64_t> from_;     ///< the cluster before it on that path, or -1
  std::vector<int64_t> targets_;  ///< underfull clusters, the nearest first
};

}  // namespace

BalancedAssignment move_along_shortest_paths(std::span<const float> costs, std::span<const int64_t> capacities,
                                             std::span<const double> prices) {
  return Solver(costs, capacities, prices).run();
}

}  // namespace cbtm
