#pragma once

#include <algorithm>

#include "attention/attention_dropout.cuh"
#include "attention/hopper/attention_hopper.cuh"
#include "runtime/check.h"
#include "runtime/shared_memory_limit.h"

namespace cbtm::cuda {

/// Tensor maps of the operands: 64 rows of the queries, kForwardKeys of the keys and values, 64 columns each.
struct AttentionForwardMaps {
  CUtensorMap query, key, value;
};

namespace hopper {

/// Shared memory of attention_forward_hopper.
template <int kHeadDim>
struct ForwardMemory {
  using Tiles = AttentionHopperTiles<kHeadDim>;
  static constexpr int kQueryBytes = Tiles::bytes_of(64);  ///< of a warpgroup
  static constexpr int kKeyBytes = Tiles::bytes_of(Tiles::kForwardKeys);
  static constexpr int kStages = Tiles::kForwardStages;
  struct Barriers {
    Barrier query, partial_value;
    Barrier full_key[kStages], empty_key[kStages], full_value[kStages], empty_value[kStages];
  };
  static_assert(sizeof(Barriers) <= 128);

  unsigned char* base;

  __device__ __forceinline__ unsigned char* query(int warpgroup) const { return base + warpgroup * kQueryBytes; }
  __device__ __forceinline__ unsigned char* key(int stage) const {
    return base + Tiles::kConsumers * kQueryBytes + stage * kKeyBytes;
  }
  __device__ __forceinline__ unsigned char* value(int stage) const { return key(kStages + stage); }
  __device__ __forceinline__ Barriers& barriers() const { return *reinterpret_cast<Barriers*>(key(2 * kStages)); }
};

/// What the parts of a block know of its tile.
struct ForwardShare {
  AttentionQueryTile tile;
  int column;     ///< of the head
  int visible;    ///< keys that the last query sees
  int key_tiles;  ///< visited from the last to the first
  int consumers;  ///< warpgroups that own a query
};

/// The producer warp: brings the queries, then keys and values, tile by tile.
template <int kHeadDim>
__device__ __forceinline__ void produce(const ForwardMemory<kHeadDim>& memory, const AttentionForwardMaps& maps,
                                        const ForwardShare& share) {
  using Memory = ForwardMemory<kHeadDim>;
  constexpr int kKeys = AttentionHopperTiles<kHeadDim>::kForwardKeys;
  auto& barriers = memory.barriers();
  const bool leader = is_elected();
  if (leader) {
    barriers.query.arrive_and_expect(share.consumers * Memory::kQueryBytes);
    for (int warpgroup = 0; warpgroup < share.consumers; ++warpgroup)
      load_head<kHeadDim, 64>(memory.query(warpgroup), maps.query, share.tile.query_row + 64 * warpgroup, share.column,
                              barriers.query);
  }
  RingPosition<Memory::kStages> at;
  for (int key_tile = share.key_tiles - 1; key_tile >= 0; --key_tile, at.advance()) {
    const int row = share.tile.key_row + key_tile * kKeys;
    const int count = share.visible - key_tile * kKeys;
    Barrier& arrived = count < kKeys ? barriers.partial_value : barriers.full_value[at.stage];
    // One lane alone waits: another one, not minded by anybody, might look at a phase when the one after it has ended.
    if (leader) {
      barriers.empty_key[at.stage].wait(at.parity ^ 1);
      barriers.full_key[at.stage].arrive_and_expect(Memory::kKeyBytes);
      load_head<kHeadDim, kKeys>(memory.key(at.stage), maps.key, row, share.column, barriers.full_key[at.stage]);
      barriers.empty_value[at.stage].wait(at.parity ^ 1);
      arrived.arrive_and_expect(Memory::kKeyBytes);
      load_head<kHeadDim, kKeys>(memory.value(at.stage), maps.value, row, share.column, arrived);
    }
    if (count < kKeys) {  // the first that is brought
      arrived.wait(0);
      clear_rows<kHeadDim, kKeys>(memory.value(at.stage), count);
      if (leader) barriers.full_value[at.stage].arrive();
    }
  }
}

/// Largest score and sum of exponentials of the two rows of a lane, of its columns.
struct SoftmaxRows {
  float highest[2] = {-INFINITY, -INFINITY};
  float total[2] = {0, 0};

  /// scores become exponentials (base 2, relative to the largest so far); what was summed before is to be multiplied by
  /// rescale.
  template <int kCount>
  __device__ __forceinline__ void add(float (&scores)[kCount], float scale, float (&rescale)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float new_highest = highest[half];
#pragma unroll
      for (int i = 2 * half; i < kCount; i += 4) new_highest = fmaxf(new_highest, fmaxf(scores[i], scores[i + 1]));
      new_highest = fmaxf(new_highest, __shfl_xor_sync(0xffffffffu, new_highest, 1));
      new_highest = fmaxf(new_highest, __shfl_xor_sync(0xffffffffu, new_highest, 2));
      const float shift = new_highest == -INFINITY ? 0.0f : new_highest * scale;  // -inf - -inf is not a number
      rescale[half] = mma::exp2_approximate(highest[half] * scale - shift);
      highest[half] = new_highest;
      float tile_total = 0;
#pragma unroll
      for (int i = 2 * half; i < kCount; i += 4)
#pragma unroll
        for (int e = i; e < i + 2; ++e) {
          scores[e] = mma::exp2_approximate(scores[e] * scale - shift);
          tile_total += scores[e];
        }
      total[half] = total[half] * rescale[half] + tile_total;
    }
  }
};

/// Scores of keys from `seen` on (of the lane's first row; its second row sees 8 more) become minus infinity.
template <int kCount>
__device__ __forceinline__ void hide_keys(float (&scores)[kCount], int seen) {
  const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    if (i / 4 * 8 + 2 * t + i % 2 >= seen + i % 4 / 2 * 8) scores[i] = -INFINITY;
}

/// Exponentials that dropout drops become zero. `group` is the lane's of the first column.
template <int kCount>
__device__ __forceinline__ void drop(float (&exponentials)[kCount], const AttentionDropout& dropout, int64_t group) {
#pragma unroll
  for (int n = 0; n < kCount / 4; n += 4) {
    AttentionDecisions decisions[2];
    attention_decisions_of_two<false>(decisions, dropout, group + 2 * n, group + 2 * n + 4);
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (!attention_keeps(dropout, decisions[m / 2].of_column[e % 2], e / 2 + 2 * (m % 2)))
          exponentials[4 * (n + m) + e] = 0;
  }
}

/// A consumer warpgroup: 64 queries. The scores of the next keys are computed while the current exponentials are
/// multiplied with their values, and the exponentials of the next ones while that product runs; the other warpgroup's
/// products come between (a barrier for each passes the turn).
template <typename Element, int kHeadDim, bool kDropout>
__device__ __forceinline__ void consume(const ForwardMemory<kHeadDim>& memory, const AttentionParams& params,
                                        const ForwardShare& share, int warpgroup, int head) {
  using Memory = ForwardMemory<kHeadDim>;
  constexpr int kKeys = AttentionHopperTiles<kHeadDim>::kForwardKeys;
  auto& barriers = memory.barriers();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp_row = static_cast<int>(threadIdx.x) % 128 / 32 * 16;
  const int first_row = 64 * warpgroup;
  const float scale = params.scale * kLog2e;
  const int seen = share.tile.first_visible + first_row + warp_row + lane / 4;  // by this lane's first row
  const auto leave = [&](Barrier& empty) {
    if (lane == 0) empty.arrive();
  };
  const auto hide = [&](float(&scores)[kKeys / 2], int key_tile) {
    if ((key_tile + 1) * kKeys > share.tile.first_visible + first_row) hide_keys(scores, seen - key_tile * kKeys);
  };
  const AttentionDropout dropout = attention_dropout(params);
  const int64_t dropout_group =
      attention_dropout_group(dropout, params.num_heads, share.tile.query_row + first_row + warp_row, lane / 8, head) +
      lane % 4;
  constexpr int kTurns = 1, kOwn = 3;  // named barriers
  const bool takes_turns = share.consumers == 2;
  const int other = 1 - warpgroup;

  float scores[kKeys / 2], rescale[2];
  float sums[kHeadDim / 2] = {};
  uint32_t weights[kKeys / 16][4];
  SoftmaxRows softmax;
  const uint64_t queries = describe<Major::k>(memory.query(warpgroup));
  RingPosition<Memory::kStages> at;
  barriers.query.wait(0);
  barriers.full_key[0].wait(0);
  begin_products();
  issue_scores<kHeadDim, 64, kKeys, Element>(scores, queries, describe<Major::k>(memory.key(0)));
  commit_products();
  wait_for_products<0>();
  hold(scores);
  leave(barriers.empty_key[0]);
  hide(scores, share.key_tiles - 1);
  softmax.add(scores, scale, rescale);
  if constexpr (kDropout) drop(scores, dropout, dropout_group + (share.key_tiles - 1) * (kKeys / 4));
  as_left<Element>(weights, scores);
  if (takes_turns && warpgroup == 1) announce(kTurns, 256);
  RingPosition<Memory::kStages> next = at;
  next.advance();
  if (share.key_tiles > 1) barriers.full_key[next.stage].wait(next.parity);
  for (int key_tile = share.key_tiles - 2; key_tile >= 0; --key_tile) {
    if (takes_turns) meet(kTurns + warpgroup, 256);
    hold(scores), hold(sums), hold(weights);
    begin_products();
    issue_scores<kHeadDim, 64, kKeys, Element>(scores, queries, describe<Major::k>(memory.key(next.stage)));
    commit_products();
    barriers.full_value[at.stage].wait(at.parity);
    begin_products();
    issue_weighted_sum<Element>(sums, weights, describe<Major::mn>(memory.value(at.stage), kKeys * 128));
    commit_products();
    if (takes_turns && (warpgroup == 0 || key_tile > 0)) announce(kTurns + other, 256);
    wait_for_products<1>();
    hold(scores);
    leave(barriers.empty_key[next.stage]);
    hide(scores, key_tile);
    softmax.add(scores, scale, rescale);
    if constexpr (kDropout) drop(scores, dropout, dropout_group + key_tile * (kKeys / 4));
    hold(scores);
    const int value_stage = at.stage;
    at = next;
    next.advance();
    // Between the exponentials and the end of the product: the assembler moves nothing over this loop.
    if (key_tile > 0) barriers.full_key[next.stage].wait(next.parity);
    wait_for_products<0>();
    hold(sums), hold(weights);
    leave(barriers.empty_value[value_stage]);
    as_left<Element>(weights, scores);
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) sums[i] *= rescale[i % 4 / 2];
  }
  barriers.full_value[at.stage].wait(at.parity);
  hold(sums), hold(weights);
  begin_products();
  issue_weighted_sum<Element>(sums, weights, describe<Major::mn>(memory.value(at.stage), kKeys * 128));
  commit_products();
  wait_for_products<0>();
  hold(sums);

  const int count = share.tile.query_count - first_row;
  const int64_t row = static_cast<int64_t>(share.tile.query_row) + first_row;
  float factor[1][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = softmax.total[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    factor[0][half] = (kDropout ? params.dropout.kept_scale : 1.0f) / sum;
    const int r = warp_row + 8 * half + lane / 4;
    if (lane % 4 == 0 && r < count && params.log_sum_exp != nullptr)
      params.log_sum_exp[(row + r) * params.log_sum_exp_stride + head] =
          softmax.highest[half] * params.scale + logf(sum);
  }
  meet(kOwn + warpgroup, 128);  // no product reads the queries any more: the output passes through their place
  mma::write_rows<kHeadDim, 1>(params.output, row, count, share.column,
                               reinterpret_cast<const float(&)[1][kHeadDim / 8][4]>(sums), factor,
                               reinterpret_cast<Element*>(memory.query(warpgroup)), warp_row);
}

}  // namespace hopper

// Attention forward for Hopper (after FlashAttention-3, arXiv 2407.08608), bfloat16 or float16.
//
//   s[i,j] = scale * q[i] . k[j],  lse[i] = log sum_j exp(s[i,j]),  o[i] = sum_j dropped(exp(s[i,j] - lse[i])) v[j]
//
// grid      a block a tile of 128 queries and head, heads fastest, tiles of most keys first. A warp brings tiles by
// tensor
//           maps (TMA); two warpgroups own 64 queries each, all that a tile has: the second one may have none.
// shared    queries; keys and values [128, D] in two stages each, with barriers that count their bytes (mbarrier).
// registers a lane holds D / 2 sums of the output, 64 scores, and 32 registers of exponentials, the left operand of the
//           second product. 240 for consumers, 24 for the producer (setmaxnreg).
// bytes     2 * rows * heads * D * (q, o once; k, v once for each 128 queries, mostly from the L2) + 4 * rows * heads.
// numerics  those of attention_forward_mma, but for keys in descending tiles: scores, maxima, sums and output float32,
//           exponentials rounded to 16 bits for the product; the same bits every time.
// dropout   neighbouring lanes share a call of Philox for 16 x 16 probabilities, drawn while a product runs; 1 / (1 -
// p) is
//           applied at the end.
// tails     what tensor maps bring past the last key or query of a sequence is hidden (scores), cleared (values) or not
//           written (outputs).
template <typename Element, int kHeadDim, bool kDropout>
__global__ void __launch_bounds__(AttentionHopperTiles<kHeadDim>::kThreads, 1)
    attention_forward_hopper(const __grid_constant__ AttentionForwardMaps maps, const AttentionParams params) {
  using Tiles = AttentionHopperTiles<kHeadDim>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const hopper::ForwardMemory<kHeadDim> memory{shared};
  const int head = static_cast<int>(blockIdx.x) % params.num_heads;
  hopper::ForwardShare share;
  share.tile = params.query_tiles[static_cast<int>(blockIdx.x) / params.num_heads];
  if (share.tile.query_count == 0) return;  // all threads of the block
  share.column = head * kHeadDim;
  share.visible = share.tile.first_visible + share.tile.query_count - 1;
  share.key_tiles = (share.visible + Tiles::kForwardKeys - 1) / Tiles::kForwardKeys;
  share.consumers = (share.tile.query_count + 63) / 64;
  if (threadIdx.x == 0) {
    auto& barriers = memory.barriers();
    barriers.query.initialise(1);
    barriers.partial_value.initialise(1);
    for (int stage = 0; stage < Tiles::kForwardStages; ++stage) {
      barriers.full_key[stage].initialise(1);
      barriers.full_value[stage].initialise(1);
      barriers.empty_key[stage].initialise(4 * share.consumers);
      barriers.empty_value[stage].initialise(4 * share.consumers);
    }
    hopper::publish_barriers();
  }
  __syncthreads();
  // The same for all lanes, and known to be so: products stand in no divergent path.
  const int warpgroup = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
  if (warpgroup == Tiles::kConsumers) {
    hopper::give_registers_back<24>();
    if (threadIdx.x % 128 < 32) hopper::produce(memory, maps, share);
  } else {
    hopper::take_registers<240>();
    if (warpgroup < share.consumers)
      hopper::consume<Element, kHeadDim, kDropout>(memory, params, share, warpgroup, head);
  }
}

template <int kHeadDim>
void launch_attention_forward_hopper(Context& context, DType dtype, AttentionParams params,
                                     const SequenceTable<AttentionQueryTile>& tiles) {
  using Tiles = AttentionHopperTiles<kHeadDim>;
  const AttentionForwardMaps maps{
      .query = hopper::head_map(params, params.query, dtype, params.query_rows, 64),
      .key = hopper::head_map(params, params.key, dtype, params.key_rows, Tiles::kForwardKeys),
      .value = hopper::head_map(params, params.value, dtype, params.key_rows, Tiles::kForwardKeys)};
  params.query_tiles = tiles.rows;
  const auto launch = [&](auto* kernel) {
    allow_shared_bytes(reinterpret_cast<const void*>(kernel), Tiles::kForwardShared);
    kernel<<<static_cast<unsigned>(tiles.room * params.num_heads), Tiles::kThreads, Tiles::kForwardShared,
             context.stream>>>(maps, params);
    CBTM_CUDA_LAUNCHED("attention_forward_hopper");
  };
  const bool dropped = params.dropout.limit != 0;
  if (dtype == DType::bf16)
    launch(dropped ? attention_forward_hopper<__nv_bfloat16, kHeadDim, true>
                   : attention_forward_hopper<__nv_bfloat16, kHeadDim, false>);
  else
    launch(dropped ? attention_forward_hopper<__half, kHeadDim, true>
                   : attention_forward_hopper<__half, kHeadDim, false>);
}

}  // namespace cbtm::cuda
