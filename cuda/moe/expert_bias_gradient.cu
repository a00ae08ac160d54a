// Bias gradients of a mixture's experts.

#include "dispatch.h"
#include "elements.cuh"
#include "moe/expert_linear.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kLaneBytes = 8;  ///< so that even few columns have many blocks

template <typename Element>
constexpr int kLength = kLaneBytes / static_cast<int>(sizeof(Element));
/// Columns of a block.
template <typename Element>
constexpr int kColumns = 32 * kLength<Element>;

// bias_gradient_e[o] += Σ_p output_gradient[p][o] over the expert's sorted rows
//
// mapping   grid (columns / kColumns, experts); a warp takes every 8th row, a lane 8 bytes of it, four rows at a time;
//           then the warps in order through shared memory. Experts without rows touch nothing.
// bytes     kept rows * out * element, once; experts * out * 8
// numerics  float32; the order follows from the number of the expert's rows
template <bool kAligned, typename Element>
__global__ void __launch_bounds__(32 * kWarps)
    expert_column_sums(const Element* __restrict__ rows, int64_t stride, const int32_t* __restrict__ offsets,
                       int columns, float* __restrict__ sums) {
  constexpr int kCount = kLength<Element>, kUnroll = 4;
  __shared__ float shared[kWarps][kCount][32];
  const auto expert = static_cast<int>(blockIdx.y);
  const int begin = offsets[expert], end = offsets[expert + 1];
  if (begin == end) return;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int first = static_cast<int>(blockIdx.x) * kColumns<Element>;
  const int available = max(0, min(kCount, columns - first - lane * kCount));
  const Element* const from = rows + first + lane * kCount;
  float totals[kCount] = {};
  for (int row = begin + warp; row < end; row += kUnroll * kWarps) {
    Packed<Element, kCount> loaded[kUnroll] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (row + u * kWarps < end)
        loaded[u] = load_packed<Element, kCount>(from + (row + u * kWarps) * stride, available, kAligned);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float values[kCount];
      loaded[u].unpack(values);
#pragma unroll
      for (int i = 0; i < kCount; ++i) totals[i] += values[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) shared[warp][i][lane] = totals[i];
  __syncthreads();
  for (auto place = static_cast<int>(threadIdx.x); place < kColumns<Element>; place += 32 * kWarps) {
    const int of_lane = place / kCount, i = place % kCount;
    if (first + place >= columns) continue;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += shared[w][i][of_lane];
    sums[int64_t{expert} * columns + first + place] += sum;
  }
}

}  // namespace

void expert_bias_gradient(Context& context, const ExpertLinearBackward& arguments) {
  const ConstTensorView rows = arguments.output_gradient;
  dispatch_floating(rows.dtype, [&]<typename Element>() {
    const dim3 grid(static_cast<unsigned>(ceil_divide(rows.columns, kColumns<Element>)),
                    static_cast<unsigned>(arguments.experts()));
    dispatch_bool(rows_aligned(rows, kLaneBytes), [&]<bool kAligned>() {
      expert_column_sums<kAligned><<<grid, 32 * kWarps, 0, context.stream>>>(
          rows.as<Element>(), rows.row_stride, arguments.offsets.as<int32_t>(), static_cast<int>(rows.columns),
          arguments.bias_gradient.as<float>());
    });
  });
  CBTM_CUDA_LAUNCHED("expert_column_sums");
}

}  // namespace cbtm::cuda
