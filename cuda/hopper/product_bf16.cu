// Products of bfloat16 operands by TMA and wgmma.

#include "hopper/product_kernel.cuh"

namespace cbtm::cuda::hopper {

void launch_product_bf16(ProductKind kind, const ProductParams& params, int multiprocessors, cudaStream_t stream) {
  launch_product<__nv_bfloat16, bf16>(kind, params, multiprocessors, stream);
}

}  // namespace cbtm::cuda::hopper
