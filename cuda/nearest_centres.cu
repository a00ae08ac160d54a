// The nearest centre of each point by products on tensor cores, with the labels and distances of float32 differences.

#include "clustering.h"
#include "dispatch.h"
#include "elements.cuh"
#include "mma.cuh"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kTile = 64;         ///< points of a block, and centres at a time
constexpr int kChunk = 32;        ///< dimensions in shared memory
constexpr int kThreads = 128;     ///< a warp 16 points
constexpr int kPointPitch = 48;   ///< floats of a row: two rows of 16-byte reads fill the banks
constexpr int kCentrePitch = 48;  ///< bf16 of a row: four rows of 8-byte reads fill the banks
constexpr int kExactThreads = 128;
/// Fewer centres than this cost less than reading the points does, also without tensor cores.
constexpr int64_t kFewestCentres = 17;

struct Points {
  const float* __restrict__ data;
  int64_t stride;
  int64_t count;
  int dimensions;

  /// Coordinates of a point from `dimension` on; those that do not exist are zero. kVectors: rows are whole vectors.
  template <bool kVectors>
  __device__ float4 four(int64_t point, int dimension) const {
    const int available = point < count ? dimensions - dimension : 0;
    const float* from = data + (available > 0 ? point * stride + dimension : 0);
    const uint4 word = load_packed<float, 4, kVectors>(from, available, kVectors).word;
    return {__uint_as_float(word.x), __uint_as_float(word.y), __uint_as_float(word.z), __uint_as_float(word.w)};
  }
};

/// Centres as sums of two bf16, [padded count, padded dimensions], zero in the padding, and their squared lengths in
/// float32, infinite in the padding.
struct SplitCentres {
  __nv_bfloat16 *high, *low;
  float* squares;
  float* longest;  ///< the largest length
  int count, padded, padded_dimensions;
};

// A block a centre, of the padded ones too. The longest by an atomic maximum, so that the order does not matter. Bytes:
// k * d * 8.
__global__ void __launch_bounds__(kThreads)
    split_centres(const float* __restrict__ centres, int64_t stride, int dimensions, SplitCentres out) {
  __shared__ double sums[kThreads / 32];
  const auto row = static_cast<int>(blockIdx.x);
  double square = 0;
  for (int d = threadIdx.x; d < out.padded_dimensions; d += kThreads) {
    const float value = row < out.count && d < dimensions ? centres[row * stride + d] : 0.0f;
    const __nv_bfloat16 high = __float2bfloat16_rn(value);
    out.high[row * out.padded_dimensions + d] = high;
    out.low[row * out.padded_dimensions + d] = __float2bfloat16_rn(value - __bfloat162float(high));
    square += static_cast<double>(value) * static_cast<double>(value);
  }
  for (int offset = 16; offset > 0; offset /= 2) square += __shfl_xor_sync(~0u, square, offset);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = square;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kThreads / 32; ++warp) square += sums[warp];
  out.squares[row] = row < out.count ? static_cast<float>(square) : INFINITY;
  // Lengths are not negative, and in the order of their bits.
  if (row < out.count)
    atomicMax(reinterpret_cast<unsigned*>(out.longest), __float_as_uint(__double2float_ru(sqrt(square))));
}

/// The two least scores of a point and whose the least is.
struct TwoScores {
  float best, second;
  int label;
  __device__ void add(float score, int centre) {
    if (score < best) {
      second = best;
      best = score;
      label = centre;
    } else {
      second = fminf(second, score);
    }
  }
  __device__ void merge_lane(int offset) {
    const float other_best = __shfl_xor_sync(~0u, best, offset), other_second = __shfl_xor_sync(~0u, second, offset);
    const int other_label = __shfl_xor_sync(~0u, label, offset);
    second = fminf(fmaxf(best, other_best), fminf(second, other_second));
    if (other_best < best) {
      best = other_best;
      label = other_label;
    }
  }
};

__device__ uint32_t packed(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

/// Four neighbouring values as sums of two bf16 each, in words of two.
__device__ void split(const float4& values, uint32_t (&high)[2], uint32_t (&low)[2]) {
  high[0] = packed(values.x, values.y);
  high[1] = packed(values.z, values.w);
  const auto widened_low = [](uint32_t word) { return __uint_as_float(word << 16); };
  const auto widened_high = [](uint32_t word) { return __uint_as_float(word & 0xffff0000u); };
  low[0] = packed(values.x - widened_low(high[0]), values.y - widened_high(high[0]));
  low[1] = packed(values.z - widened_low(high[1]), values.w - widened_high(high[1]));
}

// labels[i] = j where centre j is sure to have the least float32 distance to point i; -1 where another may.
//
//   score_j = |c_j|² - 2 x·c_j,   x·c = xh·ch + xh·cl + xl·ch,   x = xh + xl, c = ch + cl in bf16
//
// mapping   a block 64 points, 64 centres at a time, 32 dimensions of both in shared memory; a warp 16 points by 64
//           centres in accumulators of mma.m16n8k16. A lane's k are four neighbours (left and right agree), so that it
//           reads vectors.
// bytes     n * (4 d + 4); the split centres from the cache; points again from the cache for each further 64 centres.
// numerics  with A = |x|, C = the longest centre: the split and the product left out are off by 3.1 * 2^-18 A C, the
//           accumulator by 17 * 2^-23 A C for each of its 3 d / 16 steps (17 addends, none less exact than 2^-23 of the
//           largest), the score by 2^-22 (A + C)² more. The float32 distance is off by (d + 3) 2^-23 of itself, which
//           is at most (A + C)². If the second score is further from the best than twice the sum of both, the best is
//           the label that float32 differences give.
template <bool kVectors>
__global__ void __launch_bounds__(kThreads, 4)
    nearest_centres_mma(Points points, SplitCentres centres, int32_t* __restrict__ labels) {
  __shared__ float4 point_memory[kTile * kPointPitch / 4];
  __shared__ uint4 centre_memory[2][kTile * kCentrePitch / 8];
  auto* point_tile = reinterpret_cast<float(*)[kPointPitch]>(point_memory);
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, first_row = static_cast<int>(threadIdx.x) / 32 * 16;
  const int64_t first_point = static_cast<int64_t>(blockIdx.x) * kTile;
  TwoScores two[2] = {{INFINITY, INFINITY, 0}, {INFINITY, INFINITY, 0}};  // of rows g and g + 8 of the warp
  float square[2] = {0, 0};
  for (int first_centre = 0; first_centre < centres.padded; first_centre += kTile) {
    float sums[kTile / 8][4] = {};
    for (int begin = 0; begin < points.dimensions; begin += kChunk) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kTile * kChunk / 4 / kThreads; ++i) {
        const int place = static_cast<int>(threadIdx.x) + i * kThreads;
        const int r = place / (kChunk / 4), c = place % (kChunk / 4) * 4;
        const float4 vector = points.four<kVectors>(first_point + r, begin + c);
        *reinterpret_cast<float4*>(&point_tile[r][c]) = vector;
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const __nv_bfloat16* from = half == 0 ? centres.high : centres.low;
#pragma unroll
        for (int i = 0; i < kTile * kChunk / 8 / kThreads; ++i) {
          const int place = static_cast<int>(threadIdx.x) + i * kThreads;
          const int quad = place / (kChunk / 8), c = place % (kChunk / 8) * 8;
          const int r = (quad & ~3) | (quad & 1) << 1 | (quad >> 1 & 1);  // 8 lanes write rows that share no banks
          centre_memory[half][(r * kCentrePitch + c) / 8] = *reinterpret_cast<const uint4*>(
              from + static_cast<int64_t>(first_centre + r) * centres.padded_dimensions + begin + c);
        }
      }
      __syncthreads();
#pragma unroll
      for (int d = 0; d < kChunk; d += 16) {
        uint32_t high[4], low[4];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          const float4 values = *reinterpret_cast<const float4*>(&point_tile[first_row + g + 8 * row][d + 4 * t]);
          uint32_t row_high[2], row_low[2];
          split(values, row_high, row_low);
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            high[row + 2 * k] = row_high[k];
            low[row + 2 * k] = row_low[k];
          }
          if (first_centre == 0)
            square[row] += values.x * values.x + values.y * values.y + values.z * values.z + values.w * values.w;
        }
#pragma unroll
        for (int tile = 0; tile < kTile / 8; ++tile) {
          const int place = ((tile * 8 + g) * kCentrePitch + d + 4 * t) / 4;
          const uint2 centre_high = reinterpret_cast<const uint2*>(centre_memory[0])[place];
          const uint2 centre_low = reinterpret_cast<const uint2*>(centre_memory[1])[place];
          mma::multiply<__nv_bfloat16>(sums[tile], low, centre_high.x, centre_high.y);
          mma::multiply<__nv_bfloat16>(sums[tile], high, centre_low.x, centre_low.y);
          mma::multiply<__nv_bfloat16>(sums[tile], high, centre_high.x, centre_high.y);
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kTile / 8; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int centre = first_centre + tile * 8 + 2 * t + i % 2;
        two[i / 2].add(fmaf(-2, sums[tile][i], centres.squares[centre]), centre);
      }
  }
  const float c = *centres.longest;
  const auto d = static_cast<float>(points.dimensions);
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    for (int offset = 1; offset < 4; offset *= 2) {
      two[row].merge_lane(offset);
      square[row] += __shfl_xor_sync(~0u, square[row], offset);
    }
    const int64_t point = first_point + first_row + g + 8 * row;
    if (t != 0 || point >= points.count) continue;
    const float a = sqrtf(square[row]) * 1.001f;
    const float of_product = (0x1p-16f + (d + 16) * 0x1p-21f) * a * c;
    const float of_distance = (d + 5) * 0x1p-23f * (a + c) * (a + c);
    const float apart = 2.02f * (2 * of_product + of_distance) + 1e-36f;
    labels[point] = two[row].second - two[row].best > apart ? two[row].label : -1;
  }
}

/// ||point - centre||², float32 differences added in the order of the dimensions, as nearest_centres_tiles does.
__device__ float squared_distance(const float* __restrict__ point, const float* __restrict__ centre, int dimensions) {
  float sum = 0;
#pragma unroll 4
  for (int d = 0; d < dimensions; ++d) {
    const float difference = point[d] - centre[d];
    sum = fmaf(difference, difference, sum);
  }
  return sum;
}

// nearest[i] = the float32 distance to the centre labels[i]; where that is -1, first the label by the distances to all
// centres (of equals the first).
//
// mapping   a block 128 points, a thread a point, by way of shared memory; then the block's threads share the centres
// of
//           its points without a label, one point after another. Less than a hundredth of points of unit length is
//           such.
// bytes     n * (4 d + 8 + 4); the rows of the centres from the cache
template <bool kVectors>
__global__ void __launch_bounds__(kExactThreads)
    exact_distances(Points points, const float* __restrict__ centres, int64_t centre_stride, int centre_count,
                    int32_t* __restrict__ labels, float* __restrict__ nearest) {
  constexpr int kPitch = kChunk + 4;
  __shared__ float4 tile_memory[kExactThreads * kPitch / 4];
  __shared__ int open[kExactThreads];  // points of the block without a label
  __shared__ int open_count;
  __shared__ float warp_best[kExactThreads / 32];
  __shared__ int warp_label[kExactThreads / 32];
  auto* tile = reinterpret_cast<float(*)[kPitch]>(tile_memory);
  const int64_t first_point = static_cast<int64_t>(blockIdx.x) * kExactThreads;
  const int64_t point = first_point + threadIdx.x;
  const bool inside = point < points.count;
  const int label = inside ? labels[point] : 0;
  if (threadIdx.x == 0) open_count = 0;
  const float* centre = centres + max(label, 0) * centre_stride;
  float distance = 0;
  for (int begin = 0; begin < points.dimensions; begin += kChunk) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kChunk / 4; ++i) {
      const int place = static_cast<int>(threadIdx.x) + i * kExactThreads;
      const int r = place / (kChunk / 4), c = place % (kChunk / 4) * 4;
      const float4 vector = points.four<kVectors>(first_point + r, begin + c);
      *reinterpret_cast<float4*>(&tile[r][c]) = vector;
    }
    __syncthreads();
    const int count = min(kChunk, points.dimensions - begin);
    for (int d = 0; d < count; d += 4) {
      const float4 own = *reinterpret_cast<const float4*>(&tile[threadIdx.x][d]);
      float4 of_centre = {0, 0, 0, 0};
      const float* from = centre + begin + d;
      if constexpr (kVectors) {
        of_centre = *reinterpret_cast<const float4*>(from);
      } else {
        of_centre.x = from[0];
        if (d + 1 < count) of_centre.y = from[1];
        if (d + 2 < count) of_centre.z = from[2];
        if (d + 3 < count) of_centre.w = from[3];
      }
      distance = fmaf(own.x - of_centre.x, own.x - of_centre.x, distance);
      distance = fmaf(own.y - of_centre.y, own.y - of_centre.y, distance);
      distance = fmaf(own.z - of_centre.z, own.z - of_centre.z, distance);
      distance = fmaf(own.w - of_centre.w, own.w - of_centre.w, distance);
    }
  }
  if (inside && label >= 0) nearest[point] = distance;
  if (inside && label < 0) open[atomicAdd(&open_count, 1)] = static_cast<int>(threadIdx.x);
  __syncthreads();
  for (int i = 0; i < open_count; ++i) {
    const int64_t of_point = first_point + open[i];
    float best = INFINITY;
    int best_label = 0x7fffffff;
    for (int j = threadIdx.x; j < centre_count; j += kExactThreads) {
      const float to_centre =
          squared_distance(points.data + of_point * points.stride, centres + j * centre_stride, points.dimensions);
      if (to_centre < best) {
        best = to_centre;
        best_label = j;
      }
    }
    const auto take = [&](float other, int other_label) {
      if (other < best || (other == best && other_label < best_label)) {
        best = other;
        best_label = other_label;
      }
    };
    for (int offset = 16; offset > 0; offset /= 2)
      take(__shfl_xor_sync(~0u, best, offset), __shfl_xor_sync(~0u, best_label, offset));
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
      warp_best[threadIdx.x / 32] = best;
      warp_label[threadIdx.x / 32] = best_label;
    }
    __syncthreads();
    if (threadIdx.x != 0) continue;
    for (int warp = 1; warp < kExactThreads / 32; ++warp) take(warp_best[warp], warp_label[warp]);
    labels[of_point] = best_label == 0x7fffffff ? 0 : best_label;  // none is below infinity
    nearest[of_point] = best;
  }
}

}  // namespace

void nearest_centres(Context& context, const NearestCentres& arguments) {
  const ConstTensorView rows = arguments.rows, centroids = arguments.centroids;
  CBTM_ASSERT(centroids.rows > 0 && centroids.columns == rows.columns, "there is a centre to be near to");
  if (rows.rows == 0) return;
  if (context.compute_capability < 80 || arguments.second || centroids.rows < kFewestCentres || rows.columns == 0)
    return nearest_centres_by_differences(context, arguments);
  CBTM_ASSERT(centroids.rows < int64_t{1} << 24, "numbers of centres are int32");
  const int64_t padded = round_up(centroids.rows, kTile), padded_dimensions = round_up(rows.columns, kChunk);
  const int64_t half = padded * padded_dimensions * 2;
  char* place = static_cast<char*>(context.workspace(2 * half + (padded + 1) * 4));
  const SplitCentres split{.high = reinterpret_cast<__nv_bfloat16*>(place),
                           .low = reinterpret_cast<__nv_bfloat16*>(place + half),
                           .squares = reinterpret_cast<float*>(place + 2 * half),
                           .longest = reinterpret_cast<float*>(place + 2 * half) + padded,
                           .count = static_cast<int>(centroids.rows),
                           .padded = static_cast<int>(padded),
                           .padded_dimensions = static_cast<int>(padded_dimensions)};
  const Points points{rows.as<float>(), rows.row_stride, rows.rows, static_cast<int>(rows.columns)};
  auto* labels = arguments.labels.as<int32_t>();
  CBTM_CUDA(cudaMemsetAsync(split.longest, 0, 4, context.stream));
  split_centres<<<static_cast<unsigned>(padded), kThreads, 0, context.stream>>>(
      centroids.as<float>(), centroids.row_stride, points.dimensions, split);
  CBTM_CUDA_LAUNCHED("split_centres");
  dispatch_bool(whole_vectors(rows) && whole_vectors(centroids), [&]<bool kVectors>() {
    nearest_centres_mma<kVectors>
        <<<static_cast<unsigned>(ceil_divide(rows.rows, kTile)), kThreads, 0, context.stream>>>(points, split, labels);
    CBTM_CUDA_LAUNCHED("nearest_centres");
    exact_distances<kVectors>
        <<<static_cast<unsigned>(ceil_divide(rows.rows, kExactThreads)), kExactThreads, 0, context.stream>>>(
            points, centroids.as<float>(), centroids.row_stride, split.count, labels, arguments.nearest.as<float>());
    CBTM_CUDA_LAUNCHED("exact_distances");
  });
}

}  // namespace cbtm::cuda
