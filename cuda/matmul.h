#pragma once

#include <memory>
#include <string>

#include "cbtm/base/ceil_divide.h"
#include "cbtm/device/tensor.h"
#include "runtime/context.h"

namespace cbtm::cuda {

/// c = epilogue(alpha * op(a) op(b) + beta * c), row-major. op(a) is [m, k]: `a` is, or, if
/// transpose_a, its transpose; op(b) is [k, n] likewise; c is [m, n]. a and b have one type (float32, bfloat16 or
/// float16), c that one or float32. Sums in float32 (no TF32). With several batches, matrix i lies i * batch_stride
/// elements after the first.
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

/// One launch of cuBLASLt, or of our own kernel for compute capability 9.0 (hopper/product.h) where that takes the
/// product and is faster. Where cuBLASLt has no algorithm with the epilogue, or one is slower, the epilogue is a kernel
/// of our own behind the product (a result of 16 bits is then rounded once more); where it has none for the product at
/// all, so is that. A warning says so once for each kind. Uses scratch memory of its own, and for a_sums, if they come
/// apart, Context::workspace (column_sums_scratch_bytes of activation.h).
void matmul(Context& context, const MatmulArguments& arguments);

/// How every product met is made, with cuBLASLt's handle and scratch memory. Large ones are timed once a shape, the
/// algorithms that cuBLASLt proposes, with and without the epilogue, and our own kernel where it applies; the choice is
/// kept in a file, so that later runs on this GPU add in the same order. Small ones take the first proposal. Timing
/// takes no memory: it writes where the product will. So a product that adds to its output is timed only while tuning,
/// else it takes the first proposal.
class MatmulPlans {
 public:
  /// `cache_file`: empty for none. Throws Error if cuBLASLt is not on this machine.
  MatmulPlans(const std::string& cache_file, cudaStream_t stream);
  ~MatmulPlans();
  MatmulPlans(const MatmulPlans&) = delete;
  MatmulPlans& operator=(const MatmulPlans&) = delete;

  struct State;
  State& state() { return *state_; }
  /// While on, outputs may be left with any values: what adds to its output is timed too.
  void tune(bool on);
  /// This GPU exchanges values with others: one that times waits for its own exchange, and that for the other, which
  /// may wait for its turn to time. So from now on nothing is timed but while tuning, when nothing is exchanged.
  void join_group();
  /// Products that have been asked for so far.
  int64_t products() const;
  /// Those of them that our own kernel for compute capability 9.0 has made, or is recorded to make.
  int64_t hopper_products() const;

  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace cbtm::cuda
