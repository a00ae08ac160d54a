// Linear layers of a few rows of 16-bit activations: what decoding does. The weights are read once, and that is all the
// time it takes; products are on the tensor cores, so that neither float32 arithmetic nor the activations stand in the
// way of the reading.

#include <algorithm>

#include "decode_linear.h"
#include "decode_linear_mma_block.cuh"
#include "dispatch.h"
#include "elements.cuh"
#include "mma.cuh"
#include "runtime/check.h"
#include "widen_pairs.cuh"

namespace cbtm::cuda {
namespace {

/// Whether two blocks' registers fit a multiprocessor, with none spilled.
template <typename Element, typename Weight>
constexpr bool two_blocks_fit(int tiles, int row_tiles) {
  return row_tiles == 1 && tiles <= (std::is_same_v<Weight, Element> ? 4 : std::is_same_v<Weight, int8_t> ? 2 : 1);
}

// output[r][o] = activation(scale[o] * Σ_i input[r][i] weight[o][i] + bias[o]), or of int4 weights
//                activation(Σ_group scale[o][group] * Σ_i input[r][i] weight[o][i] + bias[o]).
//
// mapping   a block 16 kTiles rows of the weights and all rows of the input, at most 8 kRowTiles; its 8 warps take
//           steps along the columns in turn, 64 bytes of each row of the weights: 16 bytes a lane, as two of an mma's
//           four left registers a row. The next steps' weights are asked for before these are used. At the end
//           the warps' sums are added through shared memory.
// bytes     out * in * weight size and the scales, once; rows * in * 2 of the activations a block, from the cache.
// numerics  products exact, float32 sums: a warp's in the tensor cores' order, then the warps' in turn. A row's result
//           does not depend on the other rows, nor on kTiles and kRowTiles.
template <typename Element, typename Weight, bool kWhole, int kTiles, int kRowTiles>
__global__ void __launch_bounds__(kThreads, two_blocks_fit<Element, Weight>(kTiles, kRowTiles) ? 2 : 1)
    decode_linear_mma(Params p) {
  __shared__ DecodeShared<Weight, kTiles> shared;
  decode_linear_block<Element, Weight, kWhole, kTiles, kRowTiles>(
      p, static_cast<int64_t>(blockIdx.x) * kTiles * kTileOutputs, shared, [&](int row, int64_t column, float sum) {
        write_output<Element>(p, row, column, p.relu ? fmaxf(sum, 0.0f) : sum);
      });
}

template <typename Element, typename Weight, int kTiles, int kRowTiles, bool kWhole = true>
void launch(Context& context, const Params& p) {
  const auto blocks = static_cast<unsigned>(ceil_divide(p.out, kTiles * kTileOutputs));
  decode_linear_mma<Element, Weight, kWhole, kTiles, kRowTiles><<<blocks, kThreads, 0, context.stream>>>(p);
  CBTM_CUDA_LAUNCHED("decode_linear_mma");
}

/// As many rows of the weights a block as leave a block for every second multiprocessor: the activations are read once
/// a block, and with 32 KiB of weights asked for in each, half of the multiprocessors keep the memory busy.
int tiles_for(int64_t out, int sm_count, int tiles_max) {
  for (int tiles = tiles_max; tiles > 1; tiles /= 2)
    if (2 * ceil_divide(out, tiles * kTileOutputs) >= sm_count) return tiles;
  return 1;
}

template <typename Element, typename Weight>
void launch_tiles(Context& context, const Params& p) {
  // One instance for operands that no real model has: its accesses by element are too much code for a hot loop.
  if (!is_whole<Weight>(p)) return launch<Element, Weight, 1, 4, /*kWhole=*/false>(context, p);
  if (p.rows <= kTileRows) {
    switch (tiles_for(p.out, context.sm_count, 4)) {
      case 4: return launch<Element, Weight, 4, 1>(context, p);
      case 2: return launch<Element, Weight, 2, 1>(context, p);
      default: return launch<Element, Weight, 1, 1>(context, p);
    }
  }
  const bool two_tiles = tiles_for(p.out, context.sm_count, 2) == 2;
  if (p.rows <= 2 * kTileRows)
    return two_tiles ? launch<Element, Weight, 2, 2>(context, p) : launch<Element, Weight, 1, 2>(context, p);
  return two_tiles ? launch<Element, Weight, 2, 4>(context, p) : launch<Element, Weight, 1, 4>(context, p);
}

}  // namespace

bool decode_linear_mma_applies(const LinearForward& arguments, int compute_capability) {
  const auto& a = arguments;
  const bool quantised = a.int8_weights() || a.int4_weights();
  if (a.input.dtype == DType::f32 || (!quantised && a.weight.dtype != a.input.dtype)) return false;
  if (a.input.dtype == DType::bf16 && compute_capability < 80) return false;  // no such tensor cores
  return a.input.rows <= (quantised ? 4 * kTileRows : kTileRows);
}

void decode_linear_mma(Context& context, const LinearForward& arguments) {
  const auto& a = arguments;
  const Params p = linear_params(a);
  const auto launch_element = [&]<typename Element>() {
    if (a.int8_weights()) return launch_tiles<Element, int8_t>(context, p);
    if (a.int4_weights()) return launch_tiles<Element, Int4>(context, p);
    launch_tiles<Element, Element>(context, p);
  };
  if (a.input.dtype == DType::bf16) return launch_element.operator()<bf16>();
  launch_element.operator()<f16>();
}

}  // namespace cbtm::cuda
