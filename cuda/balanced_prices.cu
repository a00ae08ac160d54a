// The assignment of points to clusters at given prices.

#include <algorithm>

#include "balanced_prices.h"
#include "block_sum.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kThreads = 256;
struct Costs {
  const float* __restrict__ data;
  int64_t stride;
  int64_t points;
  int clusters;
};
Costs costs_of(ConstTensorView costs) {
  return {costs.as<float>(), costs.row_stride, costs.rows, static_cast<int>(costs.columns)};
}

struct AssignmentOutput {
  int32_t* __restrict__ labels;  ///< or null
  float* __restrict__ margins;   ///< or null
  unsigned long long* __restrict__ counts;
  double* __restrict__ block_sums;
};

constexpr int kSharedCounts = 4096;

// Best and second best cluster of each point at these prices; counts of clusters; each block's share of Σ best.
//
// mapping   kGroup lanes a point, clusters across them; counts of up to 4096 clusters gathered in shared memory.
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
    if (out.labels != nullptr) out.labels[point] = label;
    if (out.margins != nullptr) out.margins[point] = static_cast<float>(second - best);
    sum += best;
    if (few)
      atomicAdd(&shared_counts[label], 1u);
    else
      atomicAdd(&out.counts[label], 1ull);
  }
  sum = block_sum<kThreads>(sum);  // a barrier: the counts are complete
  if (threadIdx.x == 0) out.block_sums[blockIdx.x] = sum;
  if (few)
    for (int j = threadIdx.x; j < costs.clusters; j += kThreads)
      if (shared_counts[j] != 0) atomicAdd(&out.counts[j], static_cast<unsigned long long>(shared_counts[j]));
}

__global__ void __launch_bounds__(kThreads)
    sum_blocks(const double* __restrict__ block_sums, int blocks, double* total) {
  double sum = 0;
  for (int i = threadIdx.x; i < blocks; i += kThreads) sum += block_sums[i];
  sum = block_sum<kThreads>(sum);
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

void assign_at_prices(Context& context, const AssignAtPrices& arguments) {
  const Costs costs = costs_of(arguments.costs);
  CBTM_ASSERT(costs.clusters > 0, "there is a cluster to be assigned to");
  int blocks = 0;
  dispatch_group(costs.clusters, [&](auto group) {
    blocks = static_cast<int>(std::max(1u, blocks_for(context, costs.points, group())));
  });
  auto* block_sums = static_cast<double*>(context.workspace(static_cast<int64_t>(blocks) * 8));
  const AssignmentOutput out{arguments.labels ? arguments.labels.as<int32_t>() : nullptr,
                             arguments.margins ? arguments.margins.as<float>() : nullptr,
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
