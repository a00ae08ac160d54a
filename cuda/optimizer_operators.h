#pragma once

#include "cbtm/device/optimizer_operators.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// The optimizer on a GPU: each operator opens its range for a profiler and calls the function of its family.
class CudaOptimizerOperators final : public OptimizerOperators {
 public:
  explicit CudaOptimizerOperators(Context& context) : context_(context) {}

  void gradient_square_sum(ConstTensorView gradients, TensorView square_sum) override;
  void adamw(const AdamW& a) override;
  void require_finite(ConstTensorView values, TensorView result) override;

 private:
  Context& context_;
};

}  // namespace cbtm::cuda
