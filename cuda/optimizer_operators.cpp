#include "optimizer_operators.h"

#include "finite.h"
#include "optimizer.h"
#include "runtime/phases.h"

namespace cbtm::cuda {

void CudaOptimizerOperators::gradient_square_sum(ConstTensorView gradients, TensorView square_sum) {
  const OperatorRange range("gradient_square_sum");
  cuda::gradient_square_sum(context_, gradients, square_sum);
}

void CudaOptimizerOperators::adamw(const AdamW& a) {
  const OperatorRange range("adamw");
  cuda::adamw(context_, a);
}

void CudaOptimizerOperators::require_finite(ConstTensorView values, TensorView result) {
  const OperatorRange range("require_finite");
  cuda::require_finite(context_, values, result);
}

}  // namespace cbtm::cuda
