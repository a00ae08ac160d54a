#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cbtm/device/device_matrix.h"

namespace cbtm {

/// The algorithm of balanced_assignment (cbtm/cluster/balanced_assignment.h) for a caller that keeps costs and labels
/// on the device and assigns again and again. Memory is taken once. What comes to the host each time does not grow with
/// the number of points, but for the costs of those that could move.
class PricedAssignment {
 public:
  PricedAssignment(Device& device, int64_t points, std::vector<int64_t> capacities);

  struct Result {
    std::vector<double> prices;
    double cost = 0, dual = 0;
  };
  /// costs [points, clusters] and labels int32 [1, points], on the device; start_prices may be empty.
  Result assign(ConstTensorView costs, std::span<const double> start_prices, TensorView labels);

 private:
  /// What an assignment at prices says of all points together.
  struct Totals {
    std::vector<int64_t> counts;
    double dual_sum = 0;
  };

  void find_prices(ConstTensorView costs);
  void sweep(ConstTensorView points, int sweeps);
  /// At the prices on the device, which are read back. `labels` empty: neither labels nor margins are wanted.
  Totals assign_at_prices(ConstTensorView costs, TensorView labels, std::vector<double>& prices);
  double dual(const Totals& totals, const std::vector<double>& prices) const;
  bool move_some(ConstTensorView costs, int64_t wanted, TensorView labels, const Totals& start,
                 const std::vector<double>& prices, double cost_at_start, Result& result);

  Device& device_;
  int64_t points_;
  std::vector<int64_t> capacities_;
  DeviceMatrix numbers_;  ///< prices, dual sum, counts: 8 bytes each, so that one copy brings all of them
  TensorView device_prices_, device_dual_, device_counts_;
  DeviceMatrix margins_, free_points_, free_count_;
  DeviceBuffer free_rows_;  ///< labels and costs of the points that could move; grows
};

}  // namespace cbtm
