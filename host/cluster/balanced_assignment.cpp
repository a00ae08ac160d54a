#include "cbtm/cluster/balanced_assignment.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cbtm/base/signals.h"
#include "cbtm/device/cluster_operators.h"
#include "cbtm/device/device_matrix.h"
#include "cbtm/device/model_operators.h"
#include "cluster/shortest_paths.h"

namespace cbtm {
namespace {

constexpr const char* kPurpose = "balanced assignment (--fit-documents, --k)";

class PricedAssignment {
 public:
  PricedAssignment(Device& device, ConstTensorView costs, std::span<const int64_t> capacities,
                   std::span<const double> start_prices)
      : device_(device),
        costs_(costs),
        capacities_(capacities.begin(), capacities.end()),
        prices_(start_prices.begin(), start_prices.end()),
        device_prices_(device, DType::f64, 1, costs.columns, kPurpose),
        device_labels_(device, DType::i32, 1, costs.rows, kPurpose),
        device_margins_(device, DType::f32, 1, costs.rows, kPurpose),
        device_counts_(device, DType::i64, 1, costs.columns, kPurpose),
        device_dual_(device, DType::f64, 1, 1, kPurpose) {
    if (prices_.empty()) prices_.assign(capacities_.size(), 0.0);
  }

  BalancedAssignment run() {
    device_prices_.write<double>(prices_);
    find_prices();
    prices_ = device_prices_.to_host<double>();
    assign();
    start_labels_ = device_labels_.to_host<int32_t>();
    BalancedAssignment result{.labels = start_labels_};
    const std::vector<int64_t> counts = device_counts_.to_host<int64_t>();
    int64_t moves = 0;
    for (size_t j = 0; j < counts.size(); ++j) moves += std::max<int64_t>(0, counts[j] - capacities_[j]);
    result.prices = prices_;
    result.dual = dual(prices_);
    result.cost = result.dual;  // of the points where the prices put them: equal, but for clusters over or under full
    for (size_t j = 0; j < counts.size(); ++j)
      result.cost -= prices_[j] * static_cast<double>(counts[j] - capacities_[j]);
    if (moves == 0) return result;
    // How many points can move is not known; the certificate says whether these were enough.
    const double cost_at_start = result.cost;
    const std::vector<float> margins = device_margins_.to_host<float>();
    for (int64_t wanted = std::max<int64_t>(4096, 32 * moves);; wanted *= 8) {
      if (!move_some(std::min(wanted, costs_.rows), margins, counts, cost_at_start, result)) continue;
      constexpr double kRounding = 1e-12;
      const double scale = std::abs(result.cost) + std::abs(result.dual);
      if (wanted >= costs_.rows || result.cost - result.dual <= kRounding * scale) return result;
    }
  }

 private:
  /// Coordinate ascent, first on a sample, then on all points: only a start, what it leaves wrong is moved afterwards.
  void find_prices() {
    constexpr int64_t kSample = 8192;
    const int64_t stride = std::max<int64_t>(1, costs_.rows / kSample);
    const ConstTensorView sample{costs_.data, costs_.dtype, (costs_.rows + stride - 1) / stride, costs_.columns,
                                 costs_.row_stride * stride};
    sweep(sample, 6);
    if (stride > 1) sweep(costs_, 2);
  }

  void sweep(ConstTensorView points, int sweeps) {
    if (points.rows == 0) return;
    std::vector<int64_t> ranks;
    for (const int64_t capacity : capacities_) {
      const double share =
          static_cast<double>(capacity) * static_cast<double>(points.rows) / static_cast<double>(costs_.rows);
      ranks.push_back(std::clamp<int64_t>(std::llround(share), 1, points.rows) - 1);
    }
    for (int i = 0; i < sweeps; ++i) {
      stop_if_requested("balanced assignment");
      device_.cluster_operators().price_sweep({points, ranks, device_prices_.view()});
    }
  }

  void assign() {
    device_.cluster_operators().assign_at_prices({.costs = costs_,
                                                  .prices = device_prices_.view(),
                                                  .labels = device_labels_.view(),
                                                  .margins = device_margins_.view(),
                                                  .counts = device_counts_.view(),
                                                  .dual_sum = device_dual_.view()});
  }

  /// At the prices of the last assign().
  double dual(const std::vector<double>& prices) const {
    double dual = device_dual_.to_host<double>()[0];
    for (size_t j = 0; j < prices.size(); ++j) dual -= prices[j] * static_cast<double>(capacities_[j]);
    return dual;
  }

  std::vector<float> rows_of(const std::vector<int32_t>& points) {
    const auto count = static_cast<int64_t>(points.size());
    const DeviceMatrix ids = DeviceMatrix::reading<int32_t>(device_, points, 1, kPurpose);
    const DeviceMatrix rows(device_, DType::f32, count, costs_.columns, kPurpose);
    device_.model_operators().gather_rows({.source = costs_, .rows = ids.view(), .out = rows.view()});
    return rows.to_host<float>();
  }

  /// Solves for the `wanted` points of the smallest margins, the others staying where the prices put them. False if
  /// those alone overfill a cluster. `cost_at_start` = Σ cost of all points where the prices put them.
  bool move_some(int64_t wanted, const std::vector<float>& margins, const std::vector<int64_t>& counts,
                 double cost_at_start, BalancedAssignment& result) {
    std::vector<float> sorted = margins;
    std::nth_element(sorted.begin(), sorted.begin() + (wanted - 1), sorted.end());
    const float threshold = sorted[static_cast<size_t>(wanted - 1)];
    std::vector<int32_t> free;
    std::vector<int64_t> room(capacities_.size());
    for (size_t j = 0; j < room.size(); ++j) room[j] = capacities_[j] - counts[j];
    for (size_t i = 0; i < margins.size(); ++i)
      if (margins[i] <= threshold) {
        free.push_back(static_cast<int32_t>(i));
        ++room[static_cast<size_t>(start_labels_[i])];
      }
    if (std::any_of(room.begin(), room.end(), [](int64_t capacity) { return capacity < 0; })) return false;
    const std::vector<float> costs = rows_of(free);
    double before = 0;
    for (size_t i = 0; i < free.size(); ++i)
      before += static_cast<double>(
          costs[i * room.size() + static_cast<size_t>(start_labels_[static_cast<size_t>(free[i])])]);
    BalancedAssignment solved = move_along_shortest_paths(costs, room, prices_);
    result.labels = start_labels_;
    for (size_t i = 0; i < free.size(); ++i) result.labels[static_cast<size_t>(free[i])] = solved.labels[i];
    result.cost = cost_at_start - before + solved.cost;
    result.prices = std::move(solved.prices);
    device_prices_.write<double>(result.prices);
    assign();
    result.dual = dual(result.prices);
    return true;
  }

  Device& device_;
  ConstTensorView costs_;
  std::vector<int64_t> capacities_;
  std::vector<double> prices_;         ///< that the sweeps found
  std::vector<int32_t> start_labels_;  ///< where those put the points
  DeviceMatrix device_prices_, device_labels_, device_margins_, device_counts_, device_dual_;
};

}  // namespace

double BalancedAssignment::relative_gap() const { return cost == 0 ? std::abs(dual) : (cost - dual) / std::abs(cost); }

std::vector<int64_t> equal_capacities(int64_t points, int64_t clusters) {
  std::vector<int64_t> capacities(static_cast<size_t>(clusters), points / clusters);
  for (int64_t j = 0; j < points % clusters; ++j) ++capacities[static_cast<size_t>(j)];
  return capacities;
}

BalancedAssignment balanced_assignment(Device& device, ConstTensorView costs, std::span<const int64_t> capacities,
                                       std::span<const double> start_prices) {
  CBTM_ASSERT(!capacities.empty() && costs.columns == static_cast<int64_t>(capacities.size()) &&
                  costs.rows == std::accumulate(capacities.begin(), capacities.end(), int64_t{0}),
              "the capacities hold exactly the points");
  return PricedAssignment(device, costs, capacities, start_prices).run();
}

}  // namespace cbtm
