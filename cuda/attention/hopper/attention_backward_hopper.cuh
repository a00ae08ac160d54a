#pragma once

#include <algorithm>

#include "attention/attention_dropout.cuh"
#include "attention/hopper/attention_backward_copies.cuh"
#include "runtime/check.h"
#include "runtime/shared_memory_limit.h"

namespace cbtm::cuda {
namespace hopper {

/// Columns of dq that a warpgroup computes: whole panels of the keys or halves of one, so that a head of 80 is 64 + 16.
template <int kHeadDim>
constexpr int kFirstColumns = kHeadDim == 64 ? 32 : 64;

/// Issues kColumns columns of a tile's share of dq = ds k; `keys` describes the keys from the first of these columns
/// on.
template <typename Element, int kHeadDim, int kColumns>
__device__ __forceinline__ void issue_query_gradient(float (&sums)[kColumns / 2], uint64_t score_gradients,
                                                     uint64_t keys) {
#pragma unroll
  for (int step = 0; step < BackwardMemory<kHeadDim>::kKeys / 16; ++step)
    multiply<Element, Major::mn, Major::mn>(sums, advanced(score_gradients, step * 2048), advanced(keys, step * 2048),
                                            step > 0);
}

/// What dropout decides about a lane's probabilities: keys of its warp as rows, `first_key` that of the first one in
/// its sequence; queries from row `query_row` on as columns.
template <int kBlocks>
__device__ __forceinline__ void decide(AttentionDecisions (&decisions)[kBlocks], const AttentionDropout& dropout,
                                       int num_heads, int head, int query_row, int first_key) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t groups_of_16_queries = int64_t{64} * num_heads * dropout.key_groups;
  int64_t group = attention_dropout_group(dropout, num_heads, query_row, lane % 4, head) + first_key / 4 + lane / 8;
#pragma unroll
  for (int block = 0; block < kBlocks; block += 2, group += 2 * groups_of_16_queries) {
    AttentionDecisions two[2];
    attention_decisions_of_two<true>(two, dropout, group, group + groups_of_16_queries);
    decisions[block] = two[0];
    decisions[block + 1] = two[1];
  }
}

/// Of accumulator `i` of a lane.
template <int kBlocks>
__device__ __forceinline__ bool is_kept(const AttentionDecisions (&decisions)[kBlocks], const AttentionDropout& dropout,
                                        int i) {
  return attention_keeps(dropout, decisions[i / 8].of_column[i % 2], i / 4 % 2 + i % 4 / 2 * 2);
}

/// A consumer warpgroup: 64 keys, and its columns of dq.
template <typename Element, int kHeadDim, bool kDropout>
__device__ __forceinline__ void consume(const BackwardMemory<kHeadDim>& memory, const AttentionParams& params,
                                        const BackwardShare& share, int warpgroup) {
  using Memory = BackwardMemory<kHeadDim>;
  constexpr int kKeys = Memory::kKeys, kQueries = Memory::kQueries;
  constexpr int kBoth = 1;  // named barrier of the two warpgroups
  auto& barriers = memory.barriers();
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int lane = thread % 32, g = lane / 4, t = lane % 4;
  const int own_row = thread / 32 * 16;  // of the warp, within the warpgroup's keys
  const int first_key = 64 * warpgroup;
  const float scale = params.scale * kLog2e;

  const AttentionDropout dropout = attention_dropout(params);
  float key_sums[kHeadDim / 2] = {}, value_sums[kHeadDim / 2] = {};
  const uint64_t own_keys = advanced(describe<Major::k>(memory.key()), first_key * 128);
  const uint64_t own_values = advanced(describe<Major::k>(memory.value()), first_key * 128);
  RingPosition<Memory::kStages> at;
  static_assert(Memory::kStages == 2);
  const auto leave = [&](int stage) {
    if (lane == 0) barriers.empty[stage].arrive();
  };
  barriers.keys.wait(0);
  for (int step = 0; step < share.query_tiles; ++step, at.advance()) {
    const int query_tile = share.query_tiles - 1 - step;
    float probabilities[kQueries / 2], gradients[kQueries / 2];
    barriers.full[at.stage].wait(at.parity);
    begin_products();
    issue_scores<kHeadDim, kKeys, kQueries, Element>(probabilities, own_keys,
                                                     describe<Major::k>(memory.query(at.stage)));
    commit_products();
    issue_scores<kHeadDim, kKeys, kQueries, Element>(gradients, own_values,
                                                     describe<Major::k>(memory.output_gradient(at.stage)));
    commit_products();
    AttentionDecisions decisions[kQueries / 16];
    if constexpr (kDropout)
      decide(decisions, dropout, params.num_heads, share.head, share.tile.query_row + kQueries * query_tile,
             share.tile.key_first + first_key + own_row);
    wait_for_products<1>();
    hold(probabilities);
    if (!kDropout && step > 0) leave(at.stage ^ 1);  // dk of the tile before is done too
    // Key j of the tile is seen by query i if j <= i + seen_before.
    const auto& statistics = memory.statistics(at.stage);
    const int seen_before = share.tile.seen_before + kQueries * query_tile;
    const bool partly_seen = first_key + 63 > seen_before;
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
      const float2 log_sum_exp = *reinterpret_cast<const float2*>(statistics.log_sum_exp + 8 * n + 2 * t);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float p =
            mma::exp2_approximate(probabilities[4 * n + e] * scale - (e % 2 == 0 ? log_sum_exp.x : log_sum_exp.y));
        const bool hidden = partly_seen && first_key + own_row + g + e / 2 * 8 > seen_before + 8 * n + 2 * t + e % 2;
        probabilities[4 * n + e] = hidden ? 0.0f : p;
      }
    }
    uint32_t weights[kQueries / 16][4], score_gradients[kQueries / 16][4];
    if constexpr (kDropout) {
      float kept[kQueries / 2];
#pragma unroll
      for (int i = 0; i < kQueries / 2; ++i) kept[i] = is_kept(decisions, dropout, i) ? probabilities[i] : 0.0f;
      as_left<Element>(weights, kept);
    } else {
      as_left<Element>(weights, probabilities);
    }
    hold(weights), hold(value_sums);
    begin_products();
    issue_weighted_sum<Element>(value_sums, weights,
                                describe<Major::mn>(memory.output_gradient(at.stage), kQueries * 128));
    commit_products();
    wait_for_products<1>();
    hold(gradients);
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
      const float2 row_term = *reinterpret_cast<const float2*>(statistics.row_term + 8 * n + 2 * t);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const bool hidden = partly_seen && first_key + own_row + g + e / 2 * 8 > seen_before + 8 * n + 2 * t + e % 2;
        float gradient = gradients[4 * n + e];
        if constexpr (kDropout)
          gradient = is_kept(decisions, dropout, 4 * n + e) ? gradient * params.dropout.kept_scale : 0.0f;
        gradient = probabilities[4 * n + e] * (gradient - (e % 2 == 0 ? row_term.x : row_term.y));
        gradients[4 * n + e] = hidden ? 0.0f : gradient;
      }
    }
    as_left<Element>(score_gradients, gradients);
    unsigned char* const shared_gradients = memory.score_gradients(step % 2);
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<uint32_t*>(shared_gradients + (first_key + own_row + 8 * half + g) * 128 + (n ^ g) * 16 +
                                     4 * t) = score_gradients[n / 2][n % 2 * 2 + half];
    show_to_copies();
    meet(kBoth, 256);  // ds is complete; and the other one, two tiles old, is read no more
    const auto add_query_gradient = [&]<int kColumns>(int first_column, uint64_t keys) {
      float sums[kColumns / 2];
      hold(score_gradients), hold(key_sums);
      begin_products();
      issue_query_gradient<Element, kHeadDim, kColumns>(sums, describe<Major::mn>(shared_gradients), keys);
      commit_products();
      issue_weighted_sum<Element>(key_sums, score_gradients,
                                  describe<Major::mn>(memory.query(at.stage), kQueries * 128));
      commit_products();
      barriers.sums_read.wait(step % 2 ^ 1);
      wait_for_products<1>();
      hold(sums);
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n)
        reinterpret_cast<float4*>(memory.sums())[(first_column / 8 + n) * 128 + thread] =
            make_float4(sums[4 * n], sums[4 * n + 1], sums[4 * n + 2], sums[4 * n + 3]);
      show_to_copies();
      __syncwarp();
      if (lane == 0) barriers.sums_written.arrive();
    };
    constexpr int kFirst = kFirstColumns<kHeadDim>;
    const uint64_t keys = describe<Major::mn>(memory.key(), kKeys * 128);
    const uint64_t second_keys = advanced(keys, kFirst / 64 * kKeys * 128 + kFirst % 64 * 2);
    if constexpr (kFirst == kHeadDim - kFirst)
      add_query_gradient.template operator()<kFirst>(warpgroup * kFirst, warpgroup == 0 ? keys : second_keys);
    else if (warpgroup == 0)
      add_query_gradient.template operator()<kFirst>(0, keys);
    else
      add_query_gradient.template operator()<kHeadDim - kFirst>(kFirst, second_keys);
    if constexpr (kDropout) {  // ptxas would make products wait for each other if these ran on beside the decisions
      wait_for_products<0>();
      hold(key_sums), hold(value_sums);
      leave(at.stage);
    }
  }
  wait_for_products<0>();
  hold(key_sums), hold(value_sums);

  meet(kBoth, 256);  // no product reads keys and values any more: the gradients pass through their place
  const int count = share.tile.key_count - first_key;
  const int64_t row = static_cast<int64_t>(share.tile.key_row) + first_key;
  const float kept_scale = kDropout ? params.dropout.kept_scale : 1.0f;
  const float value_factor[1][2] = {{kept_scale, kept_scale}}, key_factor[1][2] = {{params.scale, params.scale}};
  using Sums = const float(&)[1][kHeadDim / 8][4];
  mma::write_rows<kHeadDim, 1>(params.value_gradient, row, count, share.column, reinterpret_cast<Sums>(value_sums),
                               value_factor,
                               reinterpret_cast<Element*>(memory.value() + warpgroup * Memory::kQueryBytes), own_row);
  mma::write_rows<kHeadDim, 1>(params.key_gradient, row, count, share.column, reinterpret_cast<Sums>(key_sums),
                               key_factor, reinterpret_cast<Element*>(memory.key() + warpgroup * Memory::kQueryBytes),
                               own_row);
}

}  // namespace hopper

// Attention backward for Hopper (after FlashAttention-3, arXiv 2407.08608), bfloat16 or float16, in one kernel:
//
//   p[i,j]  = exp(scale * q[i] . k[j] - lse[i]),  m[i,j] = 0 or 1 / (1 - probability of dropout)
//   ds[i,j] = p[i,j] (m[i,j] do[i] . v[j] - row_term[i])
//   dv[j] = sum_i p[i,j] m[i,j] do[i],  dk[j] = scale * sum_i ds[i,j] q[i],  dq[i] = scale * sum_j ds[i,j] k[j]
//
// grid      a block a tile of 128 keys and head, heads fastest, tiles seen by most queries first. A warp brings tiles
// by
//           tensor maps (TMA), a thread adds what is summed of dq, two warpgroups own 64 keys each and take the queries
//           64 at a time, from the last to the first.
// products  5: scores and their gradients have keys as rows, so that p and ds become left operands in the registers in
//           which they are; ds passes through shared memory for dq, of which each warpgroup computes a part of the
//           columns.
// order     dq is summed in float32 in memory, by additions that copies make (cp.reduce.async.bulk), keys ascending: a
//           counter a tile of queries and head says which block may add, so the bits are the same every time. All
//           blocks of a sequence begin with its last queries; each follows the block of the keys before it at one
//           step's distance. Blocks take their tiles by a ticket: a block waits only for blocks that have begun.
// shared    keys, values; queries, output gradients, statistics in two stages; ds twice; a tile's share of dq.
// registers 2 * D / 2 sums a lane, 2 * 32 of scores and their gradients, D / 4 of dq (D = 80: 32 or 8).
// bytes     2 * rows * heads * D * 4 (k, v, dk, dv once; q, do once for each tile of keys, mostly from the L2); dq,
// float32,
//           is added once for each tile of keys, in the L2.
// numerics  p and ds rounded to 16 bits for the products, everything else float32.
// dropout   two lanes share two calls of Philox for a warp's 16 keys and 32 queries, drawn while the scores are
// computed. tails     what tensor maps bring past a tile's last row is cleared (keys, queries, output gradients), has
// no
//           probabilities (queries) or is not written.
template <typename Element, int kHeadDim, bool kDropout>
__global__ void __launch_bounds__(AttentionHopperTiles<kHeadDim>::kThreads, 1)
    attention_backward_hopper(const __grid_constant__ AttentionBackwardMaps maps, const AttentionParams params,
                              const AttentionBackwardSums sums) {
  using Tiles = AttentionHopperTiles<kHeadDim>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const hopper::BackwardMemory<kHeadDim> memory{shared};
  auto& barriers = memory.barriers();
  if (threadIdx.x == 0) {
    barriers.ticket = atomicAdd(sums.ticket, 1u);
    for (auto* barrier : {&barriers.keys, &barriers.partial_keys, &barriers.partial_queries, &barriers.sums_read})
      barrier->initialise(1);
    for (int stage = 0; stage < Tiles::kBackwardStages; ++stage) {
      barriers.full[stage].initialise(2);
      barriers.empty[stage].initialise(4 * Tiles::kConsumers);
    }
    barriers.sums_written.initialise(4 * Tiles::kConsumers);
    hopper::publish_barriers();
  }
  __syncthreads();
  const int ticket = static_cast<int>(barriers.ticket);
  hopper::BackwardShare share;
  share.head = ticket % params.num_heads;
  share.column = share.head * kHeadDim;
  share.tile = sums.tiles[ticket / params.num_heads];
  if (share.tile.key_count == 0) return;  // all threads of the block
  share.query_tiles = (share.tile.query_count + Tiles::kBackwardQueries - 1) / Tiles::kBackwardQueries;
  // The same for all lanes, and known to be so: products stand in no divergent path.
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp >= 4 * Tiles::kConsumers) {
    hopper::give_registers_back<24>();
    if (warp == 4 * Tiles::kConsumers) hopper::produce(memory, maps, params, share);
    if (warp == 4 * Tiles::kConsumers + 1 && hopper::is_elected()) hopper::add_sums(memory, params, sums, share);
  } else {
    hopper::take_registers<240>();
    hopper::consume<Element, kHeadDim, kDropout>(memory, params, share, warp / 4);
  }
}

// dq in 16 bits, times the scale, from the sums of attention_backward_hopper.
//
// grid      a block of 4 warps a tile of 64 queries and head; a thread holds of dq what a thread of a warpgroup held.
// bytes     rows * heads * D * (read 4, write 2).
template <typename Element, int kHeadDim>
__global__ void __launch_bounds__(128) attention_query_gradient(const AttentionParams params, const float* query_sums) {
  __shared__ __align__(16) Element rows[64 * kHeadDim];
  const int head = static_cast<int>(blockIdx.x) % params.num_heads;
  const AttentionQueryTile tile = params.query_tiles[static_cast<int>(blockIdx.x) / params.num_heads];
  if (tile.query_count == 0) return;
  const auto* const from =
      reinterpret_cast<const float4*>(query_sums) + static_cast<int64_t>(blockIdx.x) * 16 * kHeadDim;
  float sums[1][kHeadDim / 8][4];
#pragma unroll
  for (int n = 0; n < kHeadDim / 8; ++n) {
    const float4 four = from[n * 128 + threadIdx.x];
    sums[0][n][0] = four.x, sums[0][n][1] = four.y, sums[0][n][2] = four.z, sums[0][n][3] = four.w;
  }
  const float factor[1][2] = {{params.scale, params.scale}};
  mma::write_rows<kHeadDim, 1>(params.query_gradient, tile.query_row, tile.query_count, head * kHeadDim, sums, factor,
                               rows, static_cast<int>(threadIdx.x) / 32 * 16);
}

template <int kHeadDim>
void launch_attention_backward_hopper(Context& context, DType dtype, AttentionParams params, AttentionBackwardSums sums,
                                      const SequenceTable<AttentionQueryTile>& query_tiles,
                                      const SequenceTable<AttentionBackwardTile>& key_tiles) {
  using Tiles = AttentionHopperTiles<kHeadDim>;
  if (key_tiles.room == 0) return;
  const auto map = [&](const AttentionOperand& operand, int64_t rows, int tile_rows) {
    // Without queries no tile of them is brought: any map will do.
    return rows == 0 ? CUtensorMap{} : hopper::head_map(params, operand, dtype, rows, tile_rows);
  };
  const AttentionBackwardMaps maps{
      .query = map(params.query, params.query_rows, Tiles::kBackwardQueries),
      .output_gradient = map(params.output_gradient, params.query_rows, Tiles::kBackwardQueries),
      .key = map(params.key, params.key_rows, Tiles::kBackwardKeys),
      .value = map(params.value, params.key_rows, Tiles::kBackwardKeys)};
  sums.tiles = key_tiles.rows;
  params.query_tiles = query_tiles.rows;
  const int64_t key_blocks = key_tiles.room * params.num_heads;
  const int64_t query_blocks = query_tiles.room * params.num_heads;
  CBTM_CUDA(cudaMemsetAsync(sums.ticket, 0, static_cast<size_t>(4 * (1 + query_blocks)), context.stream));
  const auto launch = [&]<typename Element>() {
    auto* const kernel = params.dropout.limit != 0 ? attention_backward_hopper<Element, kHeadDim, true>
                                                   : attention_backward_hopper<Element, kHeadDim, false>;
    allow_shared_bytes(reinterpret_cast<const void*>(kernel), Tiles::kBackwardShared);
    kernel<<<static_cast<unsigned>(key_blocks), Tiles::kThreads, Tiles::kBackwardShared, context.stream>>>(maps, params,
                                                                                                           sums);
    CBTM_CUDA_LAUNCHED("attention_backward_hopper");
    if (query_blocks == 0) return;
    attention_query_gradient<Element, kHeadDim>
        <<<static_cast<unsigned>(query_blocks), 128, 0, context.stream>>>(params, sums.query_gradients);
    CBTM_CUDA_LAUNCHED("attention_query_gradient");
  };
  dtype == DType::bf16 ? launch.template operator()<__nv_bfloat16>() : launch.template operator()<__half>();
}

}  // namespace cbtm::cuda
