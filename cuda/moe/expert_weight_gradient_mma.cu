// Weight gradients of a mixture's experts by tensor cores.

#include "dispatch.h"
#include "moe/expert_linear_mma.h"
#include "moe/expert_product.cuh"
#include "runtime/check.h"
#include "runtime/shared_memory_limit.h"

namespace cbtm::cuda {
namespace {

template <typename Element>
struct Params {
  const Element* output_gradient;  ///< [2 * rows, out]
  int64_t output_gradient_stride;
  const Element* input;  ///< [2 * rows, in]
  int64_t input_stride;
  const int32_t* offsets;
  float* weight_gradient;  ///< [experts * out, in]
  int64_t weight_gradient_stride;
  int out, in;
  bool pairs;  ///< rows of the gradient start at multiples of two elements
};

// weight_gradient_e[o][i] += Σ_p output_gradient[p][o] input[p][i] over the expert's sorted rows
//
// grid      one block per expert and 128 x 128 of its gradient, 2 x 4 warps with 64 x 32 each; blocks of experts
//           without rows end at once and touch nothing
// work      both operands by cp.async, three stages of 32 rows, transposed by ldmatrix
// bytes     8 * out * in per expert with rows, the gradient read and written once, in whole sectors; its rows of both
//           operands once for every 128 columns of the other, mostly from the L2
// numerics  products exact, float32 sums in the order of the rows, added to what was there
template <typename Element, bool kAligned>
__global__ void __launch_bounds__(kProductThreads, 2) expert_weight_gradient(const Params<Element> p) {
  extern __shared__ __align__(16) unsigned char memory[];
  const int row_tiles = (p.out + kProductTile - 1) / kProductTile,
            column_tiles = (p.in + kProductTile - 1) / kProductTile;
  const auto number = static_cast<int>(blockIdx.x);
  const int expert = number / (row_tiles * column_tiles);
  const int first_row = number / column_tiles % row_tiles * kProductTile;
  const int first_column = number % column_tiles * kProductTile;
  const int begin = p.offsets[expert], rows = p.offsets[expert + 1] - begin;
  if (rows == 0) return;
  ProductSums sums;
  multiply_tile<Depth::down_columns, Depth::down_columns, kAligned, Element>(
      {p.output_gradient + begin * p.output_gradient_stride + first_row, p.output_gradient_stride, p.out - first_row},
      {p.input + begin * p.input_stride + first_column, p.input_stride, p.in - first_column}, rows,
      reinterpret_cast<Element*>(memory), sums);
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const int warp_row = first_row + product_warp_row() + g, warp_column = first_column + product_warp_column() + 2 * t;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + 16 * i + 8 * half;
      if (row >= p.out) continue;
      float* const to = p.weight_gradient + (int64_t{expert} * p.out + row) * p.weight_gradient_stride;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int column = warp_column + 8 * j;
        if (p.pairs && column + 1 < p.in) {
          float2& pair = *reinterpret_cast<float2*>(to + column);
          const float2 before = pair;
          pair = {before.x + sums[i][j][2 * half], before.y + sums[i][j][2 * half + 1]};
        } else {
          if (column < p.in) to[column] += sums[i][j][2 * half];
          if (column + 1 < p.in) to[column + 1] += sums[i][j][2 * half + 1];
        }
      }
    }
}

template <typename Element>
void weight_gradient(Context& context, const ExpertLinearBackward& a) {
  const Params<Element> p{.output_gradient = a.output_gradient.as<Element>(),
                          .output_gradient_stride = a.output_gradient.row_stride,
                          .input = a.input.as<Element>(),
                          .input_stride = a.input.row_stride,
                          .offsets = a.offsets.as<int32_t>(),
                          .weight_gradient = a.weight_gradient.as<float>(),
                          .weight_gradient_stride = a.weight_gradient.row_stride,
                          .out = static_cast<int>(a.out()),
                          .in = static_cast<int>(a.input.columns),
                          .pairs = rows_aligned(a.weight_gradient, 8)};
  const int64_t blocks = a.experts() * ceil_divide(p.out, kProductTile) * ceil_divide(p.in, kProductTile);
  dispatch_bool(rows_aligned(a.output_gradient, 16) && rows_aligned(a.input, 16), [&]<bool kAligned>() {
    const auto kernel = expert_weight_gradient<Element, kAligned>;
    allow_shared_bytes(reinterpret_cast<const void*>(kernel), kProductSharedBytes);
    kernel<<<static_cast<unsigned>(blocks), kProductThreads, kProductSharedBytes, context.stream>>>(p);
  });
  CBTM_CUDA_LAUNCHED("expert_weight_gradient");
}

}  // namespace

void expert_weight_gradient_mma(Context& context, const ExpertLinearBackward& arguments) {
  if (arguments.input.dtype == DType::bf16) return weight_gradient<bf16>(context, arguments);
  weight_gradient<f16>(context, arguments);
}

}  // namespace cbtm::cuda
