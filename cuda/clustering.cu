// Points and centres: squared distances, nearest and second nearest centre, sums and means of clusters.

#include <cub/block/block_reduce.cuh>
#include <cub/device/device_radix_sort.cuh>

#include "clustering.h"
#include "dispatch.h"
#include "runtime/check.h"
#include "segments.h"

namespace cbtm::cuda {
namespace {

constexpr int kTile = 64;            ///< points and centres of a block's tile
constexpr int kChunk = 32;           ///< dimensions in shared memory
constexpr int kPadded = kChunk + 4;  ///< so that 8 lanes reading a vector of 8 rows touch all banks
constexpr int kThreads = 128;
constexpr int kPoints = 8, kCentres = 4;  ///< of the tile in a thread: points 8 y .. 8 y + 7, centres x, x + 16, ...

struct Matrix {
  const float* __restrict__ data;
  int64_t stride;
  int64_t rows;
};
Matrix matrix_of(ConstTensorView view) { return {view.as<float>(), view.row_stride, view.rows}; }

/// tile[r][c] = matrix[first_row + r][first + c], zeros beyond its edges.
template <bool kVectors>
__device__ void load_tile(const Matrix& matrix, int64_t first_row, int first, int dimensions, float (*tile)[kPadded]) {
#pragma unroll
  for (int i = 0; i < kTile * kChunk / 4 / kThreads; ++i) {
    const int place = threadIdx.x + i * kThreads;
    const int r = place / (kChunk / 4), c = place % (kChunk / 4) * 4;
    float4 vector = {0, 0, 0, 0};
    if (first_row + r < matrix.rows) {
      const float* from = matrix.data + (first_row + r) * matrix.stride + first + c;
      if (kVectors) {
        if (first + c < dimensions) vector = *reinterpret_cast<const float4*>(from);
      } else {
        if (first + c < dimensions) vector.x = from[0];
        if (first + c + 1 < dimensions) vector.y = from[1];
        if (first + c + 2 < dimensions) vector.z = from[2];
        if (first + c + 3 < dimensions) vector.w = from[3];
      }
    }
    *reinterpret_cast<float4*>(&tile[r][c]) = vector;
  }
}

struct SharedTiles {
  float4 points[kTile * kPadded / 4];
  float4 centres[kTile * kPadded / 4];
};

__device__ void add_square(float& sum, float difference) { sum = fmaf(difference, difference, sum); }

/// distances[i][j] of the thread's points and centres of one tile, float32 differences summed over the dimensions in
/// order.
template <bool kVectors>
__device__ void tile_distances(const Matrix& points, const Matrix& centres, int64_t first_point, int64_t first_centre,
                               int dimensions, SharedTiles& shared, float (&distances)[kPoints][kCentres]) {
  auto* point_tile = reinterpret_cast<float(*)[kPadded]>(shared.points);
  auto* centre_tile = reinterpret_cast<float(*)[kPadded]>(shared.centres);
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < kPoints; ++i)
#pragma unroll
    for (int j = 0; j < kCentres; ++j) distances[i][j] = 0;
  for (int first = 0; first < dimensions; first += kChunk) {
    __syncthreads();
    load_tile<kVectors>(points, first_point, first, dimensions, point_tile);
    load_tile<kVectors>(centres, first_centre, first, dimensions, centre_tile);
    __syncthreads();
#pragma unroll 2
    for (int d = 0; d < kChunk; d += 4) {
      float4 b[kCentres];
#pragma unroll
      for (int j = 0; j < kCentres; ++j) b[j] = *reinterpret_cast<const float4*>(&centre_tile[x + 16 * j][d]);
#pragma unroll
      for (int i = 0; i < kPoints; ++i) {
        const float4 a = *reinterpret_cast<const float4*>(&point_tile[y * kPoints + i][d]);
#pragma unroll
        for (int j = 0; j < kCentres; ++j) {
          add_square(distances[i][j], a.x - b[j].x);
          add_square(distances[i][j], a.y - b[j].y);
          add_square(distances[i][j], a.z - b[j].z);
          add_square(distances[i][j], a.w - b[j].w);
        }
      }
    }
  }
}

// out[i][j] = ||points_i - centres_j||².
//
// mapping   a block 64 points (blockIdx.x) by 64 centres (blockIdx.y), 128 threads of 8 x 4 distances; 32 dimensions of
//           both at a time in shared memory.
// bytes     n * d * 4 read once for each 64 centres (from the L2 cache after the first), n * k * 4 written.
template <bool kVectors>
__global__ void __launch_bounds__(kThreads, 3)
    squared_distances_tiles(Matrix points, Matrix centres, int dimensions, float* __restrict__ out, int64_t stride) {
  __shared__ SharedTiles shared;
  const int64_t first_point = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t first_centre = static_cast<int64_t>(blockIdx.y) * kTile;
  float distances[kPoints][kCentres];
  tile_distances<kVectors>(points, centres, first_point, first_centre, dimensions, shared, distances);
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < kPoints; ++i) {
    const int64_t point = first_point + y * kPoints + i;
#pragma unroll
    for (int j = 0; j < kCentres; ++j) {
      const int64_t centre = first_centre + x + 16 * j;
      if (point < points.rows && centre < centres.rows) out[point * stride + centre] = distances[i][j];
    }
  }
}

struct NearestOutput {
  int32_t* __restrict__ labels;
  float* __restrict__ nearest;
  float* __restrict__ second;  ///< or null
};

// labels[i] = argmin_j ||points_i - centres_j||² (of equals the first), the least distance and the second least.
//
// mapping   a block 64 points, tiles of 64 centres one after another; the two best of each point stay in registers and
//           are merged over the 16 threads that share a point at the end.
// bytes     n * (4 d + 12), centres from the cache; points are read again (L2) for each further 64 centres.
template <bool kVectors>
__global__ void __launch_bounds__(kThreads, 3)
    nearest_centres_tiles(Matrix points, Matrix centres, int dimensions, NearestOutput out) {
  __shared__ SharedTiles shared;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  const int64_t first_point = static_cast<int64_t>(blockIdx.x) * kTile;
  float best[kPoints], second[kPoints];
  int label[kPoints];
#pragma unroll
  for (int i = 0; i < kPoints; ++i) {
    best[i] = second[i] = INFINITY;
    label[i] = 0x7fffffff;
  }
  for (int64_t first_centre = 0; first_centre < centres.rows; first_centre += kTile) {
    float distances[kPoints][kCentres];
    tile_distances<kVectors>(points, centres, first_point, first_centre, dimensions, shared, distances);
#pragma unroll
    for (int j = 0; j < kCentres; ++j) {
      const auto centre = static_cast<int>(first_centre) + x + 16 * j;
      if (centre >= centres.rows) continue;
#pragma unroll
      for (int i = 0; i < kPoints; ++i) {
        const float distance = distances[i][j];
        if (distance < best[i]) {
          second[i] = best[i];
          best[i] = distance;
          label[i] = centre;
        } else {
          second[i] = fminf(second[i], distance);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kPoints; ++i) {
    for (int offset = 8; offset > 0; offset /= 2) {
      const float other_best = __shfl_xor_sync(~0u, best[i], offset);
      const float other_second = __shfl_xor_sync(~0u, second[i], offset);
      const int other_label = __shfl_xor_sync(~0u, label[i], offset);
      second[i] = fminf(fmaxf(best[i], other_best), fminf(second[i], other_second));
      if (other_best < best[i] || (other_best == best[i] && other_label < label[i])) {
        best[i] = other_best;
        label[i] = other_label;
      }
    }
  }
  // Through shared memory, so that neighbouring lanes write neighbouring points.
  __syncthreads();
  auto* found = reinterpret_cast<float(*)[kTile]>(shared.points);
  if (x == 0)
#pragma unroll
    for (int i = 0; i < kPoints; ++i) {
      found[0][y * kPoints + i] = __int_as_float(label[i] == 0x7fffffff ? 0 : label[i]);  // none is below infinity
      found[1][y * kPoints + i] = best[i];
      found[2][y * kPoints + i] = second[i];
    }
  __syncthreads();
  const int64_t point = first_point + threadIdx.x;
  if (threadIdx.x >= kTile || point >= points.rows) return;
  out.labels[point] = __float_as_int(found[0][threadIdx.x]);
  out.nearest[point] = found[1][threadIdx.x];
  if (out.second != nullptr) out.second[point] = found[2][threadIdx.x];
}

constexpr int kSumWarps = 4;
constexpr int kRowsPerSlice = 64;

// keys[i] = labels[i], order[i] = i: what is sorted.
__global__ void __launch_bounds__(256) copy_labels(const int32_t* __restrict__ labels, int64_t count,
                                                   int32_t* __restrict__ keys, int32_t* __restrict__ order) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    keys[i] = labels[i];
    order[i] = static_cast<int32_t>(i);
  }
}

// partials[j][slice] = float64 sum of a slice of cluster j's rows (those at starts[j] .. starts[j+1] of `order`).
//
// mapping   a warp a slice; lanes across columns, 4 columns of a block of 128 a lane (32 apart, so that any alignment
//           is coalesced); rows in order.
// bytes     n * (4 d + 4) read; k * slices * d * 8 written.
__global__ void __launch_bounds__(32 * kSumWarps)
    cluster_partial_sums(Matrix points, int dimensions, const int32_t* __restrict__ order,
                         const int64_t* __restrict__ starts, int slices, double* __restrict__ partials) {
  const int lane = threadIdx.x % 32;
  const int64_t cluster = blockIdx.y;
  const int slice = static_cast<int>(blockIdx.x) * kSumWarps + static_cast<int>(threadIdx.x / 32);
  if (slice >= slices) return;
  const int64_t begin = starts[cluster], count = starts[cluster + 1] - begin;
  const int64_t first = begin + count * slice / slices, last = begin + count * (slice + 1) / slices;
  double* out = partials + (cluster * slices + slice) * dimensions;
  for (int column = lane; column < dimensions; column += 128) {
    double sum[4] = {};
#pragma unroll 4
    for (int64_t i = first; i < last; ++i) {
      const float* row = points.data + order[i] * points.stride;
#pragma unroll
      for (int c = 0; c < 4; ++c)
        if (column + 32 * c < dimensions) sum[c] += static_cast<double>(row[column + 32 * c]);
    }
#pragma unroll
    for (int c = 0; c < 4; ++c)
      if (column + 32 * c < dimensions) out[column + 32 * c] = sum[c];
  }
}

// sums[j] = the slices of cluster j added in order; counts[j] = its rows. A block a cluster, a thread a column.
__global__ void __launch_bounds__(128)
    cluster_total_sums(const double* __restrict__ partials, const int64_t* __restrict__ starts, int slices,
                       int dimensions, double* __restrict__ sums, int64_t stride, int64_t* __restrict__ counts) {
  const int64_t cluster = blockIdx.x;
  if (threadIdx.x == 0) counts[cluster] = starts[cluster + 1] - starts[cluster];
  for (int column = threadIdx.x; column < dimensions; column += blockDim.x) {
    double sum = 0;
    for (int slice = 0; slice < slices; ++slice) sum += partials[(cluster * slices + slice) * dimensions + column];
    sums[cluster * stride + column] = sum;
  }
}

constexpr int kMeanThreads = 128;

/// A row and its distance; the farther comes first, of equals the first row.
struct Far {
  float distance;
  int32_t row;
  __device__ bool comes_before(const Far& other) const {
    return distance > other.distance || (distance == other.distance && row < other.row);
  }
};
struct Farther {
  __device__ Far operator()(const Far& a, const Far& b) const { return a.comes_before(b) ? a : b; }
};

// centroids[j] = sums[j] / counts[j], or the rows of clusters that have none (MeanCentres). A block a cluster, a thread
// a column. Where clusters are without rows, number m of them looks through all distances m + 1 times, which is rare.
// Bytes: k * d * 12, and 4 * n for each such look.
__global__ void __launch_bounds__(kMeanThreads)
    mean_centres_block_per_cluster(const double* __restrict__ sums, int64_t stride, const int64_t* __restrict__ counts,
                                   Matrix points, const float* __restrict__ distances, int dimensions,
                                   float* __restrict__ centroids, int64_t centroid_stride) {
  using Reduce = cub::BlockReduce<Far, kMeanThreads>;
  __shared__ Reduce::TempStorage reduce;
  __shared__ Far taken;
  const int64_t cluster = blockIdx.x, count = counts[cluster];
  float* centre = centroids + cluster * centroid_stride;
  if (count > 0) {
    for (int d = threadIdx.x; d < dimensions; d += kMeanThreads)
      centre[d] = static_cast<float>(sums[cluster * stride + d] / static_cast<double>(count));
    return;
  }
  int looks = 1;
  for (int64_t before = 0; before < cluster; ++before) looks += counts[before] == 0 ? 1 : 0;
  Far last{INFINITY, -1};
  for (int look = 0; look < looks; ++look) {
    Far own{-1, 0};
    for (int64_t i = threadIdx.x; i < points.rows; i += kMeanThreads) {
      const Far one{distances[i], static_cast<int32_t>(i)};
      if (last.comes_before(one) && one.distance > -1) own = Farther()(own, one);
    }
    own = Reduce(reduce).Reduce(own, Farther());
    if (threadIdx.x == 0) taken = own;
    __syncthreads();
    last = taken;
    __syncthreads();
  }
  for (int d = threadIdx.x; d < dimensions; d += kMeanThreads) centre[d] = points.data[last.row * points.stride + d];
}

}  // namespace

void squared_distances(Context& context, ConstTensorView rows, ConstTensorView centroids, TensorView distances) {
  CBTM_ASSERT(rows.columns == centroids.columns && distances.rows == rows.rows && distances.columns == centroids.rows,
              "shapes of distances agree");
  if (distances.size() == 0) return;
  const dim3 grid(static_cast<unsigned>((rows.rows + kTile - 1) / kTile),
                  static_cast<unsigned>((centroids.rows + kTile - 1) / kTile));
  const bool vectors = whole_vectors(rows) && whole_vectors(centroids);
  (vectors ? squared_distances_tiles<true> : squared_distances_tiles<false>)<<<grid, kThreads, 0, context.stream>>>(
      matrix_of(rows), matrix_of(centroids), static_cast<int>(rows.columns), distances.as<float>(),
      distances.row_stride);
  CBTM_CUDA_LAUNCHED("squared_distances");
}

void nearest_centres_by_differences(Context& context, const NearestCentres& arguments) {
  const ConstTensorView rows = arguments.rows, centroids = arguments.centroids;
  const auto blocks = static_cast<unsigned>((rows.rows + kTile - 1) / kTile);
  const bool vectors = whole_vectors(rows) && whole_vectors(centroids);
  const NearestOutput out{arguments.labels.as<int32_t>(), arguments.nearest.as<float>(),
                          arguments.second ? arguments.second.as<float>() : nullptr};
  (vectors ? nearest_centres_tiles<true> : nearest_centres_tiles<false>)<<<blocks, kThreads, 0, context.stream>>>(
      matrix_of(rows), matrix_of(centroids), static_cast<int>(rows.columns), out);
  CBTM_CUDA_LAUNCHED("nearest_centres");
}

// Rows sorted by label (a stable radix sort of as many bits as there are clusters), then summed cluster by cluster.
void cluster_sums(Context& context, const ClusterSums& arguments) {
  const ConstTensorView rows = arguments.rows;
  const int64_t n = rows.rows, clusters = arguments.sums.rows;
  const auto dimensions = static_cast<int>(rows.columns);
  CBTM_ASSERT(n < int64_t{1} << 31 && clusters < 65536, "row numbers are int32, clusters a grid's second extent");
  if (clusters == 0) return;
  const auto slices = static_cast<int>(std::clamp<int64_t>(n / (clusters * kRowsPerSlice), 1, 256));
  cub::DoubleBuffer<int32_t> keys(nullptr, nullptr), order(nullptr, nullptr);
  size_t sort_bytes = 0;
  const int bits = bits_for(clusters);
  CBTM_CUDA(cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, keys, order, n, 0, bits, context.stream));
  const auto aligned = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  const int64_t list = aligned(n * 4), starts_bytes = aligned((clusters + 1) * 8);
  const int64_t partial_bytes = aligned(clusters * slices * dimensions * 8);
  char* place =
      static_cast<char*>(context.workspace(4 * list + starts_bytes + partial_bytes + static_cast<int64_t>(sort_bytes)));
  for (int i = 0; i < 2; ++i) {
    keys.d_buffers[i] = reinterpret_cast<int32_t*>(place + i * list);
    order.d_buffers[i] = reinterpret_cast<int32_t*>(place + (2 + i) * list);
  }
  auto* starts = reinterpret_cast<int64_t*>(place + 4 * list);
  auto* partials = reinterpret_cast<double*>(place + 4 * list + starts_bytes);
  if (n > 0) {
    const auto blocks = static_cast<unsigned>(std::min<int64_t>((n + 255) / 256, int64_t{8} * context.sm_count));
    copy_labels<<<blocks, 256, 0, context.stream>>>(arguments.labels.as<int32_t>(), n, keys.Current(), order.Current());
    CBTM_CUDA_LAUNCHED("copy_labels");
    CBTM_CUDA(cub::DeviceRadixSort::SortPairs(place + 4 * list + starts_bytes + partial_bytes, sort_bytes, keys, order,
                                              n, 0, bits, context.stream));
  }
  launch_segment_starts(context.stream, context.sm_count, keys.Current(), n, clusters, starts);
  const dim3 grid(static_cast<unsigned>((slices + kSumWarps - 1) / kSumWarps), static_cast<unsigned>(clusters));
  cluster_partial_sums<<<grid, 32 * kSumWarps, 0, context.stream>>>(matrix_of(rows), dimensions, order.Current(),
                                                                    starts, slices, partials);
  CBTM_CUDA_LAUNCHED("cluster_partial_sums");
  cluster_total_sums<<<static_cast<unsigned>(clusters), 128, 0, context.stream>>>(
      partials, starts, slices, dimensions, arguments.sums.as<double>(), arguments.sums.row_stride,
      arguments.counts.as<int64_t>());
  CBTM_CUDA_LAUNCHED("cluster_total_sums");
}

void mean_centres(Context& context, const MeanCentres& arguments) {
  const ConstTensorView sums = arguments.sums;
  if (sums.size() == 0) return;
  CBTM_ASSERT(arguments.rows.rows < int64_t{1} << 31, "row numbers are int32");
  mean_centres_block_per_cluster<<<static_cast<unsigned>(sums.rows), kMeanThreads, 0, context.stream>>>(
      sums.as<double>(), sums.row_stride, arguments.counts.as<int64_t>(), matrix_of(arguments.rows),
      arguments.distances ? arguments.distances.as<float>() : nullptr, static_cast<int>(sums.columns),
      arguments.centroids.as<float>(), arguments.centroids.row_stride);
  CBTM_CUDA_LAUNCHED("mean_centres");
}

}  // namespace cbtm::cuda
