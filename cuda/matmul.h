#pragma once

#include <memory>
#include <string>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/device/tensor.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// c = epilogue(alpha * op(a) op(b) + beta * c), row-major, one launch of cuBLASLt. op(a) is [m, k]: `a` is, or, if
/// transpose_a, its transpose; op(b) is [k, n] likewise; c is [m, n]. a and b have one type (float32, bfloat16 or
/// float16), c that one or float32. Sums in float32 (no TF32). Uses scratch memory of its own, not Context::workspace.
/// With several batches, matrix i lies i * batch_stride elements after the first.
struct MatmulArguments {
  ConstTensorView a, b;
  bool transpose_a = false, transpose_b = false;
  TensorView c;
  float alpha = 1;
  float beta = 0;

  int batch_count = 1;
  int64_t a_batch_stride = 0, b_batch_stride = 0, c_batch_stride = 0;

  // Epilogue, without batches.
  ConstTensorView bias;  ///< [1, n] of c's type, added to every row; or empty
  bool relu = false;
  TensorView relu_mask;                  ///< u8 [m, relu_mask_columns(n)], written with relu: bit 1 where positive
  ConstTensorView relu_derivative_mask;  ///< such a mask: c is set to 0 where its bit is 0
  TensorView a_sums;                     ///< [1, m] of c's type: Σ_k op(a)[m][k], written; or empty
};

/// Bytes of a row of a ReLU mask for `columns` columns: whole 128-bit units.
constexpr int64_t relu_mask_columns(int64_t columns) { return ceil_divide(columns, 128) * 16; }

void matmul(Context& context, const MatmulArguments& arguments);

/// Whether cuBLASLt has an algorithm for these; without an epilogue it always has. What is not supported is asked once
/// a shape.
bool matmul_supported(Context& context, const MatmulArguments& arguments);

/// The choice of algorithm for every shape met, with cuBLASLt's handle and scratch memory. Large products are timed
/// once a shape (the first algorithms that cuBLASLt proposes, into scratch memory) and the choice is kept in a file, so
/// that later runs on this GPU add in the same order; small ones take the first proposal.
class MatmulPlans {
 public:
  /// `cache_file`: empty for none. Throws Error if cuBLASLt is not on this machine.
  MatmulPlans(const std::string& cache_file, cudaStream_t stream);
  ~MatmulPlans();
  MatmulPlans(const MatmulPlans&) = delete;
  MatmulPlans& operator=(const MatmulPlans&) = delete;

  struct State;
  State& state() { return *state_; }
  /// Products that have been asked for so far.
  int64_t products() const;

  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace cbtm::cuda
