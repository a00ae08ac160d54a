#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace cbtm::cuda::hopper {

inline constexpr int kProductBlockRows = 128;  ///< of c, a block: 64 each of two warpgroups
inline constexpr int kProductColumns = 256;    ///< of c, a block
inline constexpr int kProductDepth = 64;       ///< of k, a stage
inline constexpr int kProductCluster = 2;      ///< blocks, one above the other, that load the right operand together

/// The operands' orders and c's type: what product_kernel is compiled for.
enum class ProductKind {
  forward,          ///< [m, k] [n, k]ᵀ, 16 bits
  forward_float,    ///< the same, c is float32
  input_gradient,   ///< [m, k] [k, n], 16 bits
  weight_gradient,  ///< [k, m]ᵀ [k, n], c is float32
};

/// Arguments of product_kernel.
struct ProductParams {
  CUtensorMap a, b;  ///< tiles of 64 of k: 128 rows where k is contiguous, else 64 of k by 64
  int m, n, k;
  void* c;  ///< rows 16-byte aligned
  int64_t c_stride;
  float alpha, beta;

  // With c of 16 bits:
  const void* bias;  ///< [n] of c's type, 4-byte aligned; or null
  bool relu;
  uint8_t* mask;  ///< written: bit 1 where c is positive, 4-byte aligned rows; or null
  int64_t mask_stride;
  const uint8_t* derivative_mask;  ///< c is set to 0 where its bit is 0; or null
  int64_t derivative_mask_stride;

  // With a weight gradient:
  float* a_sums;  ///< [m], written: the sums of a over k; or null
};

void launch_product_bf16(ProductKind kind, const ProductParams& params, int multiprocessors, cudaStream_t stream);
void launch_product_f16(ProductKind kind, const ProductParams& params, int multiprocessors, cudaStream_t stream);

}  // namespace cbtm::cuda::hopper
