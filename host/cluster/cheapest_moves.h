#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cbtm {

/// An assignment of points to clusters that changes point by point, and for every pair of clusters the cheapest move
/// of a point from the one to the other. Rows are found when they are first asked for.
/// Memory: 12 bytes for each pair of clusters, and at most about 4 bytes for each cost where there are many points to a
/// cluster.
class CheapestMoves {
 public:
  /// `costs` [points, clusters], row-major, is referred to.
  CheapestMoves(std::span<const float> costs, int64_t clusters);

  void assign(std::vector<int32_t> labels);
  const std::vector<int32_t>& labels() const { return labels_; }
  int64_t size(int64_t cluster) const { return static_cast<int64_t>(members_[static_cast<size_t>(cluster)].size()); }

  /// [clusters]: what the cheapest move from `a` to each cluster adds to the cost; infinite to itself, and if `a` is
  /// empty. Valid until a point moves.
  const double* cheapest(int64_t a);
  /// The members of `a` whose move to `b` costs exactly this, in order.
  std::vector<int32_t> equals(int64_t a, int64_t b, double cost) const;
  void move(int32_t point, int64_t to);

 private:
  struct Move {
    double cost;
    int32_t point;
    bool operator<(const Move& other) const { return cost != other.cost ? cost < other.cost : point < other.point; }
  };
  /// The moves of a pair that follow the cheapest.
  struct Following {
    std::vector<Move> moves;  ///< descending
    double bound;             ///< moves left out cost at least this
  };

  double cost(int32_t point, int64_t cluster) const {
    return static_cast<double>(costs_[static_cast<size_t>(point * clusters_ + cluster)]);
  }
  size_t pair(int64_t a, int64_t b) const { return static_cast<size_t>(a * clusters_ + b); }
  void find_row(int64_t a);
  void find_pair(int64_t a, int64_t b);
  void repair_pair(int64_t a, int64_t b);

  std::span<const float> costs_;
  int64_t clusters_;
  size_t kept_;  ///< moves of a pair that are kept besides the cheapest
  std::vector<int32_t> labels_;
  std::vector<std::vector<int32_t>> members_;
  std::vector<int32_t> place_;  ///< of each point among its cluster's members
  std::vector<double> cheapest_;
  std::vector<int32_t> cheapest_point_;  ///< -1: none
  std::vector<Following> following_;     ///< none if kept_ is 0
  enum class Row : uint8_t { unknown, stale, valid };
  std::vector<Row> rows_;  ///< stale: points have left since
};

}  // namespace cbtm
