// Balanced assignment by prices: the price of each cluster by selection, and the assignment at given prices.

#include <algorithm>

#include "balanced_prices.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBins = 2048;  ///< of a digit of 11 bits; the last digit has 10
/// Where digit 0, 1, 2 of a 32-bit key begins.
constexpr int digit_shift(int digit) { return digit == 0 ? 21 : digit == 1 ? 10 : 0; }

struct Costs {
  const float* __restrict__ data;
  int64_t stride;
  int64_t points;
  int clusters;
};
Costs costs_of(ConstTensorView costs) {
  return {costs.as<float>(), costs.row_stride, costs.rows, static_cast<int>(costs.columns)};
}

/// Unsigned numbers in the order of the floats they come from.
__device__ uint32_t sortable(float value) {
  const uint32_t bits = __float_as_uint(value);
  return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
}
__device__ float from_sortable(uint32_t key) {
  return __uint_as_float(key ^ (key >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}

template <int kShift>
__device__ int digit_of(uint32_t key) {
  return static_cast<int>(key >> kShift) & (kShift == 0 ? 1023 : 2047);
}

/// The bin that holds the element of `rank`, the largest first, of `bins` (2048, 8 a thread); `rank` becomes its rank
/// within the bin. All threads of a block call it and get the same. `staged` (kBins, 16-byte aligned) is where the
/// block brings the bins, neighbouring threads neighbouring ones; it is free again when the call returns.
__device__ int select_bin(const uint32_t* __restrict__ bins, int64_t& rank, uint32_t* staged) {
  __shared__ int64_t warp_sums[kThreads / 32];
  __shared__ int chosen;
  __shared__ int64_t rank_inside;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) staged[bin] = bins[bin];
  __syncthreads();
  // Thread t holds bins 2047 - 8 t, 2046 - 8 t, ...
  const uint4* vectors = reinterpret_cast<const uint4*>(staged + kBins - 8 * (threadIdx.x + 1));
  const uint4 low = vectors[0], high = vectors[1];
  const uint32_t counts[8] = {high.w, high.z, high.y, high.x, low.w, low.z, low.y, low.x};
  int64_t own = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) own += counts[i];
  int64_t before = own;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int64_t other = __shfl_up_sync(~0u, before, offset);
    if (lane >= offset) before += other;
  }
  if (lane == 31) warp_sums[warp] = before;
  __syncthreads();
  before -= own;
  for (int i = 0; i < warp; ++i) before += warp_sums[i];
  if (rank >= before && rank < before + own) {
    int64_t rest = rank - before;
    int i = 0;
    while (rest >= counts[i]) rest -= counts[i++];
    chosen = kBins - 1 - (static_cast<int>(threadIdx.x) * 8 + i);
    rank_inside = rest;
  }
  __syncthreads();
  rank = rank_inside;
  return chosen;
}

/// Adds the block's counts to those of all blocks: integers, so that the order does not matter.
__device__ void add_bins(const uint32_t* shared_bins, uint32_t* __restrict__ bins) {
  __syncthreads();
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads)
    if (shared_bins[bin] != 0) atomicAdd(&bins[bin], shared_bins[bin]);
}
__device__ void clear_bins(uint32_t* shared_bins) {
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) shared_bins[bin] = 0;
  __syncthreads();
}

// keys[i] = the advantage of cluster j for point i, min over b != j of (cost[i][b] + price[b]) - cost[i][j], as a
// sortable number; bins = how many keys have each first digit.
//
// mapping   kGroup lanes a point, clusters across them.
// bytes     n * k * 4 read, n * 4 written.
// numerics  float64 up to the advantage, which is rounded to float32.
template <int kGroup>
__global__ void __launch_bounds__(kThreads) find_advantages(Costs costs, const double* __restrict__ prices, int j,
                                                            uint32_t* __restrict__ keys, uint32_t* __restrict__ bins) {
  __shared__ uint32_t shared_bins[kBins];
  clear_bins(shared_bins);
  constexpr int kPointsPerBlock = kThreads / kGroup;
  const int member = threadIdx.x % kGroup;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kPointsPerBlock;
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * kPointsPerBlock; base < costs.points; base += stride) {
    const int64_t point = base + threadIdx.x / kGroup;
    const bool inside = point < costs.points;
    double other = INFINITY;
    float own = 0;
    if (inside)
      for (int b = member; b < costs.clusters; b += kGroup) {
        const float cost = costs.data[point * costs.stride + b];
        if (b == j)
          own = cost;
        else
          other = fmin(other, static_cast<double>(cost) + prices[b]);
      }
    for (int offset = kGroup / 2; offset > 0; offset /= 2) {
      other = fmin(other, __shfl_xor_sync(~0u, other, offset));
      own += __shfl_xor_sync(~0u, own, offset);  // only one of the lanes holds something
    }
    if (!inside || member != 0) continue;
    const uint32_t key = sortable(static_cast<float>(other - static_cast<double>(own)));
    keys[point] = key;
    atomicAdd(&shared_bins[digit_of<digit_shift(0)>(key)], 1u);
  }
  add_bins(shared_bins, bins);
}

// Counts the next digit of the keys whose earlier digits are those of the key of `rank`. n * 4 bytes read.
template <int kDigit>
__global__ void __launch_bounds__(kThreads)
    count_digit(const uint32_t* __restrict__ keys, int64_t count, int64_t rank, uint32_t* __restrict__ bins) {
  __shared__ __align__(16) uint32_t shared_bins[kBins];
  uint32_t prefix = 0;
#pragma unroll
  for (int digit = 0; digit < kDigit; ++digit)
    prefix = prefix << 11 | static_cast<uint32_t>(select_bin(bins + digit * kBins, rank, shared_bins));
  clear_bins(shared_bins);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += stride)
    if (keys[i] >> digit_shift(kDigit - 1) == prefix)
      atomicAdd(&shared_bins[digit_of<digit_shift(kDigit)>(keys[i])], 1u);
  add_bins(shared_bins, bins + kDigit * kBins);
}

// prices[j] = the key of `rank`. One block.
__global__ void __launch_bounds__(kThreads, 1)
    set_price(const uint32_t* __restrict__ bins, int64_t rank, double* __restrict__ prices, int j) {
  __shared__ __align__(16) uint32_t staged[kBins];
  uint32_t key = static_cast<uint32_t>(select_bin(bins, rank, staged));
  key = key << 11 | static_cast<uint32_t>(select_bin(bins + kBins, rank, staged));
  key = key << 10 | static_cast<uint32_t>(select_bin(bins + 2 * kBins, rank, staged));
  if (threadIdx.x == 0) prices[j] = static_cast<double>(from_sortable(key));
}

struct AssignmentOutput {
  int32_t* __restrict__ labels;
  float* __restrict__ margins;
  unsigned long long* __restrict__ counts;
  double* __restrict__ block_sums;
};

/// Σ over the block's threads in a fixed order; the result is thread 0's.
__device__ double block_sum(double value) {
  __shared__ double warp_sums[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (int i = 0; i < kThreads / 32; ++i) sum += warp_sums[i];
  return sum;
}

constexpr int kSharedCounts = 4096;

// Best and second best cluster of each point at these prices; counts of clusters; each block's share of Σ best.
//
// mapping   kGroup lanes a point as in find_advantages; counts of up to 4096 clusters gathered in shared memory.
// bytes     n * (4 k + 8).
template <int kGroup>
__global__ void __launch_bounds__(kThreads)
    assign_at_prices_groups(Costs costs, const double* __restrict__ prices, AssignmentOutput out) {
  __shared__ unsigned shared_counts[kSharedCounts];
  const bool few = costs.clusters <= kSharedCounts;
  if (few)
    for (int j = threadIdx.x; j < costs.clusters; j += kThreads) shared_counts[j] = 0;
  __syncthreads();
  constexpr int kPointsPerBlock = kThreads / kGroup;
  const int member = threadIdx.x % kGroup;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kPointsPerBlock;
  double sum = 0;
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * kPointsPerBlock; base < costs.points; base += stride) {
    const int64_t point = base + threadIdx.x / kGroup;
    const bool inside = point < costs.points;
    double best = INFINITY, second = INFINITY;
    int label = 0x7fffffff;
    if (inside)
      for (int j = member; j < costs.clusters; j += kGroup) {
        const double cost = static_cast<double>(costs.data[point * costs.stride + j]) + prices[j];
        if (cost < best) {
          second = best;
          best = cost;
          label = j;
        } else {
          second = fmin(second, cost);
        }
      }
    for (int offset = kGroup / 2; offset > 0; offset /= 2) {
      const double other_best = __shfl_xor_sync(~0u, best, offset);
      const double other_second = __shfl_xor_sync(~0u, second, offset);
      const int other_label = __shfl_xor_sync(~0u, label, offset);
      second = fmin(fmax(best, other_best), fmin(second, other_second));
      if (other_best < best || (other_best == best && other_label < label)) {
        best = other_best;
        label = other_label;
      }
    }
    if (!inside || member != 0) continue;
    if (label == 0x7fffffff) label = 0;  // no cost is less than infinity
    out.labels[point] = label;
    out.margins[point] = static_cast<float>(second - best);
    sum += best;
    if (few)
      atomicAdd(&shared_counts[label], 1u);
    else
      atomicAdd(&out.counts[label], 1ull);
  }
  sum = block_sum(sum);  // a barrier: the counts are complete
  if (threadIdx.x == 0) out.block_sums[blockIdx.x] = sum;
  if (few)
    for (int j = threadIdx.x; j < costs.clusters; j += kThreads)
      if (shared_counts[j] != 0) atomicAdd(&out.counts[j], static_cast<unsigned long long>(shared_counts[j]));
}

__global__ void __launch_bounds__(kThreads)
    sum_blocks(const double* __restrict__ block_sums, int blocks, double* total) {
  double sum = 0;
  for (int i = threadIdx.x; i < blocks; i += kThreads) sum += block_sums[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *total = sum;
}

/// Calls body(integral constant) with the lanes that share a point: a power of two that holds the clusters, at most 32.
template <typename Body>
void dispatch_group(int64_t clusters, const Body& body) {
  if (clusters <= 2) return body(std::integral_constant<int, 2>());
  if (clusters <= 4) return body(std::integral_constant<int, 4>());
  if (clusters <= 8) return body(std::integral_constant<int, 8>());
  if (clusters <= 16) return body(std::integral_constant<int, 16>());
  return body(std::integral_constant<int, 32>());
}

unsigned blocks_for(const Context& context, int64_t points, int group) {
  const int64_t per_block = kThreads / group;
  return static_cast<unsigned>(std::min<int64_t>((points + per_block - 1) / per_block, int64_t{8} * context.sm_count));
}

}  // namespace

void price_sweep(Context& context, const PriceSweep& arguments) {
  const Costs costs = costs_of(arguments.costs);
  if (costs.clusters <= 1 || costs.points == 0) return;
  CBTM_ASSERT(costs.points < int64_t{1} << 32 && arguments.ranks.size() == static_cast<size_t>(costs.clusters),
              "counts are 32-bit; a rank a cluster");
  constexpr int64_t kBinBytes = int64_t{3} * kBins * 4;
  auto* bins = static_cast<uint32_t*>(context.workspace(kBinBytes + costs.points * 4));
  uint32_t* keys = bins + 3 * kBins;
  double* prices = arguments.prices.as<double>();
  const unsigned blocks = blocks_for(context, costs.points, 1);
  for (int j = 0; j < costs.clusters; ++j) {
    const int64_t rank = arguments.ranks[static_cast<size_t>(j)];
    CBTM_CUDA(cudaMemsetAsync(bins, 0, kBinBytes, context.stream));
    dispatch_group(costs.clusters, [&](auto group) {
      find_advantages<group()>
          <<<blocks_for(context, costs.points, group()), kThreads, 0, context.stream>>>(costs, prices, j, keys, bins);
    });
    CBTM_CUDA_LAUNCHED("find_advantages");
    count_digit<1><<<blocks, kThreads, 0, context.stream>>>(keys, costs.points, rank, bins);
    CBTM_CUDA_LAUNCHED("count_digit");
    count_digit<2><<<blocks, kThreads, 0, context.stream>>>(keys, costs.points, rank, bins);
    CBTM_CUDA_LAUNCHED("count_digit");
    set_price<<<1, kThreads, 0, context.stream>>>(bins, rank, prices, j);
    CBTM_CUDA_LAUNCHED("set_price");
  }
}

void assign_at_prices(Context& context, const AssignAtPrices& arguments) {
  const Costs costs = costs_of(arguments.costs);
  CBTM_ASSERT(costs.clusters > 0, "there is a cluster to be assigned to");
  int blocks = 0;
  dispatch_group(costs.clusters, [&](auto group) {
    blocks = static_cast<int>(std::max(1u, blocks_for(context, costs.points, group())));
  });
  auto* block_sums = static_cast<double*>(context.workspace(static_cast<int64_t>(blocks) * 8));
  const AssignmentOutput out{arguments.labels.as<int32_t>(), arguments.margins.as<float>(),
                             reinterpret_cast<unsigned long long*>(arguments.counts.as<int64_t>()), block_sums};
  CBTM_CUDA(cudaMemsetAsync(out.counts, 0, static_cast<size_t>(costs.clusters) * 8, context.stream));
  dispatch_group(costs.clusters, [&](auto group) {
    assign_at_prices_groups<group()>
        <<<static_cast<unsigned>(blocks), kThreads, 0, context.stream>>>(costs, arguments.prices.as<double>(), out);
  });
  CBTM_CUDA_LAUNCHED("assign_at_prices");
  sum_blocks<<<1, kThreads, 0, context.stream>>>(block_sums, blocks, arguments.dual_sum.as<double>());
  CBTM_CUDA_LAUNCHED("sum_blocks");
}

}  // namespace cbtm::cuda
