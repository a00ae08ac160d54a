#pragma once

#include <cstdint>

#include "cpu/simd/kernels.h"

namespace cbtm::cpu {

/// C[m, n] (+)= op(A) op(B) over row-major float32 matrices, on thread_count() threads. op(A) is [m, k], op(B) is
/// [k, n]; strides are those of the matrices as stored. The result does not depend on the number of threads.
struct MatrixProduct {
  int64_t m, n, k;
  const float* a;
  int64_t a_stride;
  bool a_transposed;
  const float* b;
  int64_t b_stride;
  bool b_transposed;
  float* c;
  int64_t c_stride;
  bool accumulate = false;
};
void multiply_matrices(const Kernels& kernels, const MatrixProduct& product);

}  // namespace cbtm::cpu
