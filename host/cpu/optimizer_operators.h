#pragma once

#include "cbtm/device/optimizer_operators.h"
#include "cpu/simd/kernels.h"

namespace cbtm {

/// The optimizer on the processor.
class CpuOptimizerOperators : public OptimizerOperators {
 public:
  CpuOptimizerOperators() : kernels_(cpu::kernels()) {}

  void gradient_square_sum(ConstTensorView gradients, TensorView square_sum) override;
  void adamw(const AdamW& arguments) override;
  void require_finite(ConstTensorView values, TensorView result) override;

 private:
  const cpu::Kernels& kernels_;
};

}  // namespace cbtm
