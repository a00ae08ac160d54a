#pragma once

#include <cmath>
#include <set>
#include <utility>

#include "cpu/cpu_device.h"

namespace cbtm {

/// The processor, but the gradients of some optimizer steps (counted from 1) are not finite.
class FailingDevice : public CpuDevice {
 public:
  explicit FailingDevice(std::set<int> failing) : operators_(std::move(failing)) {}
  OptimizerOperators& optimizer_operators() override { return operators_; }

 private:
  class FailingOperators : public CpuOptimizerOperators {
   public:
    explicit FailingOperators(std::set<int> failing) : failing_(std::move(failing)) {}
    void gradient_square_sum(ConstTensorView gradients, TensorView square_sum) override {
      CpuOptimizerOperators::gradient_square_sum(gradients, square_sum);
      if (failing_.contains(++calls_)) *square_sum.as<double>() = INFINITY;
    }

   private:
    std::set<int> failing_;
    int calls_ = 0;
  };

  FailingOperators operators_;
};

}  // namespace cbtm
