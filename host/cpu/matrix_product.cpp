#include "cpu/matrix_product.h"

#include <cstdlib>

#include "cbtm/base/threads.h"

extern "C" void sgemm_(const char* a_operation, const char* b_operation, const int* m, const int* n, const int* k,
                       const float* alpha, const float* a, const int* a_stride, const float* b, const int* b_stride,
                       const float* beta, float* c, const int* c_stride);
#ifdef CBTM_BLAS_BLIS
extern "C" void bli_thread_set_num_threads(int64_t count);
#endif

namespace cbtm::cpu {
namespace {

/// BLIS 0.9 does not know processors newer than itself and falls to generic loops on them, five times slower: where
/// AVX-512 is there, name the kernel family that needs just that. 0 is its number of "skx" (arch_t in bli_type_defs.h).
bool prepare_blas() {
#ifdef CBTM_BLAS_BLIS
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    setenv("BLIS_ARCH_TYPE", "0", /*overwrite=*/0);
#endif
  bli_thread_set_num_threads(thread_count());
#endif
  return true;
}

}  // namespace

void multiply_matrices(const MatrixProduct& p) {
  [[maybe_unused]] static const bool prepared = prepare_blas();
  if (p.m == 0 || p.n == 0) return;
  // BLAS is column-major: a row-major C is its transpose there, so C^T = op(B)^T op(A)^T.
  const int m = static_cast<int>(p.n);
  const int n = static_cast<int>(p.m);
  const int k = static_cast<int>(p.k);
  const int b_stride = static_cast<int>(p.b_stride);
  const int a_stride = static_cast<int>(p.a_stride);
  const int c_stride = static_cast<int>(p.c_stride);
  sgemm_(p.b_transposed ? "T" : "N", p.a_transposed ? "T" : "N", &m, &n, &k, &p.alpha, p.b, &b_stride, p.a, &a_stride,
         &p.beta, p.c, &c_stride);
}

}  // namespace cbtm::cpu
