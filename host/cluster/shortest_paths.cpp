#include "cluster/shortest_paths.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>

#include "cbtm/base/error.h"
#include "cbtm/base/threads.h"

namespace cbtm {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// A point that could move, and what that costs.
struct Move {
  double cost;
  int32_t point;
  bool operator>(const Move& other) const { return cost != other.cost ? cost > other.cost : point > other.point; }
};
using Moves = std::priority_queue<Move, std::vector<Move>, std::greater<>>;

/// The cheapest moves from one cluster to another: the best `kKept` when it was built, and what has come since and is
/// no worse than the worst of those.
struct PairMoves {
  Moves moves;
  double bound = kInfinity;  ///< moves left out cost at least this
};

class Solver {
 public:
  Solver(std::span<const float> costs, std::span<const int64_t> capacities, std::span<const double> prices)
      : costs_(costs),
        clusters_(static_cast<int64_t>(capacities.size())),
        points_(static_cast<int64_t>(costs.size()) / clusters_),
        capacities_(capacities.begin(), capacities.end()),
        prices_(prices.begin(), prices.end()) {}

  BalancedAssignment run() {
    assign_at_prices();
    members_.resize(static_cast<size_t>(clusters_));
    for (int64_t i = 0; i < points_; ++i) members_[at(labels_[at(i)])].push_back(static_cast<int32_t>(i));
    pairs_.resize(static_cast<size_t>(clusters_ * clusters_));
    for (int64_t a = 0; a < clusters_; ++a) build_moves(a);
    while (augment()) {
    }
    BalancedAssignment result;
    for (int64_t i = 0; i < points_; ++i) {
      result.cost += cost(i, labels_[at(i)]);
      double best = kInfinity;
      for (int64_t j = 0; j < clusters_; ++j) best = std::min(best, cost(i, j) + prices_[at(j)]);
      result.dual += best;
    }
    for (int64_t j = 0; j < clusters_; ++j) result.dual -= prices_[at(j)] * static_cast<double>(capacities_[at(j)]);
    result.labels = std::move(labels_);
    result.prices = std::move(prices_);
    return result;
  }

 private:
  static size_t at(int64_t index) { return static_cast<size_t>(index); }
  double cost(int64_t point, int64_t cluster) const {
    return static_cast<double>(costs_[at(point * clusters_ + cluster)]);
  }

  void assign_at_prices() {
    labels_.resize(at(points_));
    sizes_.assign(at(clusters_), 0);
    for (int64_t i = 0; i < points_; ++i) {
      int32_t best = 0;
      for (int64_t j = 1; j < clusters_; ++j)
        if (cost(i, j) + prices_[at(j)] < cost(i, best) + prices_[at(best)]) best = static_cast<int32_t>(j);
      labels_[at(i)] = best;
      ++sizes_[at(best)];
    }
  }

  void build_moves(int64_t a) {
    constexpr size_t kKept = 128;
    std::vector<int32_t>& members = members_[at(a)];
    // Lazily kept: points that left are dropped, duplicates of those that came back too.
    std::erase_if(members, [&](int32_t i) { return labels_[at(i)] != a; });
    std::sort(members.begin(), members.end());
    members.erase(std::unique(members.begin(), members.end()), members.end());
    parallel_ranges(clusters_, static_cast<double>(members.size()) * 10, [&](int64_t begin, int64_t end) {
      std::vector<Move> candidates;
      for (int64_t b = begin; b < end; ++b) {
        if (b == a) continue;
        candidates.clear();
        for (const int32_t i : members) candidates.push_back({cost(i, b) - cost(i, a), i});
        PairMoves& pair = pairs_[at(a * clusters_ + b)];
        pair.bound = kInfinity;
        if (candidates.size() > kKept) {
          std::nth_element(candidates.begin(), candidates.begin() + kKept, candidates.end(),
                           [](const Move& x, const Move& y) { return y > x; });
          pair.bound = candidates[kKept].cost;
          candidates.resize(kKept);
        }
        pair.moves = Moves(std::greater<>(), candidates);
      }
    });
  }

  /// The cheapest move a -> b that still stands, or null if a is empty.
  const Move* best_move(int64_t a, int64_t b) {
    PairMoves& pair = pairs_[at(a * clusters_ + b)];
    for (int attempt = 0; attempt < 2; ++attempt) {
      while (!pair.moves.empty() && labels_[at(pair.moves.top().point)] != a) pair.moves.pop();
      if (!pair.moves.empty() && pair.moves.top().cost <= pair.bound) return &pair.moves.top();
      if (pair.bound == kInfinity) return nullptr;
      build_moves(a);
    }
    return pair.moves.empty() ? nullptr : &pair.moves.top();
  }

  void move_point(int32_t point, int64_t a, int64_t b) {
    labels_[at(point)] = static_cast<int32_t>(b);
    --sizes_[at(a)];
    ++sizes_[at(b)];
    members_[at(b)].push_back(point);
    for (int64_t c = 0; c < clusters_; ++c) {
      if (c == b) continue;
      PairMoves& pair = pairs_[at(b * clusters_ + c)];
      const double change = cost(point, c) - cost(point, b);
      if (change <= pair.bound) pair.moves.push({change, point});
    }
  }

  /// Moves one point from some overfull cluster to some underfull one along the cheapest path. False if none is
  /// overfull.
  bool augment() {
    std::vector<double> distance(at(clusters_), kInfinity);
    std::vector<int64_t> from(at(clusters_), -1);
    std::vector<uint8_t> done(at(clusters_), 0);
    bool overfull = false;
    for (int64_t j = 0; j < clusters_; ++j)
      if (sizes_[at(j)] > capacities_[at(j)]) {
        distance[at(j)] = 0;
        overfull = true;
      }
    if (!overfull) return false;
    int64_t target = -1;
    while (target < 0) {
      int64_t a = -1;
      for (int64_t j = 0; j < clusters_; ++j)
        if (done[at(j)] == 0 && distance[at(j)] < kInfinity && (a < 0 || distance[at(j)] < distance[at(a)])) a = j;
      CBTM_ASSERT(a >= 0, "where a cluster is overfull, another is underfull and can be reached");
      done[at(a)] = 1;
      if (sizes_[at(a)] < capacities_[at(a)]) {
        target = a;
        break;
      }
      for (int64_t b = 0; b < clusters_; ++b) {
        if (done[at(b)] != 0) continue;
        const Move* move = best_move(a, b);
        if (move == nullptr) continue;
        const double reduced = std::max(0.0, move->cost + prices_[at(b)] - prices_[at(a)]);
        if (distance[at(a)] + reduced < distance[at(b)]) {
          distance[at(b)] = distance[at(a)] + reduced;
          from[at(b)] = a;
        }
      }
    }
    const double reached = distance[at(target)];
    // The moves are looked up before any is made, and made from the target backwards.
    std::vector<std::pair<int64_t, int64_t>> path;
    for (int64_t b = target; from[at(b)] >= 0; b = from[at(b)]) path.emplace_back(from[at(b)], b);
    for (int64_t j = 0; j < clusters_; ++j) prices_[at(j)] -= std::min(distance[at(j)], reached);
    std::vector<int32_t> moved;
    for (const auto& [a, b] : path) moved.push_back(best_move(a, b)->point);
    for (size_t i = 0; i < path.size(); ++i) move_point(moved[i], path[i].first, path[i].second);
    return true;
  }

  std::span<const float> costs_;
  int64_t clusters_;
  int64_t points_;
  std::vector<int64_t> capacities_;
  std::vector<double> prices_;
  std::vector<int32_t> labels_;
  std::vector<int64_t> sizes_;
  std::vector<std::vector<int32_t>> members_;
  std::vector<PairMoves> pairs_;
};

}  // namespace

BalancedAssignment move_along_shortest_paths(std::span<const float> costs, std::span<const int64_t> capacities,
                                             std::span<const double> prices) {
  return Solver(costs, capacities, prices).run();
}

}  // namespace cbtm
