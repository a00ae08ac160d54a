// Products of float16 operands by TMA and wgmma.

#include "hopper/product_kernel.cuh"

namespace cbtm::cuda::hopper {

void launch_product_f16(ProductKind kind, const ProductParams& params, int multiprocessors, cudaStream_t stream) {
  launch_product<__half, f16>(kind, params, multiprocessors, stream);
}

}  // namespace cbtm::cuda::hopper
