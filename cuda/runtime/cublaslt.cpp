#include "runtime/cublaslt.h"

#include "cbtm/device/device_error.h"
#include "runtime/call_place.h"
#include "runtime/library.h"

namespace cbtm::cuda {
namespace {

#if CBTM_LINKED_CUBLAS_LT

#define CBTM_FIND(name) name

#else

Library open_library() {
  return Library("cuBLASLt", fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR), "matrix products on the GPU need it",
                 fmt::format("libcublas-{}-0", CUBLAS_VER_MAJOR));
}

#define CBTM_FIND(name) library.find<decltype(name)>(#name)

#endif

CublasLt load() {
#if !CBTM_LINKED_CUBLAS_LT
  const Library library = open_library();
#endif
  return {
      .create = CBTM_FIND(cublasLtCreate),
      .destroy = CBTM_FIND(cublasLtDestroy),
      .get_version = CBTM_FIND(cublasLtGetVersion),
      .get_status_string = CBTM_FIND(cublasLtGetStatusString),
      .matmul_desc_create = CBTM_FIND(cublasLtMatmulDescCreate),
      .matmul_desc_destroy = CBTM_FIND(cublasLtMatmulDescDestroy),
      .matmul_desc_set_attribute = CBTM_FIND(cublasLtMatmulDescSetAttribute),
      .matrix_layout_create = CBTM_FIND(cublasLtMatrixLayoutCreate),
      .matrix_layout_destroy = CBTM_FIND(cublasLtMatrixLayoutDestroy),
      .matrix_layout_set_attribute = CBTM_FIND(cublasLtMatrixLayoutSetAttribute),
      .matmul_preference_create = CBTM_FIND(cublasLtMatmulPreferenceCreate),
      .matmul_preference_destroy = CBTM_FIND(cublasLtMatmulPreferenceDestroy),
      .matmul_preference_set_attribute = CBTM_FIND(cublasLtMatmulPreferenceSetAttribute),
      .matmul_algo_get_heuristic = CBTM_FIND(cublasLtMatmulAlgoGetHeuristic),
      .matmul_algo_check = CBTM_FIND(cublasLtMatmulAlgoCheck),
      .matmul = CBTM_FIND(cublasLtMatmul),
  };
}

#undef CBTM_FIND

}  // namespace

const CublasLt& cublas_lt() {
  static const CublasLt lt = load();  // a throw leaves it unset: the next call tries again
  return lt;
}

void fail_cublas_lt(cublasStatus_t status, const char* what, const char* file, int line) {
  fail_device("cuBLASLt: {} at {}; run the same command once more, and report it if it fails again",
              cublas_lt().get_status_string(status), call_place(what, file, line));
}

}  // namespace cbtm::cuda
