#pragma once

#include "attention/attention_dropout.cuh"
#include "attention/attention_kernels.h"
#include "attention/attention_mma.cuh"
#include "attention/attention_mma_tiles.h"
#include "runtime/check.h"
#include "runtime/shared_memory_limit.h"

namespace cbtm::cuda {

// Attention forward on tensor cores (FlashAttention-2, arXiv 2307.08691), bfloat16 or float16.
//
//   s[i,j] = scale * q[i] . k[j],  lse[i] = log sum_j exp(s[i,j]),  o[i] = sum_j dropped(exp(s[i,j] - lse[i])) v[j]
//
// grid      a block of 4 warps a tile of 128 queries (D > 80: 64) and head, heads fastest, tiles of most keys first. A
//           warp owns 32 (16) queries; it skips tiles of keys that none of them sees.
// shared    queries; keys and values [64 or 32, D] in two stages: cp.async fills one while the other is used.
// registers a lane holds 4 * D / 4 sums of the output and the scores of a tile, which become the left operand of the
//           second product where they are. exp in base 2; the output is rescaled only when a maximum has grown. Where
//           dropout is drawn, two blocks a multiprocessor are asked for with D = 128 and three with 96: more would
//           spill.
// bytes     2 * rows * heads * D * (q, o once; k, v once for each 128 queries, mostly from the L2) + 4 * rows * heads.
// numerics  scores, maxima, sums and output float32; probabilities rounded to 16 bits for the product; keys ascending.
// dropout   two lanes share a call of Philox for each 16 x 16 probabilities; its scale is applied at the end.
template <typename Element, int kHeadDim, bool kDropout>
__global__ void __launch_bounds__(mma::kThreads, !kDropout || kHeadDim < 96 ? 0
                                                 : kHeadDim == 96           ? 3
                                                                            : 2)
    attention_forward_mma(const AttentionParams params) {
  using Tiles = AttentionMmaTiles<kHeadDim>;
  constexpr int kRowTiles = Tiles::kForwardRowTiles;
  constexpr int kKeys = Tiles::kForwardKeys;
  constexpr int kColumnTiles = kKeys / 8;
  extern __shared__ __align__(16) unsigned char shared[];
  Element* const query_tile = reinterpret_cast<Element*>(shared);
  Element* const key_tiles = query_tile + Tiles::kForwardQueries * kHeadDim;
  Element* const value_tiles = key_tiles + 2 * kKeys * kHeadDim;

  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * 16 * kRowTiles;
  const int head = static_cast<int>(blockIdx.x) % params.num_heads;
  const AttentionDropout dropout = attention_dropout(params);
  const AttentionQueryTile tile = params.query_tiles[static_cast<int>(blockIdx.x) / params.num_heads];
  if (tile.query_count == 0) return;
  const int column = head * kHeadDim;
  const int visible = tile.first_visible + tile.query_count - 1;  // by the last query
  const int warp_visible =
      warp_row < tile.query_count ? tile.first_visible + min(warp_row + 16 * kRowTiles, tile.query_count) - 1 : 0;
  const float scale = params.scale * kLog2e;

  const auto copy_keys = [&](int first_key, int stage) {
    const int count = min(kKeys, visible - first_key);
    mma::copy_tile<kHeadDim, kKeys>(key_tiles + stage * kKeys * kHeadDim,
                                    key_rows_of<Element>(params, params.key, tile, first_key, count, column));
    mma::copy_tile<kHeadDim, kKeys>(value_tiles + stage * kKeys * kHeadDim,
                                    key_rows_of<Element>(params, params.value, tile, first_key, count, column));
  };
  mma::copy_tile<kHeadDim, Tiles::kForwardQueries>(
      query_tile, rows_of<Element>(params.query, tile.query_row, tile.query_count, column));
  copy_keys(0, 0);

  float sums[kRowTiles][kHeadDim / 8][4] = {};
  float highest[kRowTiles][2], total[kRowTiles][2];
  int64_t dropout_group[kRowTiles];
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
    highest[r][0] = highest[r][1] = -INFINITY;
    total[r][0] = total[r][1] = 0;
    if (kDropout)
      dropout_group[r] =
          attention_dropout_group(dropout, params.num_heads, tile.query_row + warp_row + 16 * r, g / 2, head) + t;
  }

  for (int first_key = 0, stage = 0; first_key < visible; first_key += kKeys, stage ^= 1) {
    mma::wait_for_copies();
    __syncthreads();  // the stage has arrived, and the other one has been used by all warps
    if (first_key + kKeys < visible) copy_keys(first_key + kKeys, stage ^ 1);
    if (first_key >= warp_visible) continue;

    float scores[kRowTiles][kColumnTiles][4];
    mma::score_product<kHeadDim>(scores, query_tile, warp_row, key_tiles + stage * kKeys * kHeadDim, 0);
    if (first_key + kKeys > tile.first_visible + warp_row) {  // some query of the warp does not see some key
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int seen = tile.first_visible + warp_row + 16 * r + 8 * (e / 2) + g - first_key;
            if (8 * n + 2 * t + e % 2 >= seen) scores[r][n][e] = -INFINITY;
          }
    }

    bool grown = false;
    float rescale[kRowTiles][2];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float new_highest = highest[r][half];
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n)
          new_highest = fmaxf(new_highest, fmaxf(scores[r][n][2 * half], scores[r][n][2 * half + 1]));
        new_highest = fmaxf(new_highest, __shfl_xor_sync(0xffffffffu, new_highest, 1));
        new_highest = fmaxf(new_highest, __shfl_xor_sync(0xffffffffu, new_highest, 2));
        const float shift = new_highest == -INFINITY ? 0.0f : new_highest * scale;  // -inf - -inf is not a number
        rescale[r][half] = mma::exp2_approximate(highest[r][half] * scale - shift);
        grown = grown || new_highest != highest[r][half];
        highest[r][half] = new_highest;
        float tile_total = 0;
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            scores[r][n][e] = mma::exp2_approximate(scores[r][n][e] * scale - shift);
            tile_total += scores[r][n][e];
          }
        total[r][half] = total[r][half] * rescale[r][half] + tile_total;  // of the lane's columns
      }
    if (__any_sync(0xffffffffu, grown)) {
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[r][n][e] *= rescale[r][e / 2];
    }
    if constexpr (kDropout) {
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
        for (int n = 0; n < kColumnTiles; n += 4) {
          AttentionDecisions decisions[2];
          const int64_t group = dropout_group[r] + first_key / 4 + 2 * n;
          attention_decisions_of_two<false>(decisions, dropout, group, group + 4);
#pragma unroll
          for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int e = 0; e < 4; ++e)
              if (!attention_keeps(dropout, decisions[m / 2].of_column[e % 2], e / 2 + 2 * (m % 2)))
                scores[r][n + m][e] = 0;
        }
    }
    mma::weighted_sum<kHeadDim>(sums, scores, value_tiles + stage * kKeys * kHeadDim, 0);
  }

  // Read again, so that nothing but what the loop needs is kept in registers through it.
  const AttentionQueryTile written = params.query_tiles[static_cast<int>(blockIdx.x) / params.num_heads];
  if (warp_row >= written.query_count) return;
  float factor[kRowTiles][2];
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = total[r][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      factor[r][half] = (kDropout ? params.dropout.kept_scale : 1.0f) / sum;
      const int row = warp_row + 16 * r + 8 * half + g;
      if (t == 0 && row < written.query_count && params.log_sum_exp != nullptr)
        params.log_sum_exp[(static_cast<int64_t>(written.query_row) + row) * params.log_sum_exp_stride + head] =
            highest[r][half] * params.scale + logf(sum);
    }
  mma::write_rows<kHeadDim, kRowTiles>(params.output, written.query_row, written.query_count, column, sums, factor,
                                       query_tile, warp_row);
}

template <int kHeadDim>
void launch_attention_forward_mma(const Context& context, DType dtype, const AttentionParams& params,
                                  int64_t tile_count) {
  const bool dropped = params.dropout.limit != 0;
  const int shared_bytes = AttentionMmaTiles<kHeadDim>::kForwardShared;
  const auto launch = [&](auto* kernel) {
    allow_shared_bytes(reinterpret_cast<const void*>(kernel), shared_bytes);
    kernel<<<static_cast<unsigned>(tile_count * params.num_heads), mma::kThreads, shared_bytes, context.stream>>>(
        params);
    CBTM_CUDA_LAUNCHED("attention_forward_mma");
  };
  if (dtype == DType::bf16)
    launch(dropped ? attention_forward_mma<__nv_bfloat16, kHeadDim, true>
                   : attention_forward_mma<__nv_bfloat16, kHeadDim, false>);
  else
    launch(dropped ? attention_forward_mma<__half, kHeadDim, true> : attention_forward_mma<__half, kHeadDim, false>);
}

}  // namespace cbtm::cuda
