#pragma once

#include <algorithm>
#include <cstdint>

#include "cbtm/base/half_types.h"
#include "cbtm/device/tensor.h"
#include "dispatch.h"
#include "elements.cuh"

namespace cbtm::cuda {

// Two blocks of them leave 80 registers a thread where it holds 8 values, one block 168 where it holds more.
constexpr int kRowBlockThreads = 384;

/// How threads share the rows of a matrix: blockDim.x threads a row, blockDim.y rows at a time, and blocks that go on
/// to further rows. A thread has the same columns in each row: packs of kLength neighbours, pack v of thread t at
/// column (v * threads + t) * kLength, so that a warp's access is one contiguous piece.
struct RowThreads {
  int threads = 0;
  int rows = 0;
  int blocks = 0;
  int values = 0;  ///< elements a thread holds: 8, 16 or 32

  /// No fewer than are planned for so many rows, or for fewer.
  static int64_t blocks_max(int64_t rows, int sm_count) { return std::min<int64_t>(rows, int64_t{2} * sm_count); }
  /// The fewest values a thread that fit a row into a block; as many rows a block as it has room for while every
  /// multiprocessor gets two blocks.
  static RowThreads plan(int64_t rows, int64_t width, int length, int sm_count) {
    RowThreads plan;
    for (plan.values = 8; plan.values < 32; plan.values *= 2)
      if (width <= int64_t{plan.values} * kRowBlockThreads) break;
    CBTM_ASSERT(width <= int64_t{plan.values} * kRowBlockThreads, "the widest row was checked by the caller");
    const int packs = plan.values / length;
    plan.threads = static_cast<int>(round_up(ceil_divide(ceil_divide(width, length), packs), 32));
    const int64_t wanted = 2 * static_cast<int64_t>(sm_count);
    plan.rows = static_cast<int>(std::clamp<int64_t>(ceil_divide(rows, wanted), 1, kRowBlockThreads / plan.threads));
    plan.blocks = static_cast<int>(std::min(ceil_divide(rows, plan.rows), wanted));
    return plan;
  }
  int64_t padded_width() const { return int64_t{threads} * values; }
};

/// Calls function.operator()<kValues>() for the planned number of values a thread.
template <typename Function>
void dispatch_values(int values, const Function& function) {
  switch (values) {
    case 8: return function.template operator()<8>();
    case 16: return function.template operator()<16>();
    case 32: return function.template operator()<32>();
    default: CBTM_ASSERT(false, "RowThreads plans 8, 16 or 32 values");
  }
}

/// Where a row of float32 values of the columns lies in shared memory: four values of a thread side by side, threads
/// next to each other, so that reading a thread's own values takes 16-byte accesses without bank conflicts.
template <int kLength>
__device__ int slot_of_column(int column, int threads) {
  const int pack = column / kLength;
  const int value = pack / threads * kLength + column % kLength;
  return (value / 4 * threads + pack % threads) * 4 + value % 4;
}

/// The values 4 * quad .. 4 * quad + 3 of the calling thread.
__device__ inline float4& own_slot(float* row, int quad) {
  return reinterpret_cast<float4*>(row)[quad * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)];
}

/// A vector of any floating type: one value at a time, for staging into shared memory.
struct AnyVector {
  const void* data = nullptr;
  DType dtype = DType::f32;

  AnyVector() = default;
  explicit AnyVector(ConstTensorView view) : data(view.data), dtype(view.dtype) {}

  __device__ float at(int place) const {
    if (dtype == DType::bf16) return widened(static_cast<const bf16*>(data)[place]);
    if (dtype == DType::f16) return widened(static_cast<const f16*>(data)[place]);
    return static_cast<const float*>(data)[place];
  }
};

/// row[slot of column] = vector[column], or `missing` where the vector is not given; zero beyond the width.
template <int kLength>
__device__ void stage_vector(const AnyVector& vector, float missing, int width, int padded_width, float* row) {
  const int threads = static_cast<int>(blockDim.x);
  for (int column = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); column < padded_width;
       column += static_cast<int>(blockDim.x * blockDim.y)) {
    float value = 0;
    if (column < width) value = vector.data != nullptr ? vector.at(column) : missing;
    row[slot_of_column<kLength>(column, threads)] = value;
  }
}

}  // namespace cbtm::cuda
