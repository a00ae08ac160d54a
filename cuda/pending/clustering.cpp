#include "clustering.h"

// Compiled only as long as cuda/clustering.cu (or .cpp) does not exist.
namespace cbtm::cuda {

void sparse_times_dense(Context&, const SparseMatrix&, ConstTensorView, TensorView) {
  fail("sparse_times_dense: the CUDA device does not have it yet");
}
void squared_distances(Context&, ConstTensorView, ConstTensorView, TensorView) {
  fail("squared_distances: the CUDA device does not have it yet");
}

}  // namespace cbtm::cuda
