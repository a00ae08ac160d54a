#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "attention/attention_kernels.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kRows = 32;  // of a block: what is written a head is 128 contiguous bytes
constexpr int kHeads = 8;  // of a block: what is read of a row of log_sum_exp is a sector
constexpr int kLanes = 8;  // a row and head; 8 x 16 bytes are a row of 64 16-bit elements
constexpr int kThreads = kRows * kLanes;

__device__ __forceinline__ float product(float a, float b) { return a * b; }
__device__ __forceinline__ float product(__nv_bfloat16 a, __nv_bfloat16 b) {
  return __bfloat162float(a) * __bfloat162float(b);
}
__device__ __forceinline__ float product(__half a, __half b) { return __half2float(a) * __half2float(b); }

// What the backward kernels need of each query row r and head h, head by head, so that a tile of rows is contiguous:
//
//   row_term[h,r] = sum_c output[r,h,c] * output_gradient[r,h,c],  row_log_sum_exp[h,r] = log_sum_exp[r,h]
//
// grid      a block 32 rows and 8 heads; 8 lanes a row and head, 16 bytes a lane at a time (kVector elements).
// bytes     reads 2 * rows * heads * head_dim * element size + 4 * rows * heads, writes 8 * rows * heads.
// order     lanes by a shuffle tree: fixed.
template <typename Element, int kVector>
__global__ void __launch_bounds__(kThreads)
    attention_row_terms(const AttentionParams params, float* __restrict__ row_log_sum_exp,
                        float* __restrict__ row_term) {
  __shared__ float terms[kHeads][kRows];
  __shared__ float log_sums[kHeads][kRows + 4];  // 4: the rows and heads that a warp writes fall into different banks
  struct alignas(kVector * sizeof(Element)) Vector {
    Element element[kVector];
  };
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int block_row = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRows;
  const int64_t row = first_row + block_row;
  const int first_head = static_cast<int>(blockIdx.y) * kHeads;
  const int heads = min(kHeads, params.num_heads - first_head);
  const bool inside = row < params.query_rows;
  for (int h = 0; h < heads; ++h) {
    float sum = 0;
    if (inside) {
      const int64_t column = static_cast<int64_t>(first_head + h) * params.head_dim;
      const Element* output = static_cast<const Element*>(params.output.data) + row * params.output.stride + column;
      const Element* gradient =
          static_cast<const Element*>(params.output_gradient.data) + row * params.output_gradient.stride + column;
      for (int c = lane * kVector; c < params.head_dim; c += kLanes * kVector) {
        const Vector a = *reinterpret_cast<const Vector*>(output + c);
        const Vector b = *reinterpret_cast<const Vector*>(gradient + c);
#pragma unroll
        for (int e = 0; e < kVector; ++e) sum += product(a.element[e], b.element[e]);
      }
    }
#pragma unroll
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    if (lane == 0) terms[h][block_row] = sum;
  }
  if (inside && lane < heads)
    log_sums[lane][block_row] = params.log_sum_exp[row * params.log_sum_exp_stride + first_head + lane];
  __syncthreads();
  const int h = static_cast<int>(threadIdx.x) / kRows;
  const int r = static_cast<int>(threadIdx.x) % kRows;
  if (h < heads && first_row + r < params.query_rows) {
    const int64_t at = (first_head + h) * params.query_rows + first_row + r;
    row_term[at] = terms[h][r];
    row_log_sum_exp[at] = log_sums[h][r];
  }
}

}  // namespace

void launch_attention_row_terms(const Context& context, DType dtype, const AttentionParams& params,
                                float* row_log_sum_exp, float* row_term) {
  const dim3 grid(static_cast<unsigned>((params.query_rows + kRows - 1) / kRows),
                  static_cast<unsigned>((params.num_heads + kHeads - 1) / kHeads));
  const auto launch = [&]<typename Element>() {
    if (params.vectorised)
      attention_row_terms<Element, 16 / sizeof(Element)>
          <<<grid, kThreads, 0, context.stream>>>(params, row_log_sum_exp, row_term);
    else
      attention_row_terms<Element, 1><<<grid, kThreads, 0, context.stream>>>(params, row_log_sum_exp, row_term);
  };
  switch (dtype) {
    case DType::bf16: launch.template operator()<__nv_bfloat16>(); break;
    case DType::f16: launch.template operator()<__half>(); break;
    default: launch.template operator()<float>(); break;
  }
  CBTM_CUDA_LAUNCHED("attention_row_terms");
}

}  // namespace cbtm::cuda
