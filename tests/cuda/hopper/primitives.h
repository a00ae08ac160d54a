#pragma once

#include <cuda_runtime.h>

#include "cbtm/device/tensor.h"

namespace cbtm::cuda {

/// How a test's product takes its operands.
struct PrimitiveCase {
  int columns;                     ///< of the right operand: 16, 80, 128 or 256
  bool left_from_registers;        ///< else from shared memory
  bool left_by_rows_of_k = false;  ///< the left matrix is [k, 128]: its rows are contiguous, not k
  bool right_by_rows_of_k;         ///< the right matrix is [k, columns], else [columns, k]
};

/// c [128, columns] float32 = left right by TMA and wgmma, of bfloat16 or float16 matrices with up to 192 of
/// k. Rows beyond those of the matrices count as zeros.
void multiply_by_primitives(const PrimitiveCase& primitive_case, ConstTensorView left, ConstTensorView right,
                            TensorView c, cudaStream_t stream);

}  // namespace cbtm::cuda
