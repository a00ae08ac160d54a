#include "attention/attention_dropout.cuh"
#include "attention/attention_general.cuh"
#include "attention/attention_kernels.h"
#include "cbtm/base/error.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

using namespace general;

// Attention forward for any floating dtype, head size and alignment.
//
//   s[i,j] = scale * q[i] . k[j],  p[i,j] = exp(s[i,j] - lse[i]) over the visible j,  lse[i] = log sum_j exp(s[i,j])
//   o[i]   = sum_j dropped(p[i,j]) v[j]
//
// grid      a block a tile of 64 queries and head, heads fastest; tiles of most keys first.
// work      keys in tiles of 64 up to the last visible one; online softmax: running maximum m and sum l of a row, the
//           output rescaled by exp(m_old - m_new).
// registers 16 scores, 4 x head_dim / 16 of the output a thread; shared memory 36 KB whatever the head size.
// bytes     4 (q, o) + 2 (k, v: once for each 64 queries, from the L2) times rows * heads * head_dim * element size.
// numerics  float32 throughout; sums over j in ascending tiles. Dropout applies to p, not to l.
template <typename Element, int kChunks>
__global__ void __launch_bounds__(kThreads, 1) attention_forward_general(const AttentionParams params) {
  __shared__ SharedTiles shared;
  const int x = static_cast<int>(threadIdx.x) % 16;
  const int y = static_cast<int>(threadIdx.x) / 16;
  const int head = static_cast<int>(blockIdx.x) % params.num_heads;
  const AttentionDropout dropout = attention_dropout(params);
  const AttentionQueryTile tile = params.query_tiles[static_cast<int>(blockIdx.x) / params.num_heads];
  if (tile.query_count == 0) return;
  const int column = head * params.head_dim;
  const auto queries = rows_of<Element>(params.query, tile.query_row, tile.query_count, column);
  const int visible = tile.first_visible + tile.query_count - 1;  // by the last query
  const bool dropped = params.dropout.limit != 0;

  float sums[4][2 * kChunks] = {};
  float highest[4], total[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    highest[i] = -INFINITY;
    total[i] = 0;
  }
  for (int first_key = 0; first_key < visible; first_key += kTile) {
    float scores[4][4];
    const int key_count = min(kTile, visible - first_key);
    score_product(scores, queries, key_rows_of<Element>(params, params.key, tile, first_key, key_count, column),
                  params.head_dim, params.vectorised, shared);
    const uint32_t kept =
        dropped ? kept_of_thread<false>(dropout, params.num_heads, head, tile.query_row, first_key) : 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int seen = tile.first_visible + 4 * y + i - first_key;  // keys of this tile that the row sees
      float tile_highest = -INFINITY;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        scores[i][j] = x + 16 * j < min(seen, key_count) ? scores[i][j] * params.scale : -INFINITY;
        tile_highest = fmaxf(tile_highest, scores[i][j]);
      }
#pragma unroll
      for (int lanes = 8; lanes > 0; lanes /= 2)
        tile_highest = fmaxf(tile_highest, __shfl_xor_sync(0xffffffffu, tile_highest, lanes));
      const float new_highest = fmaxf(highest[i], tile_highest);
      const float shift = new_highest == -INFINITY ? 0.0f : new_highest;  // -inf - -inf is not a number
      const float rescale = expf(highest[i] - shift);
      float tile_total = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        scores[i][j] = expf(scores[i][j] - shift);
        tile_total += scores[i][j];
      }
#pragma unroll
      for (int lanes = 8; lanes > 0; lanes /= 2) tile_total += __shfl_xor_sync(0xffffffffu, tile_total, lanes);
      highest[i] = new_highest;
      total[i] = total[i] * rescale + tile_total;
#pragma unroll
      for (int c = 0; c < 2 * kChunks; ++c) sums[i][c] *= rescale;
      if (dropped) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          scores[i][j] = (kept >> (4 * i + j)) & 1u ? scores[i][j] * params.dropout.kept_scale : 0.0f;
      }
    }
    share(scores, shared);
    weighted_sum<kChunks>(sums, key_rows_of<Element>(params, params.value, tile, first_key, key_count, column),
                          params.head_dim, params.vectorised, shared);
  }
  float factor[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    factor[i] = 1.0f / total[i];
    if (x == 0 && 4 * y + i < tile.query_count && params.log_sum_exp != nullptr)
      params.log_sum_exp[(static_cast<int64_t>(tile.query_row) + 4 * y + i) * params.log_sum_exp_stride + head] =
          highest[i] + logf(total[i]);
  }
  write_rows<kChunks, Element>(params.output, tile.query_row, tile.query_count, column, sums, factor, params.head_dim);
}

}  // namespace

void launch_attention_forward_general(const Context& context, DType dtype, const AttentionParams& params,
                                      int64_t tile_count) {
  static_assert(kTile == kGeneralTile);
  general::dispatch(dtype, params.head_dim, [&]<typename Element, int kChunks>() {
    attention_forward_general<Element, kChunks>
        <<<static_cast<unsigned>(tile_count * params.num_heads), kThreads, 0, context.stream>>>(params);
  });
  CBTM_CUDA_LAUNCHED("attention_forward_general");
}

}  // namespace cbtm::cuda
