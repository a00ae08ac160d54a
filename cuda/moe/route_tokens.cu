// Two experts for each token, and a sorted row for each choice. The rank of a choice among those of its expert comes
// from counts: tokens are cut into chunks, a block counts the choices of a chunk, and a block of the next kernel adds
// up the counts of the chunks before its own. Nothing depends on the order in which blocks run.

#include <cub/block/block_scan.cuh>

#include "block_sum.cuh"
#include "cbtm/base/ceil_divide.h"
#include "grid_selection.cuh"
#include "moe/route_tokens.h"
#include "moe/routing_view.cuh"
#include "row_sum.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kChunkRows = static_cast<int>(kRouteChunkRows);
constexpr int kExpertsMax = static_cast<int>(kMaxExperts);
static_assert(kThreads == kExpertsPerToken * kChunkRows, "a thread per choice of a chunk");
static_assert(kThreads == kExpertsMax, "a thread per expert");

struct Params {
  RoutingView routing;
  int capacity;           ///< positive
  int32_t* counts;        ///< [chunks, 2, experts]: choices of a chunk
  double* gate_sums;      ///< [chunks, experts + 1]: of each expert the gates of a chunk's tokens, then their entropies
  int32_t* dropped_both;  ///< [chunks]: tokens without an expert
  double* statistics;     ///< RoutingStatistics, or null
  int chunks;
};

/// Larger for larger logits, and of equal ones for the lower expert; never 0. A NaN comes before all numbers.
__device__ uint64_t choice_key(float logit, int expert) {
  const uint32_t order = isnan(logit) ? 0 : sortable(logit + 0.0f);  // -0 becomes 0, for they are equal
  return uint64_t{order} << 32 | (0xffffffffu - static_cast<uint32_t>(expert));
}
__device__ int expert_of(uint64_t key) { return static_cast<int>(0xffffffffu - static_cast<uint32_t>(key)); }

/// The warp's best expert but `without`.
__device__ int best_expert(const float* logits, int experts, int without) {
  uint64_t best = 0;
  for (int e = static_cast<int>(threadIdx.x) % 32; e < experts; e += 32)
    if (e != without) best = max(best, choice_key(logits[e], e));
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) best = max(best, __shfl_xor_sync(~0u, best, distance));
  return expert_of(best);
}

/// The choices of a chunk in the memory that its block shares.
struct Chunk {
  int choices[kExpertsPerToken][kChunkRows];
  int counts[kWarps][kExpertsMax];  ///< of the tokens of a warp; 4 warps have first choices, 4 second ones
};

/// Chooses the experts of a chunk's tokens: a warp per token.
__device__ void choose_experts(const RoutingView& routing, int chunk, Chunk& shared) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int row = warp; row < kChunkRows; row += kWarps) {
    const int token = chunk * kChunkRows + row;
    if (token >= routing.rows) break;
    const float* const logits = routing.logits + token * routing.logits_stride;
    const int first = best_expert(logits, routing.experts, -1);
    const int second = best_expert(logits, routing.experts, first);
    if (lane >= kExpertsPerToken) continue;
    shared.choices[lane][row] = lane == 0 ? first : second;
    routing.choices[token * routing.choices_stride + lane] = lane == 0 ? first : second;
  }
}

/// Adds up gates and entropies of a chunk's tokens.
__device__ void sum_gates(const Params& p, int chunk, const Chunk& shared) {
  __shared__ double sums[kWarps][kExpertsMax];
  __shared__ double entropies[kWarps];
  const RoutingView& routing = p.routing;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int e = lane; e < routing.experts; e += 32) sums[warp][e] = 0;
  double entropy = 0;
  for (int row = warp; row < kChunkRows; row += kWarps) {
    const int token = chunk * kChunkRows + row;
    if (token >= routing.rows) break;
    const float* const logits = routing.logits + token * routing.logits_stride;
    const float shift = logits[shared.choices[0][row]];
    float total = 0, weighted = 0;
    for (int e = lane; e < routing.experts; e += 32) {
      const float below = logits[e] - shift, gate = expf(below);
      total += gate;
      if (gate > 0) weighted = fmaf(gate, below, weighted);
    }
    total = warp_sum(total);
    weighted = warp_sum(weighted);
    for (int e = lane; e < routing.experts; e += 32) sums[warp][e] += expf(logits[e] - shift) / total;
    entropy += logf(total) - weighted / total;
  }
  if (lane == 0) entropies[warp] = entropy;
  __syncthreads();
  double* const written = p.gate_sums + int64_t{chunk} * (routing.experts + 1);
  for (int e = static_cast<int>(threadIdx.x); e <= routing.experts; e += kThreads) {
    double sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += e < routing.experts ? sums[w][e] : entropies[w];
    written[e] = sum;
  }
}

/// The thread's choice: of token `row` of the chunk, its choice `j`.
__device__ int choice_row() { return static_cast<int>(threadIdx.x) % kChunkRows; }
__device__ int choice_number() { return static_cast<int>(threadIdx.x) / kChunkRows; }

/// The rank of the thread's choice among those of its kind and expert in the chunk. Leaves their numbers in
/// shared.counts, of each warp's tokens.
__device__ int rank_in_chunk(const RoutingView& routing, int chunk, Chunk& shared) {
  const int warp = static_cast<int>(threadIdx.x) / 32, j = choice_number();
  for (int i = static_cast<int>(threadIdx.x); i < kWarps * kExpertsMax; i += kThreads) (&shared.counts[0][0])[i] = 0;
  __syncthreads();
  const bool exists = chunk * kChunkRows + choice_row() < routing.rows;
  const int expert = exists ? shared.choices[j][choice_row()] : -1;
  const unsigned peers = __match_any_sync(~0u, expert);
  const int before = __popc(peers & ((1u << threadIdx.x % 32) - 1));
  if (exists && before == 0) shared.counts[warp][expert] = __popc(peers);
  __syncthreads();
  int rank = before;
  if (exists)
    for (int w = j * kWarps / kExpertsPerToken; w < warp; ++w) rank += shared.counts[w][expert];
  return rank;
}

/// What the ranks of a chunk's choices are counted from.
struct Bases {
  int before[kExpertsPerToken][kExpertsMax];  ///< choices of earlier chunks
  int total[kExpertsPerToken][kExpertsMax];   ///< of all chunks
  int offset[kExpertsMax];                    ///< first sorted row of the expert
  int sorted[kExpertsPerToken][kChunkRows];
  cub::BlockScan<int, kThreads>::TempStorage scan;
};

/// From totals to sorted rows, sources and weights of a chunk. The first chunk's block writes what belongs to experts.
/// `rank`: of the thread's choice in its chunk.
__device__ void place_choices(const Params& p, int chunk, int rank, Bases& bases) {
  const RoutingView& routing = p.routing;
  const auto expert = static_cast<int>(threadIdx.x);
  const bool is_expert = expert < routing.experts;
  const int first = is_expert ? bases.total[0][expert] : 0, second = is_expert ? bases.total[1][expert] : 0;
  const int kept = min(first + second, p.capacity);
  int offset, all_kept;
  cub::BlockScan<int, kThreads>(bases.scan).ExclusiveSum(kept, offset, all_kept);
  if (is_expert) bases.offset[expert] = offset;
  if (chunk == 0) {
    if (is_expert) {
      routing.offsets[expert] = offset;
      routing.first_counts[expert] = first;
    }
    if (expert == 0) routing.offsets[routing.experts] = all_kept;
    if (p.statistics != nullptr) {
      const int64_t experts = routing.experts;
      if (is_expert) {
        p.statistics[RoutingStatistics::first_choices(expert)] += first;
        p.statistics[RoutingStatistics::second_choices(experts, expert)] += second;
        p.statistics[RoutingStatistics::kept(experts, expert)] += kept;
      }
      // Numbers of choices are exact as float64, in any order.
      const int first_kept = min(first, p.capacity);
      const double dropped_first = block_sum<kThreads>(first - first_kept);
      const double dropped_second = block_sum<kThreads>(second - (kept - first_kept));
      if (expert == 0) {
        p.statistics[RoutingStatistics::dropped_first(experts)] += dropped_first;
        p.statistics[RoutingStatistics::dropped_second(experts)] += dropped_second;
      }
    }
  }
  __syncthreads();
  const int row = choice_row(), j = choice_number(), token = chunk * kChunkRows + row;
  const bool exists = token < routing.rows;
  int sorted = -1;
  if (exists) {
    const int chosen = routing.choices[token * routing.choices_stride + j];
    const int slot = rank + bases.before[j][chosen] + (j == 1 ? bases.total[0][chosen] : 0);
    if (slot < p.capacity) {
      sorted = bases.offset[chosen] + slot;
      routing.sources[sorted] = kExpertsPerToken * token + j;
    }
    routing.sorted_row[token * routing.sorted_row_stride + j] = sorted;
  }
  bases.sorted[j][row] = sorted;
  __syncthreads();
  const bool first_kept = bases.sorted[0][row] >= 0, second_kept = bases.sorted[1][row] >= 0;
  if (exists && j == 0) {
    float weights[kExpertsPerToken] = {first_kept ? 1.0f : 0.0f, second_kept ? 1.0f : 0.0f};
    if (first_kept && second_kept) {
      const float* const logits = routing.logits + token * routing.logits_stride;
      const int32_t* const chosen = routing.choices + token * routing.choices_stride;
      weights[0] = 1 / (1 + expf(logits[chosen[1]] - logits[chosen[0]]));
      weights[1] = 1 - weights[0];
    }
    routing.weights[token * routing.weights_stride] = weights[0];
    routing.weights[token * routing.weights_stride + 1] = weights[1];
  }
  if (p.statistics == nullptr) return;
  const int dropped = __syncthreads_count(exists && j == 0 && !first_kept && !second_kept);
  if (threadIdx.x == 0) p.dropped_both[chunk] = dropped;
}

/// The sum of a chunk's counts over warps.
__device__ int count_of_chunk(const Chunk& shared, int j, int expert) {
  constexpr int kWarpsOfKind = kWarps / kExpertsPerToken;
  int count = 0;
#pragma unroll
  for (int w = 0; w < kWarpsOfKind; ++w) count += shared.counts[j * kWarpsOfKind + w][expert];
  return count;
}

// Two experts for each token, ranks within the chunk (left in sorted_row) and the chunk's counts; with kAlone, for at
// most kChunkRows tokens, everything that place_routed_tokens does too.
//
// mapping   one block per chunk of 128 tokens; one warp per token chooses, then one thread per choice is ranked, with
//           the lanes of its warp that have the same expert and the counts of the warps before
// bytes     rows * experts * 4, twice from the L1 or L2; 4 numbers of 4 bytes per token written
template <bool kStatistics, bool kAlone>
__global__ void __launch_bounds__(kThreads) choose_experts_of_chunks(const Params p) {
  __shared__ Chunk shared;
  const RoutingView& routing = p.routing;
  const auto chunk = static_cast<int>(blockIdx.x);
  choose_experts(routing, chunk, shared);
  __syncthreads();
  if (kStatistics) sum_gates(p, chunk, shared);
  const int rank = rank_in_chunk(routing, chunk, shared);
  if constexpr (kAlone) {
    __shared__ Bases bases;
    for (int place = static_cast<int>(threadIdx.x); place < kExpertsPerToken * routing.experts; place += kThreads) {
      const int j = place / routing.experts, expert = place % routing.experts;
      bases.before[j][expert] = 0;
      bases.total[j][expert] = count_of_chunk(shared, j, expert);
    }
    __syncthreads();
    place_choices(p, chunk, rank, bases);
  } else {
    const int token = chunk * kChunkRows + choice_row();
    if (token < routing.rows) routing.sorted_row[token * routing.sorted_row_stride + choice_number()] = rank;
    int32_t* const counts = p.counts + int64_t{chunk} * kExpertsPerToken * routing.experts;
    for (int place = static_cast<int>(threadIdx.x); place < kExpertsPerToken * routing.experts; place += kThreads)
      counts[place] = count_of_chunk(shared, place / routing.experts, place % routing.experts);
  }
}

// Ranks within chunks become sorted rows; weights and counts of experts.
//
// mapping   one block per chunk; one thread per expert and kind adds up the counts of all chunks, then one thread per
//           choice
// bytes     chunks * chunks * 2 * experts * 4 of counts, from the L2; per token 4 numbers read and 6 written
__global__ void __launch_bounds__(kThreads) place_routed_tokens(const Params p) {
  __shared__ Bases bases;
  const RoutingView& routing = p.routing;
  const auto chunk = static_cast<int>(blockIdx.x);
  const int columns = kExpertsPerToken * routing.experts;
  for (int place = static_cast<int>(threadIdx.x); place < columns; place += kThreads) {
    int before = 0, total = 0;
#pragma unroll 8
    for (int other = 0; other < p.chunks; ++other) {
      const int count = p.counts[int64_t{other} * columns + place];
      before += other < chunk ? count : 0;
      total += count;
    }
    bases.before[place / routing.experts][place % routing.experts] = before;
    bases.total[place / routing.experts][place % routing.experts] = total;
  }
  __syncthreads();
  const int token = chunk * kChunkRows + choice_row();
  const int rank = token < routing.rows ? routing.sorted_row[token * routing.sorted_row_stride + choice_number()] : 0;
  place_choices(p, chunk, rank, bases);
}

// Adds the sums of the chunks to the statistics: gates to the balance loss, entropies, tokens without an expert.
//
// mapping   one block; one thread per expert adds up its chunks in order, then a fixed tree
// bytes     chunks * (experts + 1) * 8
__global__ void __launch_bounds__(kThreads) add_gate_statistics(const Params p) {
  const RoutingView& routing = p.routing;
  const int64_t experts = routing.experts;
  const auto thread = static_cast<int>(threadIdx.x);
  double balance = 0, entropy = 0, dropped = 0;
  if (thread < experts) {
    double gate_sum = 0;
#pragma unroll 8
    for (int chunk = 0; chunk < p.chunks; ++chunk) gate_sum += p.gate_sums[chunk * (experts + 1) + thread];
    balance = gate_sum * routing.first_counts[thread];
  }
  for (int chunk = thread; chunk < p.chunks; chunk += kThreads) {
    entropy += p.gate_sums[chunk * (experts + 1) + experts];
    dropped += p.dropped_both[chunk];
  }
  balance = block_sum<kThreads>(balance);
  entropy = block_sum<kThreads>(entropy);
  dropped = block_sum<kThreads>(dropped);
  if (thread != 0) return;
  // experts * Σ (gate_sum / rows) * (count / rows), times the rows.
  p.statistics[RoutingStatistics::balance(experts)] += balance * static_cast<double>(experts) / routing.rows;
  p.statistics[RoutingStatistics::entropy(experts)] += entropy;
  p.statistics[RoutingStatistics::dropped_both(experts)] += dropped;
}

int64_t count_bytes(const ExpertRouting& routing) {
  return round_up(ceil_divide(routing.rows(), kRouteChunkRows) * kExpertsPerToken * routing.experts() * 4, 256);
}
int64_t gate_sum_bytes(const ExpertRouting& routing) {
  return round_up(ceil_divide(routing.rows(), kRouteChunkRows) * (routing.experts() + 1) * 8, 256);
}

}  // namespace

int64_t scratch_bytes(const Context&, const RouteTokens& arguments) {
  const ExpertRouting& routing = arguments.routing;
  return count_bytes(routing) + gate_sum_bytes(routing) + ceil_divide(routing.rows(), kRouteChunkRows) * 4;
}

void route_tokens(Context& context, const RouteTokens& arguments) {
  const ExpertRouting& routing = arguments.routing;
  CBTM_ASSERT(routing.experts() >= kExpertsPerToken && routing.experts() <= kMaxExperts,
              "a token has two experts to choose from");
  CBTM_ASSERT(arguments.input.rows == routing.rows() && arguments.router.rows == routing.experts() &&
                  arguments.router.columns == arguments.input.columns,
              "shapes of a router agree");
  CBTM_ASSERT(routing.rows() > 0 && routing.rows() < int64_t{1} << 30, "choices are counted in 32 bits");
  router_logits(context, arguments);
  auto* const memory = static_cast<char*>(context.workspace(scratch_bytes(context, arguments)));
  const int64_t rows = routing.rows(), chunks = ceil_divide(rows, kRouteChunkRows);
  char* const gate_sums = memory + count_bytes(routing);
  const bool counted = static_cast<bool>(arguments.statistics);
  const Params p{.routing = RoutingView(routing),
                 .capacity = static_cast<int>(arguments.capacity == 0 || arguments.capacity > kExpertsPerToken * rows
                                                  ? kExpertsPerToken * rows
                                                  : arguments.capacity),
                 .counts = reinterpret_cast<int32_t*>(memory),
                 .gate_sums = reinterpret_cast<double*>(gate_sums),
                 .dropped_both = reinterpret_cast<int32_t*>(gate_sums + gate_sum_bytes(routing)),
                 .statistics = counted ? arguments.statistics.as<double>() : nullptr,
                 .chunks = static_cast<int>(chunks)};
  const auto choose = chunks > 1
                          ? counted ? choose_experts_of_chunks<true, false> : choose_experts_of_chunks<false, false>
                      : counted ? choose_experts_of_chunks<true, true>
                                : choose_experts_of_chunks<false, true>;
  choose<<<static_cast<unsigned>(chunks), kThreads, 0, context.stream>>>(p);
  CBTM_CUDA_LAUNCHED("choose_experts_of_chunks");
  if (chunks > 1) {
    place_routed_tokens<<<static_cast<unsigned>(chunks), kThreads, 0, context.stream>>>(p);
    CBTM_CUDA_LAUNCHED("place_routed_tokens");
  }
  if (!counted) return;
  add_gate_statistics<<<1, kThreads, 0, context.stream>>>(p);
  CBTM_CUDA_LAUNCHED("add_gate_statistics");
}

}  // namespace cbtm::cuda
