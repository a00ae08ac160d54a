// Which points could change their cluster, and those that did.

#include <cub/block/block_reduce.cuh>

#include "dispatch.h"
#include "grid_selection.cuh"
#include "label_changes.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kThreads = kSelectionThreads;
constexpr int kLabelThreads = 256;

struct Margins {
  const float* __restrict__ values;
  int64_t count;
  uint32_t rank;  ///< of the largest margin that is taken, the largest of all being 0
  // Scratch memory.
  uint32_t* bins;          ///< of GridSelection
  uint32_t* block_counts;  ///< [gridDim.x]
};

// points = those whose margin is at most that of rank m.rank, ascending; *count = how many.
//
// mapping   a cooperative launch of at most one block for each multiprocessor, a range of points each. The margin is
//           selected, every block counts its points, and when all have, writes them behind those of the blocks before.
// bytes     n * 4 read five times (from the cache after the first), 4 written for each point taken
__global__ void __launch_bounds__(kThreads, 1)
    take_smallest_margins(Margins m, int32_t* __restrict__ points, int64_t* __restrict__ count) {
  __shared__ SelectionShared shared;
  GridSelection selection(shared, m.bins);
  const int64_t range = (m.count + gridDim.x - 1) / gridDim.x;
  const int64_t begin = min(blockIdx.x * range, m.count), end = min(begin + range, m.count);
  const auto key_at = [&](int64_t i) { return sortable(m.values[i] + 0.0f); };  // -0 is 0
  cooperative_groups::this_grid().sync();
  selection.start(m.rank);
  do {
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) selection.add(key_at(i));
  } while (!selection.narrow());
  const uint32_t largest = selection.key();
  uint32_t own = 0, before, total;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) own += key_at(i) <= largest ? 1u : 0u;
  __syncthreads();
  SelectionShared::Scan(shared.scan).ExclusiveSum(own, before, total);
  if (threadIdx.x == 0) m.block_counts[blockIdx.x] = total;
  cooperative_groups::this_grid().sync();
  own = 0;
  for (unsigned block = threadIdx.x; block < blockIdx.x; block += kThreads) own += __ldcg(&m.block_counts[block]);
  SelectionShared::Scan(shared.scan).ExclusiveSum(own, before, total);
  int64_t written = total;
  for (int64_t base = begin; base < end; base += kThreads) {
    const int64_t i = base + threadIdx.x;
    const bool taken = i < end && key_at(i) <= largest;
    __syncthreads();
    SelectionShared::Scan(shared.scan).ExclusiveSum(taken ? 1u : 0u, before, total);
    if (taken) points[written + before] = static_cast<int32_t>(i);
    written += total;
  }
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) *count = written;
}

// labels[points[i]] = values[i]. Bytes: 8 read and 4 written for each point.
__global__ void __launch_bounds__(kLabelThreads)
    put_labels_of_points(const int32_t* __restrict__ points, const int32_t* __restrict__ values, int64_t count,
                         int32_t* __restrict__ labels) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kLabelThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kLabelThreads + threadIdx.x; i < count; i += stride)
    labels[points[i]] = values[i];
}

// *changes += labels that differ: integers, so that the order does not matter. Bytes: n * 8.
__global__ void __launch_bounds__(kLabelThreads)
    count_different_labels(const int32_t* __restrict__ before, const int32_t* __restrict__ after, int64_t count,
                           unsigned long long* __restrict__ changes) {
  using Reduce = cub::BlockReduce<unsigned long long, kLabelThreads>;
  __shared__ Reduce::TempStorage reduce;
  unsigned long long own = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kLabelThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kLabelThreads + threadIdx.x; i < count; i += stride)
    own += before[i] != after[i] ? 1 : 0;
  own = Reduce(reduce).Sum(own);
  if (threadIdx.x == 0 && own != 0) atomicAdd(changes, own);
}

unsigned label_blocks(const Context& context, int64_t count) {
  return static_cast<unsigned>(
      std::min<int64_t>(ceil_divide(count, int64_t{4} * kLabelThreads), int64_t{4} * context.sm_count));
}

}  // namespace

void smallest_margins(Context& context, const SmallestMargins& arguments) {
  const int64_t n = arguments.margins.columns;
  CBTM_ASSERT(arguments.wanted >= 1 && arguments.wanted <= n && n < int64_t{1} << 31, "as many margins as are wanted");
  const unsigned blocks = selection_blocks(n, context.sm_count);
  auto* bins = static_cast<uint32_t*>(context.workspace(kSelectionBytes + int64_t{blocks} * 4));
  Margins margins{.values = arguments.margins.as<float>(),
                  .count = n,
                  .rank = static_cast<uint32_t>(n - arguments.wanted),
                  .bins = bins,
                  .block_counts = bins + kSelectionBytes / 4};
  auto* points = arguments.points.as<int32_t>();
  auto* count = arguments.count.as<int64_t>();
  void* parameters[] = {&margins, &points, &count};
  CBTM_CUDA(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(&take_smallest_margins), dim3(blocks),
                                        dim3(kThreads), parameters, 0, context.stream));
}

void put_labels(Context& context, const PutLabels& arguments) {
  const int64_t count = arguments.points.columns;
  CBTM_ASSERT(arguments.values.columns == count, "a label for each point");
  if (count == 0) return;
  put_labels_of_points<<<label_blocks(context, count), kLabelThreads, 0, context.stream>>>(
      arguments.points.as<int32_t>(), arguments.values.as<int32_t>(), count, arguments.labels.as<int32_t>());
  CBTM_CUDA_LAUNCHED("put_labels");
}

void count_changes(Context& context, ConstTensorView before, ConstTensorView after, TensorView count) {
  CBTM_ASSERT(before.columns == after.columns, "labels of the same points");
  auto* changes = reinterpret_cast<unsigned long long*>(count.as<int64_t>());
  CBTM_CUDA(cudaMemsetAsync(changes, 0, 8, context.stream));
  if (before.columns == 0) return;
  count_different_labels<<<label_blocks(context, before.columns), kLabelThreads, 0, context.stream>>>(
      before.as<int32_t>(), after.as<int32_t>(), before.columns, changes);
  CBTM_CUDA_LAUNCHED("count_changes");
}

}  // namespace cbtm::cuda
