#pragma once

#include <functional>
#include <vector>

#include "attention/attention_params.h"

// Launch functions of the attention kernels, one for each kernel and head size: what attention_forward.cu,
// attention_backward.cu and attention_cached.cu choose from. `tile_count` tiles, each for every head.

namespace cbtm::cuda {

/// Queries of a tile of attention_forward_general, and keys and queries of one of the backward kernels.
constexpr int kGeneralTile = 64;

void launch_attention_forward_general(const Context& context, DType dtype, const AttentionParams& params,
                                      int64_t tile_count);
void launch_attention_backward_general(const Context& context, DType dtype, const AttentionParams& params,
                                       int64_t query_tile_count, int64_t key_tile_count);

/// Tensor-core kernels, instantiated for each head size of attention_mma_tiles.h; bf16 or f16, rows at multiples of 16
/// bytes, tiles as that file says.
template <int kHeadDim>
void launch_attention_forward_mma(const Context& context, DType dtype, const AttentionParams& params,
                                  int64_t tile_count);
template <int kHeadDim>
void launch_attention_backward_mma(const Context& context, DType dtype, const AttentionParams& params,
                                   int64_t query_tile_count, int64_t key_tile_count);

/// Gives the tiles of at most `tile` queries each.
using AttentionTilesOf = std::function<SequenceTable<AttentionQueryTile>(int tile)>;
/// Chooses the forward kernel for dtype, head size and alignment, and launches it on its tiles. Everything in params
/// but query_tiles is set.
void run_attention_forward(Context& context, DType dtype, AttentionParams params, const AttentionTilesOf& tiles_of);

/// Fills row_log_sum_exp and row_term, [num_heads, query_rows] each, for either backward pass.
void launch_attention_row_terms(const Context& context, DType dtype, const AttentionParams& params,
                                float* row_log_sum_exp, float* row_term);

}  // namespace cbtm::cuda
