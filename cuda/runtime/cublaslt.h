#pragma once

#include <cublasLt.h>

#include "cbtm/base/error.h"

namespace cbtm::cuda {

/// The functions of cuBLASLt that we call. They are found in the library when it is first needed, so that the binary
/// starts on machines that lack it, or are linked (CBTM_STATIC).
struct CublasLt {
  decltype(&::cublasLtCreate) create;
  decltype(&::cublasLtDestroy) destroy;
  decltype(&::cublasLtGetVersion) get_version;
  decltype(&::cublasLtGetStatusString) get_status_string;
  decltype(&::cublasLtMatmulDescCreate) matmul_desc_create;
  decltype(&::cublasLtMatmulDescDestroy) matmul_desc_destroy;
  decltype(&::cublasLtMatmulDescSetAttribute) matmul_desc_set_attribute;
  decltype(&::cublasLtMatrixLayoutCreate) matrix_layout_create;
  decltype(&::cublasLtMatrixLayoutDestroy) matrix_layout_destroy;
  decltype(&::cublasLtMatrixLayoutSetAttribute) matrix_layout_set_attribute;
  decltype(&::cublasLtMatmulPreferenceCreate) matmul_preference_create;
  decltype(&::cublasLtMatmulPreferenceDestroy) matmul_preference_destroy;
  decltype(&::cublasLtMatmulPreferenceSetAttribute) matmul_preference_set_attribute;
  decltype(&::cublasLtMatmulAlgoGetHeuristic) matmul_algo_get_heuristic;
  decltype(&::cublasLtMatmulAlgoCheck) matmul_algo_check;
  decltype(&::cublasLtMatmul) matmul;
};

/// Throws Error that names the package if the library is not there or lacks a function.
const CublasLt& cublas_lt();

[[noreturn]] void fail_cublas_lt(cublasStatus_t status, const char* what, const char* file, int line);
inline void check_cublas_lt(cublasStatus_t status, const char* what, const char* file, int line) {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    fail_cublas_lt(status, what, file, line);
}

}  // namespace cbtm::cuda

/// A call of cuBLASLt: CBTM_CUBLASLT(lt.matmul(...)). Every status is checked.
#define CBTM_CUBLASLT(call) ::cbtm::cuda::check_cublas_lt((call), #call, __FILE__, __LINE__)
