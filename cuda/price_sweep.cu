// A sweep of prices: one cooperative launch, in which the price of each cluster is selected and used on the device.

#include <algorithm>
#include <vector>

#include "balanced_prices.h"
#include "cbtm/device/two_least.h"
#include "grid_selection.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kThreads = kSelectionThreads;
constexpr int kWarps = kThreads / 32;
constexpr int kColumns = 8;  ///< of costs that are read at once: a sector of a row
constexpr int kPitch = 36;   ///< of a tile in shared memory, so that 8 columns of 4 rows lie in different banks

struct Sweep {
  const float* __restrict__ costs;
  int64_t stride;
  int64_t points;
  int clusters;
  const int32_t* __restrict__ ranks;
  double* prices;
  // Scratch memory.
  uint32_t* bins;          ///< of GridSelection
  double *least, *second;  ///< [points], TwoLeast of each point
  float* columns;          ///< [kColumns, points]: the clusters' columns now in use
  uint32_t* keys;          ///< [points]
  int32_t* cluster;        ///< [points], of TwoLeast
  static constexpr int64_t kBytes = 8 + 8 + kColumns * 4 + 4 + 4;  ///< for each point

  __device__ TwoLeast load(int64_t point) const { return {least[point], second[point], cluster[point]}; }
  __device__ void store(int64_t point, const TwoLeast& two) const {
    least[point] = two.least;
    second[point] = two.second;
    cluster[point] = two.cluster;
  }
};

/// Costs of the lane's point, first_point + lane, for kColumns clusters from `first` on; zeros where there is none. All
/// lanes of a warp call it; `tile` is the warp's.
__device__ void load_columns(const Sweep& s, int64_t first_point, int first, float (*tile)[kPitch],
                             float (&own)[kColumns]) {
  const int lane = threadIdx.x % 32;
  const int column = lane % kColumns;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    const int row = lane / kColumns + i * (32 / kColumns);
    const bool inside = first_point + row < s.points && first + column < s.clusters;
    tile[column][row] = inside ? s.costs[(first_point + row) * s.stride + first + column] : 0.0f;
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kColumns; ++i) own[i] = tile[i][lane];
}

__device__ TwoLeast shuffled(const TwoLeast& two, int from) {
  return {__shfl_sync(~0u, two.least, from), __shfl_sync(~0u, two.second, from), __shfl_sync(~0u, two.cluster, from)};
}

/// Finds `own` anew for the lanes where `known` is false, kGroup lanes working for one of them at a time. The price of
/// `changed` is `price`, which may not be in memory yet. All lanes of a warp call it.
template <int kGroup>
__device__ void find_anew(const Sweep& s, int64_t first_point, bool known, int changed, double price, TwoLeast& own) {
  constexpr int kGroups = 32 / kGroup;
  const int lane = threadIdx.x % 32;
  for (unsigned todo = __ballot_sync(~0u, !known); todo != 0;) {
    int mine = -1, helper = 0;  // the lane that this one works for; a lane that works for this one
    bool served = false;
    for (int group = 0; group < kGroups && todo != 0; ++group) {
      const int next = __ffs(static_cast<int>(todo)) - 1;
      todo &= todo - 1;
      if (group == lane / kGroup) mine = next;
      if (lane == next) {
        served = true;
        helper = group * kGroup;
      }
    }
    TwoLeast found = TwoLeast::none();
    if (mine >= 0)
      for (int b = lane % kGroup; b < s.clusters; b += kGroup)
        found.add(
            static_cast<double>(s.costs[(first_point + mine) * s.stride + b]) + (b == changed ? price : s.prices[b]),
            b);
    for (int offset = kGroup / 2; offset > 0; offset /= 2) {
      const TwoLeast other = shuffled(found, lane ^ offset);
      found.second = fmin(fmax(found.least, other.least), fmin(found.second, other.second));
      if (other.least < found.least || (other.least == found.least && other.cluster < found.cluster)) {
        found.least = other.least;
        found.cluster = other.cluster;
      }
    }
    const TwoLeast handed = shuffled(found, helper);
    if (served) own = handed;
  }
}

// For j = 0, 1, ...: prices[j] = the advantage of rank ranks[j] (0 is the largest), where the advantage of a point is
// min over b != j of (cost[b] + price[b]) - cost[j].
//
// mapping   a cooperative launch of at most one block for each multiprocessor; a warp 32 points, then the next 32 that
//           are its own, so that what is kept of a point stays with one thread. The two least costs at the current
//           prices are kept for each point (cbtm/device/two_least.h); about 2 / clusters of the points look through all
//           clusters again when a price has changed, kGroup lanes together.
// bytes     n * k * 4 twice (the two least; 8 columns at a time as they come in use), and for each cluster n * (20 of
// the
//           two least + 4 of the column + 4 written and 8 read of the keys) and 16 of what is found anew.
// order     of the passes of a selection: a barrier of the grid each, 3 for each cluster (rarely 4).
// numerics  float64 up to the advantage, which is rounded to float32.
template <int kGroup>
__global__ void __launch_bounds__(kThreads, 1) sweep_prices(Sweep s) {
  __shared__ SelectionShared shared;
  __shared__ float tiles[kWarps][kColumns][kPitch];
  GridSelection selection(shared, s.bins);
  const int lane = threadIdx.x % 32;
  auto* tile = tiles[threadIdx.x / 32];
  const int64_t first_of_warp = (static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32) * 32;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;

  for (int64_t first_point = first_of_warp; first_point < s.points; first_point += step) {
    TwoLeast own = TwoLeast::none();
    for (int first = 0; first < s.clusters; first += kColumns) {
      float costs[kColumns];
      load_columns(s, first_point, first, tile, costs);
#pragma unroll
      for (int c = 0; c < kColumns; ++c)
        if (first + c < s.clusters) own.add(static_cast<double>(costs[c]) + s.prices[first + c], first + c);
    }
    if (first_point + lane < s.points) s.store(first_point + lane, own);
  }
  cooperative_groups::this_grid().sync();  // prices are written from here on, and the first bins are clear

  double before = 0, price = 0;  // of the cluster before j
  for (int j = 0; j < s.clusters; ++j) {
    const double price_of_j = s.prices[j];
    selection.start(static_cast<uint32_t>(s.ranks[j]));
    for (int64_t first_point = first_of_warp; first_point < s.points; first_point += step) {
      const int64_t point = first_point + lane;
      const bool inside = point < s.points;
      TwoLeast own = inside ? s.load(point) : TwoLeast::none();
      if (j > 0) {
        const TwoLeast loaded = own;
        const double cost = inside ? static_cast<double>(s.columns[(j - 1) % kColumns * s.points + point]) : 0;
        const bool known = !inside || own.change_price(j - 1, cost, before, price);
        find_anew<kGroup>(s, first_point, known, j - 1, price, own);
        if (inside && (own.least != loaded.least || own.second != loaded.second || own.cluster != loaded.cluster))
          s.store(point, own);
      }
      if (j % kColumns == 0) {
        float costs[kColumns];
        load_columns(s, first_point, j, tile, costs);
        if (inside)
#pragma unroll
          for (int c = 0; c < kColumns; ++c) s.columns[c * s.points + point] = costs[c];
      }
      if (!inside) continue;
      const double cost = static_cast<double>(s.columns[j % kColumns * s.points + point]);
      const uint32_t key = sortable(static_cast<float>(own.least_but(j) - cost));
      s.keys[point] = key;
      selection.add(key);
    }
    while (!selection.narrow())
      for (int64_t first_point = first_of_warp; first_point < s.points; first_point += step)
        if (first_point + lane < s.points) selection.add(s.keys[first_point + lane]);
    before = price_of_j;
    price = static_cast<double>(from_sortable(selection.key()));
    if (blockIdx.x == 0 && threadIdx.x == 0) s.prices[j] = price;  // read by others after the next barrier of the grid
  }
}

template <int kGroup>
void launch_sweep(Context& context, const Sweep& sweep) {
  Sweep copy = sweep;
  void* arguments[] = {&copy};
  CBTM_CUDA(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(&sweep_prices<kGroup>),
                                        dim3(selection_blocks(sweep.points, context.sm_count)), dim3(kThreads),
                                        arguments, 0, context.stream));
}

}  // namespace

void price_sweep(Context& context, const PriceSweep& arguments) {
  const ConstTensorView costs = arguments.costs;
  const int64_t points = costs.rows, clusters = costs.columns;
  if (clusters <= 1 || points == 0) return;
  CBTM_ASSERT(points < int64_t{1} << 31 && arguments.ranks.size() == static_cast<size_t>(clusters),
              "numbers of points are int32; a rank for each cluster");
  const std::vector<int32_t> ranks(arguments.ranks.begin(), arguments.ranks.end());
  Sweep sweep{.costs = costs.as<float>(),
              .stride = costs.row_stride,
              .points = points,
              .clusters = static_cast<int>(clusters),
              .ranks = context.upload(ranks),
              .prices = arguments.prices.as<double>()};
  char* place = static_cast<char*>(context.workspace(kSelectionBytes + points * Sweep::kBytes));
  const auto take = [&](auto*& array, int64_t count) {
    array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(place);
    place += count * static_cast<int64_t>(sizeof(*array));
  };
  take(sweep.bins, kSelectionBytes / 4);
  take(sweep.least, points);
  take(sweep.second, points);
  take(sweep.columns, kColumns * points);
  take(sweep.keys, points);
  take(sweep.cluster, points);
  if (clusters <= 8) return launch_sweep<8>(context, sweep);
  if (clusters <= 16) return launch_sweep<16>(context, sweep);
  launch_sweep<32>(context, sweep);
}

}  // namespace cbtm::cuda
