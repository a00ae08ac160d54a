#include "cluster/priced_assignment.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cbtm/base/signals.h"
#include "cbtm/device/cluster_operators.h"
#include "cbtm/device/model_operators.h"
#include "cluster/shortest_paths.h"

namespace cbtm {
namespace {

constexpr const char* kPurpose = "balanced assignment (--fit-documents, --k)";

/// Entries first .. first + count - 1 of numbers that take 8 bytes each, read as `dtype`.
TensorView part_of(const DeviceMatrix& numbers, DType dtype, int64_t first, int64_t count) {
  return {static_cast<char*>(numbers.view().data) + first * 8, dtype, 1, count};
}

}  // namespace

PricedAssignment::PricedAssignment(Device& device, int64_t points, std::vector<int64_t> capacities)
    : device_(device),
      points_(points),
      capacities_(std::move(capacities)),
      numbers_(device, DType::i64, 1, 2 * static_cast<int64_t>(capacities_.size()) + 1, kPurpose),
      margins_(device, DType::f32, 1, points, kPurpose),
      free_points_(device, DType::i32, 1, points, kPurpose),
      free_count_(device, DType::i64, 1, 1, kPurpose) {
  const auto clusters = static_cast<int64_t>(capacities_.size());
  device_prices_ = part_of(numbers_, DType::f64, 0, clusters);
  device_dual_ = part_of(numbers_, DType::f64, clusters, 1);
  device_counts_ = part_of(numbers_, DType::i64, clusters + 1, clusters);
}

PricedAssignment::Result PricedAssignment::assign(ConstTensorView costs, std::span<const double> start_prices,
                                                  TensorView labels) {
  std::vector<double> prices(start_prices.begin(), start_prices.end());
  prices.resize(capacities_.size(), 0.0);
  const auto set_prices = [&](const std::vector<double>& values) {
    device_.copy_to_device(device_prices_.data, values.data(), static_cast<int64_t>(values.size()) * 8);
  };
  set_prices(prices);
  find_prices(costs);
  const Totals start = assign_at_prices(costs, labels, prices);
  int64_t moves = 0;
  for (size_t j = 0; j < capacities_.size(); ++j) moves += std::max<int64_t>(0, start.counts[j] - capacities_[j]);
  Result result{.prices = prices, .dual = dual(start, prices)};
  result.cost = result.dual;  // of the points where the prices put them: equal, but for clusters over or under full
  for (size_t j = 0; j < capacities_.size(); ++j)
    result.cost -= prices[j] * static_cast<double>(start.counts[j] - capacities_[j]);
  if (moves == 0) return result;
  // How many points can move is not known; the certificate says whether these were enough.
  const double cost_at_start = result.cost;
  bool moved = false;  // points are not where the start put them
  for (int64_t wanted = std::max<int64_t>(4096, 32 * moves);; wanted *= 8) {
    if (moved) {
      set_prices(prices);
      std::vector<double> same = prices;
      assign_at_prices(costs, labels, same);
    }
    moved = move_some(costs, std::min(wanted, points_), labels, start, prices, cost_at_start, result);
    if (!moved) continue;
    set_prices(result.prices);
    result.dual = dual(assign_at_prices(costs, {}, result.prices), result.prices);
    constexpr double kRounding = 1e-12;
    const double scale = std::abs(result.cost) + std::abs(result.dual);
    if (wanted >= points_ || result.cost - result.dual <= kRounding * scale) return result;
  }
}

/// Coordinate ascent, first on a sample, then on all points: only a start, what it leaves wrong is moved afterwards.
void PricedAssignment::find_prices(ConstTensorView costs) {
  constexpr int64_t kSample = 8192;
  const int64_t stride = std::max<int64_t>(1, costs.rows / kSample);
  const ConstTensorView sample{costs.data, costs.dtype, (costs.rows + stride - 1) / stride, costs.columns,
                               costs.row_stride * stride};
  sweep(sample, 6);
  if (stride > 1) sweep(costs, 2);
}

void PricedAssignment::sweep(ConstTensorView points, int sweeps) {
  if (points.rows == 0) return;
  std::vector<int64_t> ranks;
  for (const int64_t capacity : capacities_) {
    const double share =
        static_cast<double>(capacity) * static_cast<double>(points.rows) / static_cast<double>(points_);
    ranks.push_back(std::clamp<int64_t>(std::llround(share), 1, points.rows) - 1);
  }
  for (int i = 0; i < sweeps; ++i) {
    stop_if_requested("balanced assignment");
    device_.cluster_operators().price_sweep({points, ranks, device_prices_});
  }
}

PricedAssignment::Totals PricedAssignment::assign_at_prices(ConstTensorView costs, TensorView labels,
                                                            std::vector<double>& prices) {
  device_.cluster_operators().assign_at_prices({.costs = costs,
                                                .prices = device_prices_,
                                                .labels = labels,
                                                .margins = labels ? margins_.view() : TensorView(),
                                                .counts = device_counts_,
                                                .dual_sum = device_dual_});
  const std::vector<int64_t> numbers = numbers_.to_host<int64_t>();
  const size_t clusters = capacities_.size();
  Totals totals;
  prices.resize(clusters);
  std::memcpy(prices.data(), numbers.data(), clusters * 8);
  std::memcpy(&totals.dual_sum, numbers.data() + clusters, 8);
  totals.counts.assign(numbers.begin() + static_cast<int64_t>(clusters) + 1, numbers.end());
  return totals;
}

double PricedAssignment::dual(const Totals& totals, const std::vector<double>& prices) const {
  double dual = totals.dual_sum;
  for (size_t j = 0; j < prices.size(); ++j) dual -= prices[j] * static_cast<double>(capacities_[j]);
  return dual;
}

/// Solves for the `wanted` points of the smallest margins, the others staying where the prices put them. False if
/// those alone overfill a cluster. `cost_at_start` = Σ cost of all points where the prices put them.
bool PricedAssignment::move_some(ConstTensorView costs, int64_t wanted, TensorView labels, const Totals& start,
                                 const std::vector<double>& prices, double cost_at_start, Result& result) {
  device_.cluster_operators().smallest_margins(
      {.margins = margins_.view(), .wanted = wanted, .points = free_points_.view(), .count = free_count_.view()});
  const ConstTensorView free = free_points_.view().column_range(0, free_count_.to_host<int64_t>()[0]);
  const int64_t count = free.columns, clusters = costs.columns;
  if (free_rows_.bytes() < count * (clusters + 1) * 4) {
    free_rows_ = DeviceBuffer();  // freed before the larger one is asked for
    free_rows_ = device_.allocate(count * (clusters + 1) * 4, kPurpose);
  }
  // Where they are and what they cost, in one copy.
  const TensorView free_labels = free_rows_.view(DType::i32, count, 1);
  device_.model_operators().gather_rows({{labels.data, DType::i32, points_, 1}, free, free_labels});
  device_.model_operators().gather_rows({costs, free, free_rows_.view(DType::f32, count, clusters, count * 4)});
  std::vector<int32_t> start_labels(static_cast<size_t>(count));
  std::vector<float> free_costs(static_cast<size_t>(count * (clusters + 1)));
  device_.copy_to_host(free_costs.data(), free_rows_.data(), count * (clusters + 1) * 4);
  std::memcpy(start_labels.data(), free_costs.data(), static_cast<size_t>(count) * 4);
  free_costs.erase(free_costs.begin(), free_costs.begin() + count);
  std::vector<int64_t> room(capacities_.size());
  for (size_t j = 0; j < room.size(); ++j) room[j] = capacities_[j] - start.counts[j];
  for (const int32_t label : start_labels) ++room[static_cast<size_t>(label)];
  if (std::any_of(room.begin(), room.end(), [](int64_t capacity) { return capacity < 0; })) return false;
  double before = 0;
  for (size_t i = 0; i < start_labels.size(); ++i)
    before += static_cast<double>(free_costs[i * room.size() + static_cast<size_t>(start_labels[i])]);
  BalancedAssignment solved = move_along_shortest_paths(free_costs, room, prices);
  result.cost = cost_at_start - before + solved.cost;
  result.prices = std::move(solved.prices);
  device_.copy_to_device(free_labels.data, solved.labels.data(), count * 4);
  device_.cluster_operators().put_labels(
      {.points = free, .values = free_rows_.view(DType::i32, 1, count), .labels = labels});
  return true;
}

}  // namespace cbtm
