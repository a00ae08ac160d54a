// Linear layers of int8 and int4 weights and some tens to hundreds of rows of 16-bit activations: prompts, and decoding
// of many sequences.

#include "dispatch.h"
#include "quantised_linear.h"
#include "quantised_linear_tile.cuh"
#include "runtime/check.h"
#include "runtime/shared_memory_limit.h"

namespace cbtm::cuda {
namespace {

// output[r][o] = activation(scale[o] * Σ_i input[r][i] weight[o][i] + bias[o]), or of int4 weights
//                activation(Σ_group scale[o][group] * Σ_i input[r][i] weight[o][i] + bias[o]).
//
// grid      a block a tile of outputs and rows, tiles of rows fastest, so that those which read the same weights run
//           side by side. A warp has kOutputTiles x kRowTiles products of 16 outputs and 8 rows.
// work      steps along the columns, 64 bytes of a row of the weights: these go from memory to the registers that widen
//           them, a step ahead; activations by way of shared memory in two stages (cp.async).
// bytes     out * in * weight size and the scales for each tile of rows, rows * in * 2 for each tile of outputs: once
//           from memory, else from the L2; results written once, 16-bit ones by way of shared memory.
// numerics  products exact, float32 sums in the order of the columns: a row's result depends on neither the other rows
//           nor the size of the tiles.
template <typename Element, typename Weight, int kOutputTiles, int kRowTiles>
__global__ void __launch_bounds__(kThreads, 1) quantised_linear_mma(const Params p) {
  using Tile = QuantisedTile<Weight, kOutputTiles, kRowTiles>;
  extern __shared__ __align__(16) unsigned char shared[];
  const int row_blocks = (p.rows + Tile::kRows - 1) / Tile::kRows;
  quantised_linear_tile<Element, Weight, kOutputTiles, kRowTiles>(
      p, static_cast<int>(blockIdx.x) % row_blocks * Tile::kRows,
      int64_t{static_cast<int>(blockIdx.x) / row_blocks} * Tile::kOutputs, shared,
      [&](float sum) { return p.relu ? fmaxf(sum, 0.0f) : sum; });
}

template <typename Element, typename Weight, int kOutputTiles, int kRowTiles>
void launch(Context& context, const Params& p) {
  using Tile = QuantisedTile<Weight, kOutputTiles, kRowTiles>;
  const auto kernel = quantised_linear_mma<Element, Weight, kOutputTiles, kRowTiles>;
  allow_shared_bytes(reinterpret_cast<const void*>(kernel), Tile::kSharedBytes);
  const int64_t blocks = ceil_divide(p.out, Tile::kOutputs) * ceil_divide(p.rows, Tile::kRows);
  kernel<<<static_cast<unsigned>(blocks), kThreads, Tile::kSharedBytes, context.stream>>>(p);
  CBTM_CUDA_LAUNCHED("quantised_linear_mma");
}

/// The large tile where it leaves a block for each multiprocessor: it reads activations and weights half as
/// often.
template <typename Element, typename Weight>
void launch_tile(Context& context, const Params& p) {
  using Large = QuantisedTile<Weight, 2, 8>;
  const bool many = ceil_divide(p.out, Large::kOutputs) * ceil_divide(p.rows, Large::kRows) >= context.sm_count;
  if (many && Large::kSharedBytes <= context.shared_bytes_per_block_max)
    return launch<Element, Weight, 2, 8>(context, p);
  launch<Element, Weight, 1, 4>(context, p);
}

}  // namespace

bool quantised_linear_applies(const LinearForward& arguments, int compute_capability) {
  const auto& a = arguments;
  if ((!a.int8_weights() && !a.int4_weights()) || a.input.dtype == DType::f32 || a.saved) return false;
  if (a.input.dtype == DType::bf16 && compute_capability < 80) return false;  // no such tensor cores
  // Widths without tails within a lane's 16 bytes, and of int4 weights within a step's four scales.
  return a.input.rows <= kQuantisedLinearRowsMax && rows_aligned(a.input, 16) && rows_aligned(a.weight, 16) &&
         rows_aligned(a.weight_scales, 8) && a.input.columns % (a.int4_weights() ? kStepColumns<Int4> : 16) == 0;
}

void quantised_linear(Context& context, const LinearForward& arguments) {
  const Params p = linear_params(arguments);
  const auto launch_element = [&]<typename Element>() {
    if (arguments.int8_weights()) return launch_tile<Element, int8_t>(context, p);
    launch_tile<Element, Int4>(context, p);
  };
  if (arguments.input.dtype == DType::bf16) return launch_element.operator()<bf16>();
  launch_element.operator()<f16>();
}

}  // namespace cbtm::cuda
