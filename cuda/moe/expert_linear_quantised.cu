// Linear layers of a mixture's experts with int8 or int4 weights and many rows: prompts.

#include "dispatch.h"
#include "moe/expert_linear_decode.h"
#include "moe/expert_params.cuh"
#include "moe/expert_tiles.cuh"
#include "quantised_linear_tile.cuh"
#include "runtime/check.h"
#include "runtime/shared_memory_limit.h"

namespace cbtm::cuda {
namespace {

static_assert(kThreads == ExpertTiles::kThreads);

// output[p][o] = activation(scale_e[o] * Σ_i input[p][i] weight_e[o][i] + bias_e[o]); int4: a scale per group.
//
// grid      a block for each tile of rows of one expert and outputs that there can be; tiles are numbered from the
//           offsets on the device (ExpertTiles), and blocks beyond them end
// work      quantised_linear_tile
// bytes     weights and scales of the experts with rows, once for every tile of rows; their rows once for every tile of
//           outputs; once from memory, else from the L2
// numerics  as quantised_linear_mma: a row's bits depend on neither the other rows nor their number
template <typename Element, typename Weight, int kOutputTiles, int kRowTiles>
__global__ void __launch_bounds__(kThreads, 1) expert_rows_quantised(const Params whole, const ExpertParams experts) {
  using Tile = QuantisedTile<Weight, kOutputTiles, kRowTiles>;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ ExpertTiles::Shared tiles_shared;
  __shared__ Params p;  // of the tile; not in every thread's registers, of which the sums need all
  const ExpertTiles tiles(experts.offsets, experts.count, Tile::kRows, tiles_shared);
  const auto column_tiles = static_cast<int>((whole.out + Tile::kOutputs - 1) / Tile::kOutputs);
  if (static_cast<int>(blockIdx.x) >= tiles.row_tiles() * column_tiles) return;
  if (threadIdx.x == 0) {
    const ExpertTiles::Tile tile = tiles.tile(static_cast<int>(blockIdx.x), column_tiles);
    p = expert_params<Element, Weight>(whole, tile.expert, tile.first_row, tile.rows,
                                       int64_t{tile.column} * Tile::kOutputs);
  }
  __syncthreads();
  quantised_linear_tile<Element, Weight, kOutputTiles, kRowTiles>(
      p, /*block_row=*/0, /*block_output=*/0, shared,
      [activation = experts.activation](float sum) { return activated<Element>(activation, sum); });
}

template <typename Element, typename Weight, int kOutputTiles, int kRowTiles>
void launch(Context& context, int64_t sorted_rows, const Params& p, const ExpertParams& experts) {
  using Tile = QuantisedTile<Weight, kOutputTiles, kRowTiles>;
  const auto kernel = expert_rows_quantised<Element, Weight, kOutputTiles, kRowTiles>;
  allow_shared_bytes(reinterpret_cast<const void*>(kernel), Tile::kSharedBytes);
  const int64_t tiles =
      ExpertTiles::row_tiles_max(sorted_rows, experts.count, Tile::kRows) * ceil_divide(p.out, Tile::kOutputs);
  kernel<<<static_cast<unsigned>(tiles), kThreads, Tile::kSharedBytes, context.stream>>>(p, experts);
  CBTM_CUDA_LAUNCHED("expert_rows_quantised");
}

/// The large tile where most experts fill it: it reads activations and weights half as often.
template <typename Element, typename Weight>
void launch_tile(Context& context, int64_t sorted_rows, const Params& p, const ExpertParams& experts) {
  using Large = QuantisedTile<Weight, 2, 8>;
  if (sorted_rows >= experts.count * int64_t{Large::kRows} && Large::kSharedBytes <= context.shared_bytes_per_block_max)
    return launch<Element, Weight, 2, 8>(context, sorted_rows, p, experts);
  launch<Element, Weight, 1, 4>(context, sorted_rows, p, experts);
}

}  // namespace

bool expert_forward_quantised_applies(const ExpertLinearForward& a) {
  const bool int8 = a.weight.dtype == DType::i8, int4 = a.weight.dtype == DType::u8;
  // Widths without tails within a lane's 16 bytes, and of int4 weights within a step's four scales.
  return (int8 || int4) && rows_aligned(a.input, 16) && rows_aligned(a.weight, 16) &&
         rows_aligned(a.weight_scales, 8) && a.input.columns % (int4 ? kStepColumns<Int4> : 16) == 0;
}

void expert_forward_quantised(Context& context, const ExpertLinearForward& a) {
  CBTM_ASSERT(!a.saved, "a backward pass does not follow");
  const Params p = expert_linear_params(a);
  const ExpertParams experts = expert_params_of(a);
  const auto launch_element = [&]<typename Element>() {
    if (a.weight.dtype == DType::i8) return launch_tile<Element, int8_t>(context, a.input.rows, p, experts);
    launch_tile<Element, Int4>(context, a.input.rows, p, experts);
  };
  if (a.input.dtype == DType::bf16) return launch_element.operator()<bf16>();
  launch_element.operator()<f16>();
}

}  // namespace cbtm::cuda
