#include "check.h"

namespace cbtm::cuda {

void fail_cuda(cudaError_t status, const char* what, const char* file, int line) {
  fail("CUDA: {} ({}) in {}, {}:{}", cudaGetErrorString(status), cudaGetErrorName(status), what, file, line);
}

}  // namespace cbtm::cuda
