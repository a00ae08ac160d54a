#pragma once

#include "attention/attention_dropout.cuh"
#include "attention/attention_kernels.h"
#include "attention/attention_mma.cuh"
#include "attention/attention_mma_tiles.h"
#include "runtime/check.h"
#include "runtime/shared_memory_limit.h"

namespace cbtm::cuda {

// Attention backward on tensor cores (after FlashAttention-2, arXiv 2307.08691), bfloat16 or float16, in two kernels:
//
//   p[i,j]  = exp(scale * q[i] . k[j] - lse[i]),  m[i,j] = 0 or 1 / (1 - probability of dropout)
//   ds[i,j] = p[i,j] (m[i,j] do[i] . v[j] - row_term[i])
//   keys:     dv[j] = sum_i p[i,j] m[i,j] do[i],  dk[j] = scale * sum_i ds[i,j] q[i]
//   queries:  dq[i] = scale * sum_j ds[i,j] k[j]
//
// Both recompute the scores: 7 products where one kernel would need 5, but every sum stays in registers, in a fixed
// order, with neither atomics nor float32 partial sums of dq in memory; and each computes the scores with what it owns
// as rows, so that p and ds become left operands in the registers in which they are, and never pass shared memory.

// Gradients of keys and values.
//
// grid      a block of 4 warps a tile of 128 keys (D > 64: 64) and head, heads fastest, tiles seen by most queries
//           first. A warp owns 32 (16) keys, takes the queries 16 at a time and skips those that see none of its keys.
// shared    keys, values; queries, output gradients and the rows' statistics, 32 rows in two stages (cp.async).
// registers 2 * 4 * D / 4 sums a lane (D > 64: half), 16 x 2 x 2 of scores and their gradients.
// bytes     2 * rows * heads * D * 4 (k, v, dk, dv once; q, do once for each tile of keys, mostly from the L2).
// numerics  p m and ds rounded to 16 bits for the products, everything else float32; queries ascending.
// dropout   a call of Philox for each 16 x 16 probabilities, which two lanes share where a warp owns 32 keys.
template <typename Element, int kHeadDim, bool kDropout>
__global__ void __launch_bounds__(mma::kThreads) attention_backward_keys_mma(const AttentionParams params) {
  using Tiles = AttentionMmaTiles<kHeadDim>;
  constexpr int kRowTiles = Tiles::kBackwardRowTiles;
  constexpr int kRows = Tiles::kBackwardRows;
  constexpr int kStage = Tiles::kBackwardStage;
  constexpr int kColumnTiles = 2;  // 16 queries at a time
  extern __shared__ __align__(16) unsigned char shared[];
  Element* const key_tile = reinterpret_cast<Element*>(shared);
  Element* const value_tile = key_tile + kRows * kHeadDim;
  Element* const query_tiles = value_tile + kRows * kHeadDim;
  Element* const gradient_tiles = query_tiles + 2 * kStage * kHeadDim;
  float* const log_sum_exps = reinterpret_cast<float*>(gradient_tiles + 2 * kStage * kHeadDim);
  float* const row_terms = log_sum_exps + 2 * kStage;

  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * 16 * kRowTiles;
  const int head = static_cast<int>(blockIdx.x) % params.num_heads;
  const AttentionDropout dropout = attention_dropout(params);
  const AttentionKeyTile tile = params.key_tiles[static_cast<int>(blockIdx.x) / params.num_heads];
  if (tile.key_count == 0) return;
  const int column = head * kHeadDim;
  const float scale = params.scale * kLog2e;

  const auto copy_queries = [&](int first_query, int stage) {
    const int count = min(kStage, tile.query_count - first_query);
    const int64_t row = static_cast<int64_t>(tile.query_row) + first_query;
    mma::copy_tile<kHeadDim, kStage>(query_tiles + stage * kStage * kHeadDim,
                                     rows_of<Element>(params.query, row, count, column));
    mma::copy_tile<kHeadDim, kStage>(gradient_tiles + stage * kStage * kHeadDim,
                                     rows_of<Element>(params.output_gradient, row, count, column));
    if (threadIdx.x < kStage) {
      const int i = static_cast<int>(threadIdx.x);
      const int64_t at = head * params.query_rows + row + min(i, count - 1);
      mma::copy_4(log_sum_exps + stage * kStage + i, params.row_log_sum_exp + at, i < count);
      mma::copy_4(row_terms + stage * kStage + i, params.row_term + at, i < count);
    }
  };
  mma::copy_tile<kHeadDim, kRows>(key_tile, rows_of<Element>(params.key, tile.key_row, tile.key_count, column));
  mma::copy_tile<kHeadDim, kRows>(value_tile, rows_of<Element>(params.value, tile.key_row, tile.key_count, column));
  if (tile.query_count > 0) copy_queries(0, 0);

  float key_sums[kRowTiles][kHeadDim / 8][4] = {};
  float value_sums[kRowTiles][kHeadDim / 8][4] = {};
  for (int first_query = 0, stage = 0; first_query < tile.query_count; first_query += kStage, stage ^= 1) {
    mma::wait_for_copies();
    __syncthreads();  // the stage has arrived, and the other one has been used by all warps
    if (first_query + kStage < tile.query_count) copy_queries(first_query + kStage, stage ^ 1);
    if (warp_row >= tile.key_count) continue;
    const Element* const queries = query_tiles + stage * kStage * kHeadDim;
    const Element* const gradients = gradient_tiles + stage * kStage * kHeadDim;
#pragma unroll 1
    for (int part = 0; part < kStage; part += 8 * kColumnTiles) {
      // Key j of the tile is seen by query i if j <= i + seen_before.
      const int seen_before = first_query + part + tile.visible_offset;
      if (warp_row > seen_before + 8 * kColumnTiles - 1 || first_query + part >= tile.query_count) continue;
      float probabilities[kRowTiles][kColumnTiles][4], score_gradients[kRowTiles][kColumnTiles][4];
      mma::score_product<kHeadDim>(probabilities, key_tile, warp_row, queries, part);
      mma::score_product<kHeadDim>(score_gradients, value_tile, warp_row, gradients, part);
      const bool partly_seen = warp_row + 16 * kRowTiles - 1 > seen_before;
      AttentionDecisions decisions[kRowTiles];
      if constexpr (kDropout) {
        const int64_t group =
            attention_dropout_group(dropout, params.num_heads,
                                    static_cast<int64_t>(tile.query_row) + first_query + part, t, head) +
            (tile.key_first + warp_row) / 4 + g / 2;
        if constexpr (kRowTiles == 2)
          attention_decisions_of_two<true>(decisions, dropout, group, group + 4);
        else
          decisions[0] = attention_decisions_of<true>(attention_decisions(dropout, group), g % 2 != 0);
      }
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        const int query = part + 8 * n + 2 * t;
        const float2 log_sum_exp = *reinterpret_cast<const float2*>(log_sum_exps + stage * kStage + query);
        const float2 row_term = *reinterpret_cast<const float2*>(row_terms + stage * kStage + query);
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            float p = mma::exp2_approximate(probabilities[r][n][e] * scale -
                                            (e % 2 == 0 ? log_sum_exp.x : log_sum_exp.y) * kLog2e);
            const int key = warp_row + 16 * r + 8 * (e / 2) + g;
            const bool hidden = partly_seen && key > seen_before + 8 * n + 2 * t + e % 2;
            float gradient = score_gradients[r][n][e];
            float weight = p;
            if constexpr (kDropout) {
              const bool keep = attention_keeps(dropout, decisions[r].of_column[e % 2], n + 2 * (e / 2));
              weight = keep ? p : 0.0f;
              gradient = keep ? gradient * params.dropout.kept_scale : 0.0f;
            }
            gradient = p * (gradient - (e % 2 == 0 ? row_term.x : row_term.y));
            probabilities[r][n][e] = hidden ? 0.0f : weight;
            score_gradients[r][n][e] = hidden ? 0.0f : gradient;
          }
        }
      }
      mma::weighted_sum<kHeadDim>(value_sums, probabilities, gradients, part);
      mma::weighted_sum<kHeadDim>(key_sums, score_gradients, queries, part);
    }
  }
  mma::wait_for_copies();  // of the keys and values, if no query sees them
  __syncthreads();
  // Read again, so that nothing but what the loop needs is kept in registers through it.
  const AttentionKeyTile written = params.key_tiles[static_cast<int>(blockIdx.x) / params.num_heads];
  float value_factor[kRowTiles][2], key_factor[kRowTiles][2];
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
    value_factor[r][0] = value_factor[r][1] = kDropout ? params.dropout.kept_scale : 1.0f;
    key_factor[r][0] = key_factor[r][1] = params.scale;
  }
  mma::write_rows<kHeadDim, kRowTiles>(params.value_gradient, written.key_row, written.key_count, column, value_sums,
                                       value_factor, value_tile, warp_row);
  mma::write_rows<kHeadDim, kRowTiles>(params.key_gradient, written.key_row, written.key_count, column, key_sums,
                                       key_factor, key_tile, warp_row);
}

// Gradient of the queries.
//
// grid      a block of 4 warps a tile of 128 queries (D > 64: 64) and head, heads fastest, tiles of most keys first.
// shared    queries, output gradients; keys and values 32 at a time in two stages (cp.async).
// registers 4 * D / 4 sums a lane (D > 64: half), the scores and gradients of 32 keys; row statistics.
// bytes     2 * rows * heads * D * 3 (q, do, dq once; k, v once for each tile of queries, mostly from the L2).
template <typename Element, int kHeadDim, bool kDropout>
__global__ void __launch_bounds__(mma::kThreads, kHeadDim == 80 ? 2 : 1)  // ptxas spills 80 for a third block
    attention_backward_queries_mma(const AttentionParams params) {
  using Tiles = AttentionMmaTiles<kHeadDim>;
  constexpr int kRowTiles = Tiles::kBackwardRowTiles;
  constexpr int kRows = Tiles::kBackwardRows;
  constexpr int kKeys = Tiles::kBackwardStage;
  constexpr int kColumnTiles = kKeys / 8;
  extern __shared__ __align__(16) unsigned char shared[];
  Element* const query_tile = reinterpret_cast<Element*>(shared);
  Element* const gradient_tile = query_tile + kRows * kHeadDim;
  Element* const key_tiles = gradient_tile + kRows * kHeadDim;
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
  const int visible = tile.first_visible + tile.query_count - 1;
  const int warp_visible =
      warp_row < tile.query_count ? tile.first_visible + min(warp_row + 16 * kRowTiles, tile.query_count) - 1 : 0;
  const float scale = params.scale * kLog2e;

  const auto copy_keys = [&](int first_key, int stage) {
    const int count = min(kKeys, visible - first_key);
    const int64_t row = static_cast<int64_t>(tile.key_row) + first_key;
    mma::copy_tile<kHeadDim, kKeys>(key_tiles + stage * kKeys * kHeadDim,
                                    rows_of<Element>(params.key, row, count, column));
    mma::copy_tile<kHeadDim, kKeys>(value_tiles + stage * kKeys * kHeadDim,
                                    rows_of<Element>(params.value, row, count, column));
  };
  mma::copy_tile<kHeadDim, kRows>(query_tile, rows_of<Element>(params.query, tile.query_row, tile.query_count, column));
  mma::copy_tile<kHeadDim, kRows>(gradient_tile,
                                  rows_of<Element>(params.output_gradient, tile.query_row, tile.query_count, column));
  copy_keys(0, 0);

  float sums[kRowTiles][kHeadDim / 8][4] = {};
  float log_sum_exp[kRowTiles][2], row_term[kRowTiles][2];
  int64_t dropout_group[kRowTiles];
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = min(warp_row + 16 * r + 8 * half + g, tile.query_count - 1);
      const int64_t at = head * params.query_rows + tile.query_row + row;
      log_sum_exp[r][half] = params.row_log_sum_exp[at] * kLog2e;
      row_term[r][half] = params.row_term[at];
    }
    if (kDropout)
      dropout_group[r] =
          attention_dropout_group(dropout, params.num_heads, tile.query_row + warp_row + 16 * r, g / 2, head) + t;
  }

  for (int first_key = 0, stage = 0; first_key < visible; first_key += kKeys, stage ^= 1) {
    mma::wait_for_copies();
    __syncthreads();
    if (first_key + kKeys < visible) copy_keys(first_key + kKeys, stage ^ 1);
    if (first_key >= warp_visible) continue;
    const Element* const keys = key_tiles + stage * kKeys * kHeadDim;
    float probabilities[kRowTiles][kColumnTiles][4], score_gradients[kRowTiles][kColumnTiles][4];
    mma::score_product<kHeadDim>(probabilities, query_tile, warp_row, keys, 0);
    mma::score_product<kHeadDim>(score_gradients, gradient_tile, warp_row, value_tiles + stage * kKeys * kHeadDim, 0);
    const bool partly_seen = first_key + kKeys > tile.first_visible + warp_row;
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      static_assert(kColumnTiles == 4);
      AttentionDecisions decisions[2];
      if constexpr (kDropout) {
        const int64_t group = dropout_group[r] + first_key / 4;
        attention_decisions_of_two<false>(decisions, dropout, group, group + 4);
      }
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float p = mma::exp2_approximate(probabilities[r][n][e] * scale - log_sum_exp[r][e / 2]);
          const int seen = tile.first_visible + warp_row + 16 * r + 8 * (e / 2) + g - first_key;
          const bool hidden = partly_seen && 8 * n + 2 * t + e % 2 >= seen;
          float gradient = score_gradients[r][n][e];
          if constexpr (kDropout)
            gradient = attention_keeps(dropout, decisions[n / 2].of_column[e % 2], e / 2 + 2 * (n % 2))
                           ? gradient * params.dropout.kept_scale
                           : 0.0f;
          score_gradients[r][n][e] = hidden ? 0.0f : p * (gradient - row_term[r][e / 2]);
        }
      }
    }
    mma::weighted_sum<kHeadDim>(sums, score_gradients, keys, 0);
  }
  const AttentionQueryTile written = params.query_tiles[static_cast<int>(blockIdx.x) / params.num_heads];
  if (warp_row >= written.query_count) return;
  float factor[kRowTiles][2];
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) factor[r][0] = factor[r][1] = params.scale;
  mma::write_rows<kHeadDim, kRowTiles>(params.query_gradient, written.query_row, written.query_count, column, sums,
                                       factor, query_tile, warp_row);
}

template <int kHeadDim>
void launch_attention_backward_mma(const Context& context, DType dtype, const AttentionParams& params,
                                   int64_t query_tile_count, int64_t key_tile_count) {
  using Tiles = AttentionMmaTiles<kHeadDim>;
  const auto launch = [&](auto* kernel, int64_t tile_count, int shared_bytes) {
    if (tile_count == 0) return;
    allow_shared_bytes(reinterpret_cast<const void*>(kernel), shared_bytes);
    kernel<<<static_cast<unsigned>(tile_count * params.num_heads), mma::kThreads, shared_bytes, context.stream>>>(
        params);
    CBTM_CUDA_LAUNCHED("attention_backward_mma");
  };
  const auto launch_both = [&]<typename Element, bool kDropout>() {
    launch(attention_backward_keys_mma<Element, kHeadDim, kDropout>, key_tile_count, Tiles::kKeysShared);
    launch(attention_backward_queries_mma<Element, kHeadDim, kDropout>, query_tile_count, Tiles::kQueriesShared);
  };
  const bool dropped = params.dropout.limit != 0;
  if (dtype == DType::bf16)
    dropped ? launch_both.template operator()<__nv_bfloat16, true>()
            : launch_both.template operator()<__nv_bfloat16, false>();
  else
    dropped ? launch_both.template operator()<__half, true>() : launch_both.template operator()<__half, false>();
}

}  // namespace cbtm::cuda
