// Linear layers of a mixture's experts for few rows: what decoding does.

#include <algorithm>

#include "decode_linear_mma_block.cuh"
#include "dispatch.h"
#include "elements.cuh"
#include "gelu.cuh"
#include "moe/expert_linear_decode.h"
#include "moe/expert_params.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

/// The number of the expert that is the `rank`-th with rows, or -1: all threads of the block get it.
__device__ int used_expert(const int32_t* offsets, int experts, int rank) {
  static_assert(kThreads == kMaxExperts, "a thread per expert");
  __shared__ int counts[kWarps];
  __shared__ int found;
  const auto expert = static_cast<int>(threadIdx.x);
  const int warp = expert / 32;
  const bool used = expert < experts && offsets[expert + 1] > offsets[expert];
  const unsigned ballot = __ballot_sync(~0u, used);
  if (expert % 32 == 0) counts[warp] = __popc(ballot);
  if (expert == 0) found = -1;
  __syncthreads();
  int before = __popc(ballot & ((1u << expert % 32) - 1));
  for (int w = 0; w < warp; ++w) before += counts[w];
  if (used && before == rank) found = expert;
  __syncthreads();
  return found;
}

// output[p][o] = activation(scale_e[o] * Σ_i input[p][i] weight_e[o][i] + bias_e[o]); int4: a scale per group.
//
// grid      16 kTiles outputs by the experts with rows, by their rank, so that no block waits behind empty ones; as
//           many of them as there can be. Two blocks a multiprocessor where the registers of both fit
// work      decode_linear_block, for 8 kRowTiles rows of the expert at a time
// bytes     weights and scales of the experts with rows, once for every 8 kRowTiles of their rows, again from the L2 if
//           there are more; activations from the cache once per block
// numerics  as decode_linear_mma: a row's bits depend on neither the other rows nor their number
template <typename Element, typename Weight, bool kWhole, int kTiles, int kRowTiles>
__global__ void __launch_bounds__(kThreads, kRowTiles == 1 && !std::is_same_v<Weight, Int4> ? 2 : 1)
    expert_rows_decode(const Params whole, const ExpertParams experts) {
  __shared__ DecodeShared<Weight, kTiles> shared;
  __shared__ Params p;  // of the expert; not in every thread's registers
  const int expert = used_expert(experts.offsets, experts.count, static_cast<int>(blockIdx.y));
  if (expert < 0) return;
  const int begin = experts.offsets[expert], end = experts.offsets[expert + 1];
#pragma unroll 1
  for (int row = begin; row < end; row += kRowTiles * kTileRows) {
    if (row > begin) __syncthreads();
    if (threadIdx.x == 0) p = expert_params<Element, Weight>(whole, expert, row, min(end - row, kRowTiles * kTileRows));
    __syncthreads();
    decode_linear_block<Element, Weight, kWhole, kTiles, kRowTiles>(
        p, int64_t{blockIdx.x} * kTiles * kTileOutputs, shared, [&](int r, int64_t column, float sum) {
          write_output<Element>(p, r, column, activated<Element>(experts.activation, sum));
        });
  }
}

template <typename Element, typename Weight>
void launch_tiles(Context& context, int64_t sorted_rows, const Params& p, const ExpertParams& experts) {
  const auto launch = [&]<bool kWhole, int kTiles, int kRowTiles>() {
    const dim3 grid(static_cast<unsigned>(ceil_divide(p.out, kTiles * kTileOutputs)),
                    static_cast<unsigned>(std::min<int64_t>(experts.count, sorted_rows)));
    expert_rows_decode<Element, Weight, kWhole, kTiles, kRowTiles><<<grid, kThreads, 0, context.stream>>>(p, experts);
    CBTM_CUDA_LAUNCHED("expert_rows_decode");
  };
  if (!is_whole<Weight>(p)) return launch.template operator()<false, 1, 4>();
  // Most experts have no more than twice their share of the rows.
  if (2 * sorted_rows <= int64_t{kTileRows} * experts.count) {
    // The activations are read half as often where that leaves blocks for half of the multiprocessors, as those keep
    // the memory busy; a token has two experts.
    const int64_t blocks = kExpertsPerToken * ceil_divide(p.out, 2 * kTileOutputs);
    if (2 * blocks >= context.sm_count) return launch.template operator()<true, 2, 1>();
    return launch.template operator()<true, 1, 1>();
  }
  launch.template operator()<true, 1, 4>();
}

}  // namespace

void expert_forward_decode(Context& context, const ExpertLinearForward& a) {
  CBTM_ASSERT(!a.saved, "a backward pass does not follow");
  const Params p = expert_linear_params(a);
  const ExpertParams experts = expert_params_of(a);
  const auto launch_element = [&]<typename Element>() {
    if (a.weight.dtype == DType::i8) return launch_tiles<Element, int8_t>(context, a.input.rows, p, experts);
    if (a.weight.dtype == DType::u8) return launch_tiles<Element, Int4>(context, a.input.rows, p, experts);
    launch_tiles<Element, Element>(context, a.input.rows, p, experts);
  };
  if (a.input.dtype == DType::bf16) return launch_element.operator()<bf16>();
  launch_element.operator()<f16>();
}

}  // namespace cbtm::cuda
