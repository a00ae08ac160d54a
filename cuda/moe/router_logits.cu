// Logits of the router of a mixture of experts.

#include "decode_linear_mma_block.cuh"
#include "dispatch.h"
#include "elements.cuh"
#include "moe/expert_linear_mma.h"
#include "moe/route_tokens.h"
#include "row_sum.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

// logits[s][e] = Σ_i input[s][i] router[e][i], both of one 16-bit type.
//
// grid      tiles of 8 kRowTiles tokens by tiles of 16 kTiles experts; a block's 8 warps share the columns
//           (decode_linear_block), for tokens may be few
// bytes     rows * width * 2 from memory once, from the L2 for every tile of experts; experts * width * 2 from the L2
//           for every tile of tokens
// numerics  products exact, float32 sums: a warp's in the tensor cores' order, then the warps' in turn. That order is
//           the same for all experts and tokens, so that equal rows of the router give equal logits.
template <typename Element, bool kWhole, int kTiles, int kRowTiles>
__global__ void __launch_bounds__(kThreads) router_logits_mma(const Params p) {
  __shared__ DecodeShared<Element, kTiles> shared;
  const int64_t first_row = int64_t{blockIdx.x} * kRowTiles * kTileRows;
  Params rows = p;
  rows.input = static_cast<const Element*>(p.input) + first_row * p.input_stride;
  rows.rows = static_cast<int>(min(p.rows - first_row, int64_t{kRowTiles * kTileRows}));
  float* const logits = static_cast<float*>(p.output) + first_row * p.output_stride;
  decode_linear_block<Element, Element, kWhole, kTiles, kRowTiles>(
      rows, int64_t{blockIdx.y} * kTiles * kTileOutputs, shared,
      [&](int row, int64_t expert, float sum) { logits[row * p.output_stride + expert] = sum; });
}

template <typename Element>
void launch_mma(Context& context, const Params& p) {
  dispatch_bool(is_whole<Element>(p), [&]<bool kWhole>() {
    const auto launch = [&]<int kTiles, int kRowTiles>() {
      const dim3 grid(static_cast<unsigned>(ceil_divide(p.rows, kRowTiles * kTileRows)),
                      static_cast<unsigned>(ceil_divide(p.out, kTiles * kTileOutputs)));
      router_logits_mma<Element, kWhole, kTiles, kRowTiles><<<grid, kThreads, 0, context.stream>>>(p);
      CBTM_CUDA_LAUNCHED("router_logits_mma");
    };
    if (p.rows <= kTileRows) return launch.template operator()<1, 1>();
    if (p.out <= kTileOutputs) return launch.template operator()<1, 4>();
    launch.template operator()<2, 4>();
  });
}

constexpr int kExpertsAtOnce = 8;

// The same for any types.
//
// mapping   one warp per token; its lanes take the columns in turn, kExpertsAtOnce experts at a time
// bytes     rows * width * (element + experts * router element / L1 hits); for float32 models, and for checking
// numerics  float32: a lane's columns in order, then the lanes by a fixed tree, alike for all experts and tokens
template <typename Element, typename Router>
__global__ void __launch_bounds__(kThreads)
    router_logits_warp_per_row(const Element* __restrict__ input, int64_t input_stride,
                               const Router* __restrict__ router, int64_t router_stride, int rows, int experts,
                               int width, float* __restrict__ logits, int64_t logits_stride) {
  const int row = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (row >= rows) return;
  const Element* const from = input + row * input_stride;
  for (int first = 0; first < experts; first += kExpertsAtOnce) {
    float sums[kExpertsAtOnce] = {};
    for (int column = lane; column < width; column += 32) {
      const float x = widened(from[column]);
#pragma unroll
      for (int e = 0; e < kExpertsAtOnce; ++e)
        if (first + e < experts) sums[e] = fmaf(x, widened(router[(first + e) * router_stride + column]), sums[e]);
    }
#pragma unroll
    for (int e = 0; e < kExpertsAtOnce; ++e) {
      const float sum = warp_sum(sums[e]);
      if (lane == 0 && first + e < experts) logits[row * logits_stride + first + e] = sum;
    }
  }
}

}  // namespace

void router_logits(Context& context, const RouteTokens& arguments) {
  const ConstTensorView input = arguments.input, router = arguments.router;
  const TensorView logits = arguments.routing.logits;
  if (input.dtype == router.dtype && has_tensor_cores(input.dtype, context.compute_capability)) {
    LinearForward product;
    product.input = input;
    product.weight = router;
    product.output = logits;
    if (input.dtype == DType::bf16) return launch_mma<bf16>(context, linear_params(product));
    return launch_mma<f16>(context, linear_params(product));
  }
  const auto blocks = static_cast<unsigned>(ceil_divide(input.rows, kWarps));
  dispatch_floating(input.dtype, [&]<typename Element>() {
    dispatch_floating(router.dtype, [&]<typename Router>() {
      router_logits_warp_per_row<<<blocks, kThreads, 0, context.stream>>>(
          input.as<Element>(), input.row_stride, router.as<Router>(), router.row_stride, static_cast<int>(input.rows),
          static_cast<int>(router.rows), static_cast<int>(input.columns), logits.as<float>(), logits.row_stride);
    });
  });
  CBTM_CUDA_LAUNCHED("router_logits");
}

}  // namespace cbtm::cuda
