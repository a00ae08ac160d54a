#include "attention/attention_dropout.cuh"
#include "attention/attention_general.cuh"
#include "attention/attention_kernels.h"
#include "cbtm/base/error.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

using namespace general;

// Gradients of keys and values for any floating dtype, head size and alignment. Scores are recomputed transposed, a row
// a key, so that probabilities leave the registers in the order in which they are summed over the queries.
//
//   p[i,j]  = exp(scale * q[i] . k[j] - lse[i]),  m[i,j] = 0 or 1 / (1 - probability of dropout)
//   dv[j]   = sum_i p[i,j] m[i,j] do[i]
//   ds[i,j] = p[i,j] (m[i,j] do[i] . v[j] - row_term[i]),  dk[j] = scale * sum_i ds[i,j] q[i]
//
// grid      a block a tile of 64 keys and head; queries in tiles of 64 from the first that sees one of the keys.
// registers 32 scores and their gradients, 2 x 4 x head_dim / 16 sums a thread.
// bytes     k, v, dk, dv once; q, do once for each 64 keys (L2).
// order     ascending queries: the same bits every time.
template <typename Element, int kChunks>
__global__ void __launch_bounds__(kThreads, 1) attention_backward_keys_general(const AttentionParams params) {
  __shared__ SharedTiles shared;
  const int x = static_cast<int>(threadIdx.x) % 16;
  const int y = static_cast<int>(threadIdx.x) / 16;
  const int head = static_cast<int>(blockIdx.x) % params.num_heads;
  const AttentionDropout dropout = attention_dropout(params);
  const AttentionKeyTile tile = params.key_tiles[static_cast<int>(blockIdx.x) / params.num_heads];
  if (tile.key_count == 0) return;
  const int column = head * params.head_dim;
  const auto keys = rows_of<Element>(params.key, tile.key_row, tile.key_count, column);
  const auto values = rows_of<Element>(params.value, tile.key_row, tile.key_count, column);
  const bool dropped = params.dropout.limit != 0;

  float key_sums[4][2 * kChunks] = {};
  float value_sums[4][2 * kChunks] = {};
  for (int first_query = 0; first_query < tile.query_count; first_query += kTile) {
    const int query_row = tile.query_row + first_query;
    const int query_count = min(kTile, tile.query_count - first_query);
    const auto queries = rows_of<Element>(params.query, query_row, query_count, column);
    const auto output_gradients = rows_of<Element>(params.output_gradient, query_row, query_count, column);
    float probabilities[4][4], gradients[4][4];
    score_product(probabilities, keys, queries, params.head_dim, params.vectorised, shared);
    score_product(gradients, values, output_gradients, params.head_dim, params.vectorised, shared);
    const uint32_t kept =
        dropped ? kept_of_thread<true>(dropout, params.num_heads, head, query_row, tile.key_first) : 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int query = x + 16 * j;
      const bool inside = query < query_count;
      const int64_t at = head * params.query_rows + query_row + query;
      const float log_sum_exp = inside ? params.row_log_sum_exp[at] : 0;
      const float row_term = inside ? params.row_term[at] : 0;
      const int seen = inside ? first_query + query + tile.visible_offset + 1 : 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float p = 4 * y + i < seen ? expf(probabilities[i][j] * params.scale - log_sum_exp) : 0.0f;
        const float multiplier = !dropped ? 1.0f : (kept >> (4 * i + j)) & 1u ? params.dropout.kept_scale : 0.0f;
        gradients[i][j] = 4 * y + i < seen ? p * (gradients[i][j] * multiplier - row_term) : 0.0f;
        probabilities[i][j] = p * multiplier;
      }
    }
    share(probabilities, shared);
    weighted_sum<kChunks>(value_sums, output_gradients, params.head_dim, params.vectorised, shared);
    share(gradients, shared);
    weighted_sum<kChunks>(key_sums, queries, params.head_dim, params.vectorised, shared);
  }
  const float ones[4] = {1, 1, 1, 1};
  const float scales[4] = {params.scale, params.scale, params.scale, params.scale};
  write_rows<kChunks, Element>(params.value_gradient, tile.key_row, tile.key_count, column, value_sums, ones,
                               params.head_dim);
  write_rows<kChunks, Element>(params.key_gradient, tile.key_row, tile.key_count, column, key_sums, scales,
                               params.head_dim);
}

// Gradient of the queries: dq[i] = scale * sum_j ds[i,j] k[j], ds as above; a block a tile of 64 queries and head, keys
// in ascending tiles of 64. The scores are computed a second time, which costs 2 of 7 products and saves both atomics
// and a float32 copy of dq for each tile of keys.
template <typename Element, int kChunks>
__global__ void __launch_bounds__(kThreads, 1) attention_backward_queries_general(const AttentionParams params) {
  __shared__ SharedTiles shared;
  const int x = static_cast<int>(threadIdx.x) % 16;
  const int y = static_cast<int>(threadIdx.x) / 16;
  const int head = static_cast<int>(blockIdx.x) % params.num_heads;
  const AttentionDropout dropout = attention_dropout(params);
  const AttentionQueryTile tile = params.query_tiles[static_cast<int>(blockIdx.x) / params.num_heads];
  if (tile.query_count == 0) return;
  const int column = head * params.head_dim;
  const auto queries = rows_of<Element>(params.query, tile.query_row, tile.query_count, column);
  const auto output_gradients = rows_of<Element>(params.output_gradient, tile.query_row, tile.query_count, column);
  const int visible = tile.first_visible + tile.query_count - 1;
  const bool dropped = params.dropout.limit != 0;

  float log_sum_exp[4], row_term[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool inside = 4 * y + i < tile.query_count;
    const int64_t at = head * params.query_rows + tile.query_row + 4 * y + i;
    log_sum_exp[i] = inside ? params.row_log_sum_exp[at] : 0;
    row_term[i] = inside ? params.row_term[at] : 0;
  }
  float sums[4][2 * kChunks] = {};
  for (int first_key = 0; first_key < visible; first_key += kTile) {
    const int key_count = min(kTile, visible - first_key);
    const auto keys = rows_of<Element>(params.key, static_cast<int64_t>(tile.key_row) + first_key, key_count, column);
    float probabilities[4][4], gradients[4][4];
    score_product(probabilities, queries, keys, params.head_dim, params.vectorised, shared);
    score_product(gradients, output_gradients,
                  rows_of<Element>(params.value, static_cast<int64_t>(tile.key_row) + first_key, key_count, column),
                  params.head_dim, params.vectorised, shared);
    const uint32_t kept =
        dropped ? kept_of_thread<false>(dropout, params.num_heads, head, tile.query_row, first_key) : 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int seen = 4 * y + i < tile.query_count ? tile.first_visible + 4 * y + i - first_key : 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float multiplier = !dropped ? 1.0f : (kept >> (4 * i + j)) & 1u ? params.dropout.kept_scale : 0.0f;
        gradients[i][j] = x + 16 * j < seen ? expf(probabilities[i][j] * params.scale - log_sum_exp[i]) *
                                                  (gradients[i][j] * multiplier - row_term[i])
                                            : 0.0f;
      }
    }
    share(gradients, shared);
    weighted_sum<kChunks>(sums, keys, params.head_dim, params.vectorised, shared);
  }
  const float scales[4] = {params.scale, params.scale, params.scale, params.scale};
  write_rows<kChunks, Element>(params.query_gradient, tile.query_row, tile.query_count, column, sums, scales,
                               params.head_dim);
}

}  // namespace

void launch_attention_backward_general(const Context& context, DType dtype, const AttentionParams& params,
                                       int64_t query_tile_count, int64_t key_tile_count) {
  general::dispatch(dtype, params.head_dim, [&]<typename Element, int kChunks>() {
    if (key_tile_count > 0)
      attention_backward_keys_general<Element, kChunks>
          <<<static_cast<unsigned>(key_tile_count * params.num_heads), kThreads, 0, context.stream>>>(params);
    CBTM_CUDA_LAUNCHED("attention_backward_keys_general");
    if (query_tile_count > 0)
      attention_backward_queries_general<Element, kChunks>
          <<<static_cast<unsigned>(query_tile_count * params.num_heads), kThreads, 0, context.stream>>>(params);
    CBTM_CUDA_LAUNCHED("attention_backward_queries_general");
  });
}

}  // namespace cbtm::cuda
