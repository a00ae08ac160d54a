// k-means++: a row drawn in proportion to its squared distance. And sums whose bits are those of adding one number
// after another, as the host does: both are computed in parallel where it can be proven that the result is the same,
// and one after another by a thread where it cannot.

#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>

#include "dispatch.h"
#include "draw_centre.h"
#include "runtime/check.h"

namespace cbtm::cuda {
namespace {

constexpr int kPoints = 128;         ///< rows of a block, a thread each
constexpr int kChunk = 32;           ///< dimensions in shared memory
constexpr int kPadded = kChunk + 4;  ///< so that 8 lanes reading a vector of 8 rows touch all banks
constexpr int kDrawThreads = 1024;
constexpr int kSumThreads = 256;

// closest[i] = min(closest[i], ||rows_i - rows_latest||²), or only the latter if `first`; sums[block] = Σ closest of
// the block's rows in float64.
//
// mapping   a block 128 rows; 32 dimensions at a time by way of shared memory, then a thread a row, so that the
//           differences are added in the order of the dimensions as in nearest_centres.
// bytes     n * (4 d + 8) + n / 16
template <bool kVectors>
__global__ void __launch_bounds__(kPoints)
    closest_to_latest(const float* __restrict__ rows, int64_t stride, int64_t count, int dimensions,
                      const int32_t* __restrict__ latest, bool first, float* __restrict__ closest,
                      double* __restrict__ sums) {
  using Reduce = cub::BlockReduce<double, kPoints>;
  __shared__ float4 tile_memory[kPoints * kPadded / 4], centre_memory[kChunk / 4];
  __shared__ Reduce::TempStorage reduce;
  auto* tile = reinterpret_cast<float(*)[kPadded]>(tile_memory);
  auto* centre = reinterpret_cast<float*>(centre_memory);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kPoints;
  const float* latest_row = rows + *latest * stride;
  float distance = 0;
  for (int begin = 0; begin < dimensions; begin += kChunk) {
    __syncthreads();
    if (threadIdx.x < kChunk) {
      const int d = begin + static_cast<int>(threadIdx.x);
      centre[threadIdx.x] = d < dimensions ? latest_row[d] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kChunk / 4; ++i) {
      const int place = static_cast<int>(threadIdx.x) + i * kPoints;
      const int r = place / (kChunk / 4), c = place % (kChunk / 4) * 4;
      float4 vector = {0, 0, 0, 0};
      if (first_row + r < count) {
        const float* from = rows + (first_row + r) * stride + begin + c;
        if constexpr (kVectors) {
          if (begin + c < dimensions) vector = *reinterpret_cast<const float4*>(from);
        } else {
          if (begin + c < dimensions) vector.x = from[0];
          if (begin + c + 1 < dimensions) vector.y = from[1];
          if (begin + c + 2 < dimensions) vector.z = from[2];
          if (begin + c + 3 < dimensions) vector.w = from[3];
        }
      }
      *reinterpret_cast<float4*>(&tile[r][c]) = vector;
    }
    __syncthreads();
#pragma unroll
    for (int d = 0; d < kChunk; d += 4) {
      const float4 a = *reinterpret_cast<const float4*>(&tile[threadIdx.x][d]);
      const float4 b = centre_memory[d / 4];
      distance = fmaf(a.x - b.x, a.x - b.x, distance);
      distance = fmaf(a.y - b.y, a.y - b.y, distance);
      distance = fmaf(a.z - b.z, a.z - b.z, distance);
      distance = fmaf(a.w - b.w, a.w - b.w, distance);
    }
  }
  const int64_t row = first_row + threadIdx.x;
  float least = 0;
  if (row < count) {
    const float before = first ? INFINITY : closest[row];
    least = distance < before ? distance : before;
    closest[row] = least;
  }
  const double sum = Reduce(reduce).Sum(static_cast<double>(least));
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/// Calls use(value, i) for i = 0, 1, ... on thread 0 until it returns false; the block's other threads bring the
/// values. All threads of the block call it.
template <typename Use>
__device__ void one_after_another(const float* __restrict__ values, int64_t count, const Use& use) {
  __shared__ float staged[kDrawThreads];
  __shared__ bool done;
  if (threadIdx.x == 0) done = false;
  for (int64_t base = 0; base < count; base += blockDim.x) {
    __syncthreads();
    if (done) return;
    if (base + threadIdx.x < count) staged[threadIdx.x] = values[base + threadIdx.x];
    __syncthreads();
    if (threadIdx.x != 0) continue;
    const auto here = static_cast<int>(min(static_cast<int64_t>(blockDim.x), count - base));
    for (int i = 0; i < here && !done; ++i) done = !use(static_cast<double>(staged[i]), base + i);
  }
  __syncthreads();
}

struct Drawing {
  const float* __restrict__ closest;
  int64_t count;
  const double* __restrict__ sums;  ///< of kPoints of them each
  int sum_count;
  double uniform;
  int32_t otherwise;
};

// *chosen = the first i at which uniform * Σ closest less closest[0], less closest[1], ... becomes negative
// (DrawCentre).
//
// mapping   one block. The sums of 128 rows are scanned for the one in which the target lies, then its rows.
// bytes     8 * n / 128 + 512; where the result cannot be proven, n * 8 more
// numerics  the target and the running sum that it is compared with are off by less than n 2^-50 of the total, together
//           with the roundings of the definition (each of four sums of at most n terms by n 2^-53 of it). Where the
//           running sums before and after the row are further away than that, the row is the definition's. Else, a
//           matter of n² 2^-49 of all draws, or if the sum is not finite, a thread goes by the definition.
__global__ void __launch_bounds__(kDrawThreads, 1) draw_from_closest(Drawing in, int32_t* __restrict__ chosen) {
  using Scan = cub::BlockScan<double, kDrawThreads, cub::BLOCK_SCAN_WARP_SCANS>;
  __shared__ Scan::TempStorage scan;
  __shared__ int found_sum;
  __shared__ double found_before;
  __shared__ int32_t drawn;
  const int own_sums = (in.sum_count + kDrawThreads - 1) / kDrawThreads;
  const int first = min(static_cast<int>(threadIdx.x) * own_sums, in.sum_count);
  const int last = min(first + own_sums, in.sum_count);
  double own = 0, before, total;
  for (int i = first; i < last; ++i) own += in.sums[i];
  Scan(scan).ExclusiveSum(own, before, total);
  if (threadIdx.x == 0) {
    found_sum = -1;
    drawn = -1;
  }
  __syncthreads();
  if (total == 0) {
    if (threadIdx.x == 0) *chosen = in.otherwise;
    return;
  }
  const double target = in.uniform * total;
  const double error = static_cast<double>(in.count) * 0x1p-50 * total;
  if (target >= before && target < before + own) {
    double until = before;
    for (int i = first; i < last; ++i) {
      if (target < until + in.sums[i]) {
        atomicMax(&found_sum, i);  // neighbours may both believe it; then nothing is proven
        found_before = until;
        break;
      }
      until += in.sums[i];
    }
  }
  __syncthreads();
  if (found_sum >= 0) {
    const int64_t row = static_cast<int64_t>(found_sum) * kPoints + threadIdx.x;
    const bool inside = threadIdx.x < kPoints && row < in.count;
    const double value = inside ? static_cast<double>(in.closest[row]) : 0;
    double until;
    Scan(scan).InclusiveSum(value, until);
    until += found_before;
    const double up_to = until - value;  // exact enough: the error above has room for it
    if (inside && until - target > error && (row == 0 || target - up_to > error)) drawn = static_cast<int32_t>(row);
  }
  __syncthreads();
  if (drawn < 0) {
    double sum = 0;
    one_after_another(in.closest, in.count, [&](double value, int64_t) {
      sum += value;
      return true;
    });
    if (threadIdx.x == 0) drawn = in.otherwise;
    double rest = in.uniform * sum;
    one_after_another(in.closest, in.count, [&](double value, int64_t i) {
      if (!(sum > 0)) return false;
      rest -= value;
      if (rest < 0) drawn = static_cast<int32_t>(i);
      return !(rest < 0);
    });
  }
  if (threadIdx.x == 0) *chosen = drawn;
}

/// What is known of a sum of float32 values.
struct Partial {
  double sum, size;  ///< of the values, and of their magnitudes
  int lowest;        ///< every value is a multiple of 2^lowest
};
struct JoinPartials {
  __device__ Partial operator()(const Partial& a, const Partial& b) const {
    return {a.sum + b.sum, a.size + b.size, min(a.lowest, b.lowest)};
  }
};
using ReducePartials = cub::BlockReduce<Partial, kSumThreads>;

__device__ Partial partial_of(float value) {
  const uint32_t bits = __float_as_uint(value);
  const uint32_t exponent = bits >> 23 & 0xffu;
  const uint32_t mantissa = (bits & 0x7fffffu) | (exponent == 0 ? 0u : 0x800000u);
  const int lowest = mantissa == 0 ? 1 << 20 : static_cast<int>(max(exponent, 1u)) - 150 + __ffs(mantissa) - 1;
  return {static_cast<double>(value), fabs(static_cast<double>(value)), lowest};
}

// partials[block] = the block's values. Bytes: 4 * count.
__global__ void __launch_bounds__(kSumThreads)
    sum_pieces(const float* __restrict__ values, int64_t count, Partial* __restrict__ partials) {
  __shared__ ReducePartials::TempStorage reduce;
  Partial own{0, 0, 1 << 20};
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kSumThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x; i < count; i += stride)
    own = JoinPartials()(own, partial_of(values[i]));
  own = ReducePartials(reduce).Reduce(own, JoinPartials());
  if (threadIdx.x == 0) partials[blockIdx.x] = own;
}

// *sum = the values added one after another. One block.
//
// numerics  if all values are multiples of 2^e and their magnitudes sum up to less than 2^(52 + e), every sum of some
// of
//           them is a float64 number, and no order of addition rounds. Distances of unit vectors are such unless some
//           are tiny. Else a thread adds one after another.
__global__ void __launch_bounds__(kSumThreads)
    join_pieces(const Partial* __restrict__ partials, int count, const float* __restrict__ values, int64_t value_count,
                double* __restrict__ sum) {
  __shared__ ReducePartials::TempStorage reduce;
  __shared__ bool exact;
  Partial own{0, 0, 1 << 20};
  for (int i = threadIdx.x; i < count; i += kSumThreads) own = JoinPartials()(own, partials[i]);
  own = ReducePartials(reduce).Reduce(own, JoinPartials());
  if (threadIdx.x == 0) exact = own.size == 0 || own.size < ldexp(1.0, 52 + own.lowest);
  __syncthreads();
  if (exact) {
    if (threadIdx.x == 0) *sum = own.sum;
    return;
  }
  double total = 0;
  one_after_another(values, value_count, [&](double value, int64_t) {
    total += value;
    return true;
  });
  if (threadIdx.x == 0) *sum = total;
}

}  // namespace

void draw_centre(Context& context, const DrawCentre& arguments) {
  const ConstTensorView rows = arguments.rows;
  CBTM_ASSERT(arguments.step >= 1 && arguments.step < arguments.chosen.columns, "the first row is chosen before");
  CBTM_ASSERT(rows.rows > 0 && rows.rows < int64_t{1} << 31, "row numbers are int32");
  const auto blocks = static_cast<unsigned>(ceil_divide(rows.rows, kPoints));
  auto* sums = static_cast<double*>(context.workspace(int64_t{blocks} * 8));
  int32_t* chosen = arguments.chosen.as<int32_t>() + arguments.step;
  (whole_vectors(rows) ? closest_to_latest<true> : closest_to_latest<false>)<<<blocks, kPoints, 0, context.stream>>>(
      rows.as<float>(), rows.row_stride, rows.rows, static_cast<int>(rows.columns), chosen - 1, arguments.step == 1,
      arguments.closest.as<float>(), sums);
  CBTM_CUDA_LAUNCHED("closest_to_latest");
  draw_from_closest<<<1, kDrawThreads, 0, context.stream>>>({.closest = arguments.closest.as<float>(),
                                                             .count = rows.rows,
                                                             .sums = sums,
                                                             .sum_count = static_cast<int>(blocks),
                                                             .uniform = arguments.uniform,
                                                             .otherwise = static_cast<int32_t>(arguments.otherwise)},
                                                            chosen);
  CBTM_CUDA_LAUNCHED("draw_from_closest");
}

void sum_in_order(Context& context, ConstTensorView values, TensorView sum) {
  const auto blocks = static_cast<unsigned>(
      std::clamp<int64_t>(ceil_divide(values.columns, int64_t{4} * kSumThreads), 1, int64_t{2} * context.sm_count));
  auto* partials = static_cast<Partial*>(context.workspace(int64_t{blocks} * static_cast<int64_t>(sizeof(Partial))));
  sum_pieces<<<blocks, kSumThreads, 0, context.stream>>>(values.as<float>(), values.columns, partials);
  CBTM_CUDA_LAUNCHED("sum_pieces");
  join_pieces<<<1, kSumThreads, 0, context.stream>>>(partials, static_cast<int>(blocks), values.as<float>(),
                                                     values.columns, sum.as<double>());
  CBTM_CUDA_LAUNCHED("join_pieces");
}

}  // namespace cbtm::cuda
