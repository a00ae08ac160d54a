#pragma once

#include <cstdint>

namespace cbtm::cpu {

/// C[m, n] = alpha op(A) op(B) + beta C over row-major float32 matrices, by the BLAS this build links, on
/// thread_count() threads. op(A) is [m, k], op(B) is [k, n]; strides are those of the matrices as stored.
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
  float alpha = 1;
  float beta = 0;
};
void multiply_matrices(const MatrixProduct& product);

}  // namespace cbtm::cpu
