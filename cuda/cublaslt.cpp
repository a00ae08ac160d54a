#include "cublaslt.h"

#include <dlfcn.h>

#include <string>

namespace cbtm::cuda {
namespace {

template <typename Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function == nullptr)
    fail("cuBLASLt: the library found has no {}; install cuBLAS {} or later", name, CUBLAS_VER_MAJOR);
}

void* open_library() {
  const std::string name = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
  for (const std::string& path : {name, "/usr/local/cuda/lib64/" + name, "/usr/local/cuda/lib/" + name})
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); library != nullptr) return library;
  fail(
      "{} is not on this machine, and matrix products on the GPU need it; install NVIDIA's package libcublas-{}-0 "
      "(developer.nvidia.com/cuda-downloads), or set LD_LIBRARY_PATH to the folder that holds it",
      name, CUBLAS_VER_MAJOR);
}

CublasLt load() {
  void* library = open_library();
  CublasLt lt{};
  find(library, "cublasLtCreate", lt.create);
  find(library, "cublasLtDestroy", lt.destroy);
  find(library, "cublasLtGetVersion", lt.get_version);
  find(library, "cublasLtGetStatusString", lt.get_status_string);
  find(library, "cublasLtMatmulDescCreate", lt.matmul_desc_create);
  find(library, "cublasLtMatmulDescDestroy", lt.matmul_desc_destroy);
  find(library, "cublasLtMatmulDescSetAttribute", lt.matmul_desc_set_attribute);
  find(library, "cublasLtMatrixLayoutCreate", lt.matrix_layout_create);
  find(library, "cublasLtMatrixLayoutDestroy", lt.matrix_layout_destroy);
  find(library, "cublasLtMatrixLayoutSetAttribute", lt.matrix_layout_set_attribute);
  find(library, "cublasLtMatmulPreferenceCreate", lt.matmul_preference_create);
  find(library, "cublasLtMatmulPreferenceDestroy", lt.matmul_preference_destroy);
  find(library, "cublasLtMatmulPreferenceSetAttribute", lt.matmul_preference_set_attribute);
  find(library, "cublasLtMatmulAlgoGetHeuristic", lt.matmul_algo_get_heuristic);
  find(library, "cublasLtMatmulAlgoCheck", lt.matmul_algo_check);
  find(library, "cublasLtMatmul", lt.matmul);
  return lt;
}

}  // namespace

const CublasLt& cublas_lt() {
  static const CublasLt lt = load();  // a throw leaves it unset: the next call tries again
  return lt;
}

bool captured_products_run_once() {
  static const bool simulated = dlsym(RTLD_DEFAULT, "cudasim_enqueue") != nullptr;
  return simulated;
}

void fail_cublas_lt(cublasStatus_t status, const char* what, const char* file, int line) {
  fail("cuBLASLt: {} in {}, {}:{}", cublas_lt().get_status_string(status), what, file, line);
}

}  // namespace cbtm::cuda
